"""State that traced steps use and that no component declares: variables in containers, closures and modules; operations
that keep a state of their own.

    captured_variables(graphs, known)   the variables, to be saved with the others
    operation_notes(graphs)             what to report of operations; raises JobFailure where one keeps a state
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import tensorflow as tf

from tapeworks.errors import FailureCode, JobFailure
from tapeworks_workers.engine.diagnostics import source_locations as places
from tapeworks_workers.engine.diagnostics.retracing import Note
from tapeworks_workers.engine.graph.tensorflow_private import variable_of

RANDOM = frozenset(
    {
        "RandomUniform", "RandomUniformInt", "RandomStandardNormal", "TruncatedNormal", "ParameterizedTruncatedNormal",
        "RandomGamma", "RandomPoisson", "RandomPoissonV2", "RandomShuffle", "RandomCrop", "Multinomial",
        "SampleDistortedBoundingBox", "SampleDistortedBoundingBoxV2", "UniformCandidateSampler", "AllCandidateSampler",
        "LogUniformCandidateSampler", "LearnedUnigramCandidateSampler", "FixedUnigramCandidateSampler",
        "ThreadUnsafeUnigramCandidateSampler", "NonDeterministicInts",
    }
)  # fmt: skip
"""Operations whose kernels count their own draws."""
_KEPT = ("LookupTableInsert", "LookupTableRemove", "LookupTableImport", "QueueEnqueue", "QueueDequeue", "BarrierInsert")
"""Operations that change what a table or queue holds."""
_PYTHON = frozenset({"PyFunc", "PyFuncStateless", "EagerPyFunc"})


def captured_variables(graphs: Iterable[Any], known: Iterable[tf.Variable]) -> dict[str, tf.Variable]:
    """`captured/N` → variable, in the order in which the graphs use them; those in `known` are left out."""
    seen = {id(variable.handle) for variable in known}
    found: dict[str, tf.Variable] = {}
    for graph in graphs:
        for handle, _ in graph.captures:
            if handle.dtype != tf.resource or id(handle) in seen:
                continue
            seen.add(id(handle))
            name = f"captured/{len(found)}"
            if (variable := variable_of(handle, name)) is not None:
                found[name] = variable
    return found


def operation_notes(graphs: Iterable[Any]) -> list[Note]:
    """What to report of operations whose state no checkpoint may hold: Python code, once.

    Raises JobFailure `nondeterministic_op` for the first of those that certainly keep one.
    """
    notes: list[Note] = []
    for operation in _operations(graphs):
        if operation.type in RANDOM:
            raise JobFailure(
                FailureCode.NONDETERMINISTIC_OP,
                f"{operation.type} draws random numbers from a state that no checkpoint holds, and a deterministic job "
                "must resume exactly",
                hint="In a step, draw from run.random_normal or run.random_uniform; in a layer, loss or metric, from "
                "keras.random with a keras.random.SeedGenerator, or from a tf.random.Generator that it keeps. Or set "
                "training.deterministic to false.",
                location=places.of_operation(operation),
            )
        if operation.type.startswith(_KEPT):
            raise JobFailure(
                FailureCode.NONDETERMINISTIC_OP,
                f"{operation.type} changes a table or queue while it trains, which no checkpoint holds, and a "
                "deterministic job must resume exactly",
                hint="Keep what changes in a tf.Variable, or set training.deterministic to false.",
                location=places.of_operation(operation),
            )
        if operation.type in _PYTHON and not notes:
            notes.append(
                Note(
                    "inexact_resume",
                    "a step runs Python code (tf.py_function or tf.numpy_function): if it keeps state, no checkpoint "
                    "holds it, and a job that is resumed ends with other weights",
                    "Write it with TensorFlow's operations. Where it keeps no state and draws no random numbers, a "
                    "resumed job is exact and nothing needs to be done.",
                    places.of_operation(operation),
                )
            )
    return notes


def _operations(graphs: Iterable[Any]) -> Iterator[tf.Operation]:
    """All operations, inside branches, loops and functions too, each function once."""
    seen: set[int] = set()
    waiting = list(graphs)
    while waiting:
        graph = waiting.pop()
        if graph is None or id(graph) in seen:
            continue
        seen.add(id(graph))
        yield from graph.get_operations()
        waiting += [getattr(function, "graph", None) for function in getattr(graph, "_functions", {}).values()]
