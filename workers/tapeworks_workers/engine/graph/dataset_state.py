"""State that datasets keep between elements and passes, found by reading their graphs: nothing is run.

A checkpoint holds the job's variables and the state of the training iterator. What a function inside tf.data writes
elsewhere is in neither, and runs ahead of training: a resumed job would see other elements. `find(dataset)` names it.

Every finding is an operation that is in the graph; whether a Python function keeps state cannot be read, so a finding
of the kind `python` says only that it may.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import tensorflow as tf
from tensorflow.python.data.ops.cache_op import CacheDataset
from tensorflow.python.data.ops.directed_interleave_op import _DirectedInterleaveDataset
from tensorflow.python.data.ops.take_op import _TakeDataset
from tensorflow.python.framework import op_def_registry

_HARMLESS = frozenset(
    "Assert Print PrintV2 ReadVariableOp VarHandleOp VarIsInitializedOp VariableShape LookupTableFindV2 "
    "LookupTableSizeV2 HashTableV2 AnonymousHashTable InitializeTableV2 InitializeTableFromTextFileV2 "
    "LookupTableExportV2 ResourceGather "
    "ResourceGatherNd Placeholder If While Case StatefulPartitionedCall PartitionedCall GeneratorDataset "
    "DummySeedGenerator DummyMemoryCache NoOp ReadFile MatchingFiles DecodeProtoV2 TensorArrayV3 TensorArrayWriteV3 "
    "TensorArrayReadV3 TensorArrayGatherV3 TensorArrayScatterV3 TensorArraySizeV3 TensorArrayCloseV3 "
    "StatelessRandomGetKeyCounter StatelessRandomGetAlg StatelessRandomGetKeyCounterAlg".split()
)
_PYTHON = frozenset({"PyFunc", "EagerPyFunc", "PyFuncStateless"})
_RANDOM = ("Random", "Multinomial", "TruncatedNormal", "Stateful", "Rng", "NonDeterministic", "SampleDistorted")


@dataclass(frozen=True)
class Found:
    """One thing that keeps state."""

    kind: str
    """`random`, `variable`, `table`, `python`, `shuffle`, `file` or `other`."""
    what: str
    """The operation, and the variable where there is one."""


def find(dataset: tf.data.Dataset, *, until: tf.data.Dataset | None = None) -> list[Found]:
    """What a dataset keeps beside the state of its iterator, less what the dataset `until` below it does."""
    found: dict[Found, None] = {}
    if reshuffles(dataset, until=until):
        found[Found("shuffle", "a shuffle whose order changes in each pass")] = None
    for node in _nodes(dataset, until):
        if getattr(node, "_rerandomize", False):
            found[Found("random", "random numbers that change in each pass")] = None
        if isinstance(node, CacheDataset) and _filename(node):
            found[Found("file", f"a cache in the file {_filename(node)}")] = None
        for wrapper in node._functions():
            found |= dict.fromkeys(_of_graph(wrapper.function.graph))
    return list(found)


def reshuffles(dataset: tf.data.Dataset, *, until: tf.data.Dataset | None = None) -> bool:
    """Whether each iteration gives another order: one that shuffles below a cache does so once."""
    return any(map(_reshuffles, _nodes(dataset, until, below_caches=False)))


def caches(dataset: tf.data.Dataset, *, until: tf.data.Dataset | None = None) -> bool:
    """Whether it keeps elements from one iteration to the next."""
    return any(isinstance(node, CacheDataset) for node in _nodes(dataset, until))


def hangs_once_restored(dataset: tf.data.Dataset) -> bool:
    """Whether the state of its iterator must not be restored.

    TensorFlow's `sample_from_datasets` and `choose_from_datasets` forget which of their inputs had ended: a restored
    iterator looks for a next element for ever, unless something takes a number of elements from it.
    """
    return any(
        isinstance(node, _DirectedInterleaveDataset) and not node._stop_on_empty_dataset
        for above in [None, *_nodes(dataset, None)]
        for node in ([dataset] if above is None else [] if isinstance(above, _TakeDataset) else above._inputs())
    )


def _nodes(dataset: Any, until: Any, *, below_caches: bool = True) -> Iterator[Any]:
    """The dataset and those it is made of."""
    waiting, seen = [dataset], set()
    while waiting:
        node = waiting.pop()
        if node is until or id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if below_caches or not isinstance(node, CacheDataset):
            waiting += node._inputs()


def _reshuffles(node: Any) -> bool:
    return type(node).__name__ == "_ShuffleDataset" and node._reshuffle_each_iteration is not False


def _filename(node: Any) -> str:
    value = tf.get_static_value(node._filename)
    return value.decode(errors="replace") if isinstance(value, bytes) else ""


def _of_graph(graph: Any) -> Iterator[Found]:
    definition = graph.as_graph_def()
    captured = {inner.op.name: outer for outer, inner in graph.captures}
    bodies = [definition.node, *(function.node_def for function in definition.library.function)]
    for number, nodes in enumerate(bodies):
        for node in nodes:
            kind = _kind(node.op)
            if kind is not None:
                name = _variable(node, captured) if number == 0 else ""
                yield Found(kind, f"{node.op} of {name}" if name else node.op)


def _variable(node: Any, captured: dict[str, Any]) -> str:
    """The name of the variable that an operation writes."""
    for given in node.input:
        outer = captured.get(given.partition(":")[0])
        handle = None if outer is None or outer.dtype != tf.resource else getattr(outer, "_handle_data", None)
        if handle is not None:
            text = str(outer)
            _, _, rest = text.partition('ResourceHandle(name="')
            return rest.partition('"')[0].rpartition("/")[0] or rest.partition('"')[0]
    return ""


@cache
def _kind(operation: str) -> str | None:
    """What kind of state an operation keeps; None for none."""
    definition = op_def_registry.get(operation)
    if operation in _PYTHON:
        return "python"
    stateful = definition is not None and definition.is_stateful
    if not stateful or operation in _HARMLESS or operation.endswith(("Dataset", "DatasetV2", "DatasetV3", "DatasetV4")):
        return None
    if operation.startswith(("Assign", "Resource")):
        return "variable"
    if operation.startswith(_RANDOM) or "CandidateSampler" in operation:
        return "random"
    if "Table" in operation:
        return "table"
    return "other"
