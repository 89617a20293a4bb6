"""Floating point operations of a graph, by TensorFlow's own statistics for each kind of operation.

The graph must know every shape. What has no statistics and multiplies matrices is counted here; what is done a
number of times that only running tells (a `while`) makes the whole unknown.
"""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import ops
from tensorflow.python.util import deprecation

_CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
_BRANCHES = frozenset({"If", "StatelessIf", "Case", "StatelessCase"})
_LOOPS = frozenset({"While", "StatelessWhile"})
_UNKNOWN = frozenset(
    {
        *("SparseTensorDenseMatMul", "SparseMatMul", "CudnnRNNV3"),
        *("DepthwiseConv2dNativeBackpropFilter", "DepthwiseConv2dNativeBackpropInput"),
        *("Conv3DBackpropInputV2", "Conv3DBackpropFilterV2"),
    }
)
"""They compute much and have no statistics."""


def flops(graph: tf.Graph) -> int | None:
    """Operations of one run; None where that cannot be known."""
    total = 0
    for operation in graph.get_operations():
        count = _of(operation, graph)
        if count is None:
            return None
        total += count
    return total


def _of(operation: tf.Operation, graph: Any) -> int | None:
    if operation.type in _UNKNOWN:
        return None
    if operation.type == "Einsum":
        return _einsum(operation)
    if operation.type in _CALLS | _BRANCHES | _LOOPS:
        return _nested(operation, graph)
    try:
        with deprecation.silence():  # TensorFlow's own statistics use what it calls deprecated
            statistics = ops.get_stats_for_node_def(graph, operation.node_def, "flops")
    except (ValueError, TypeError, AttributeError):  # a shape that the graph does not know
        return None
    return int(statistics.value or 0)


def _nested(operation: tf.Operation, graph: Any) -> int | None:
    """Of a call its function's, of a branch the longer one's, of a loop unknown unless there is nothing to count."""
    inner = [flops(graph._get_function(name).graph) for name in _functions(operation)]
    if operation.type in _LOOPS:
        return 0 if all(count == 0 for count in inner) else None
    known = [count for count in inner if count is not None]
    return max(known, default=0) if len(known) == len(inner) else None


def _functions(operation: tf.Operation) -> list[str]:
    names = []
    for attribute in operation.node_def.attr.values():
        names += [attribute.func.name] if attribute.func.name else [item.name for item in attribute.list.func]
    return names


def _einsum(operation: tf.Operation) -> int | None:
    """Two for each product: the sizes of all its letters multiplied."""
    terms = operation.get_attr("equation").decode().split("->")[0].split(",")
    if any("..." in term for term in terms):
        return None
    sizes: dict[str, int | None] = {}
    for term, tensor in zip(terms, operation.inputs, strict=True):
        sizes.update(zip(term, tensor.shape.as_list(), strict=True))
    known = [size for size in sizes.values() if size is not None]
    return 2 * math.prod(known) if len(known) == len(sizes) else None
