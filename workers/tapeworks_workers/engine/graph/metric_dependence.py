"""Which scalars of a step are computed from the state of metrics: these are reported as they were last.

A metric's result is an average over the epoch already. Averaging it again over the steps would weigh the first batches
more than the last.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

_CALLS = {
    "PartitionedCall": ("f",),
    "StatefulPartitionedCall": ("f",),
    "If": ("then_branch", "else_branch"),
    "StatelessIf": ("then_branch", "else_branch"),
}
"""Operation → its attributes that name functions."""


class MetricState:
    """The variables of some metrics, as a graph or a tape sees them."""

    def __init__(self, metrics: Iterable[keras.metrics.Metric]) -> None:
        self._variables = [variable.value for metric in metrics for variable in metric.variables]

    def dependents(self, scalars: Mapping[str, Any]) -> set[str]:
        """The names of the scalars of the graph being traced that are computed from the metrics' variables."""
        handles = {id(variable.handle) for variable in self._variables}
        graph = tf.compat.v1.get_default_graph()
        sources = {inner.name for outer, inner in graph.captures if id(outer) in handles}
        reached = _reached(graph, sources) if sources else set()
        return {name for name, value in scalars.items() if value.name in reached}

    @contextlib.contextmanager
    def watching(self) -> Iterator[tf.GradientTape]:
        """A tape around a step without a graph."""
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            for variable in self._variables:
                tape.watch(variable)
            yield tape

    def dependents_by_tape(self, tape: tf.GradientTape, scalars: Mapping[str, Any]) -> set[str]:
        """The same for a step without a graph, which ran under `tape`, persistent and watching the variables."""
        found = set()
        for name, value in scalars.items():
            gradients = tape.gradient(value, self._variables) if value.dtype.is_floating else []
            # Of a function that reads them for another of its results, a gradient is zero, not None.
            if any(one is not None and bool(tf.reduce_any(one != 0)) for one in gradients):
                found.add(name)
        return found


def _reached(graph: Any, sources: set[str]) -> set[str]:
    """The names of the graph's tensors that are computed from `sources`."""
    reached = set(sources)
    for operation in graph.get_operations():  # in the order in which they were made, so after their inputs
        marked = [tensor.name in reached for tensor in operation.inputs]
        if any(marked):
            through = _through(graph, operation, marked)
            reached |= {tensor.name for tensor, hit in zip(operation.outputs, through, strict=True) if hit}
    return reached


def _through(graph: Any, operation: tf.Operation, marked: Sequence[bool]) -> list[bool]:
    """Which outputs are computed from the marked inputs: of a call, what its function says."""
    everything = [True] * len(operation.outputs)
    names = [operation.get_attr(attribute).name for attribute in _CALLS.get(operation.type, ())]
    if operation.type in ("If", "StatelessIf"):
        if marked[0]:  # which branch runs depends on them
            return everything
        marked = marked[1:]
    functions = [graph._get_function(name) for name in names]
    if not functions or any(getattr(function, "graph", None) is None for function in functions):
        return everything
    found = [False] * len(operation.outputs)
    for inner in (function.graph for function in functions):
        sources = {tensor.name for tensor, mark in zip(inner.inputs, marked, strict=True) if mark}
        reached = _reached(inner, sources)
        found = [hit or tensor.name in reached for hit, tensor in zip(found, inner.outputs, strict=True)]
    return found
