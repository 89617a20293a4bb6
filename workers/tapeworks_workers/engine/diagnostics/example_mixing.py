"""Finds operations that combine different examples by accident, in the graph of a loss or a metric.

TensorFlow broadcasts y of shape (n, 1) against outputs of shape (n,) to (n, n): every example meets every other, and
nothing raises. Here the position of the example axis is followed from y, the outputs and the sample weights through
the operations that a call added to the graph. Only what is known for certain is followed: an operation that may move
the axis in another way (a transpose, a tile, a matmul) ends the trail, and nothing is reported behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import tensorflow as tf

from tapeworks.errors import FailureCode, Location
from tapeworks_workers.engine.diagnostics import source_locations as places
from tapeworks_workers.engine.diagnostics.retracing import Note

Y, OUTPUTS, WEIGHTS = "y", "outputs", "sample weights"

_ELEMENTWISE = frozenset(
    "Add AddV2 Sub Mul MulNoNan RealDiv Div DivNoNan FloorDiv FloorMod SquaredDifference Maximum Minimum Pow Xlogy "
    "Xdivy Xlog1py Atan2 Equal NotEqual Greater GreaterEqual Less LessEqual LogicalAnd LogicalOr SelectV2 "
    "ClipByValue".split()
)
_ONE_BY_ONE = frozenset(
    "Cast Identity StopGradient PreventGradient Snapshot CheckNumerics EnsureShape Neg Abs Sign Square Sqrt Rsqrt Exp "
    "Expm1 Log Log1p Reciprocal Inv Sigmoid Tanh Relu Relu6 Elu Selu LeakyRelu Softplus Softsign Softmax LogSoftmax "
    "LogicalNot Round Rint Floor Ceil IsNan IsInf IsFinite Erf Erfc Sin Cos Tan Asin Acos Atan Sinh Cosh Digamma "
    "Lgamma ZerosLike OnesLike".split()
)
_REDUCTIONS = frozenset("Sum Mean Max Min Prod All Any EuclideanNorm ArgMax ArgMin".split())
_ONE_PER_ROW = frozenset({"SoftmaxCrossEntropyWithLogits", "SparseSoftmaxCrossEntropyWithLogits"})


@dataclass(frozen=True)
class Trail:
    """A tensor whose example axis is known: where it comes from, its rank, and the axis."""

    roots: frozenset[str]
    rank: int
    axis: int = 0
    reshaped: bool = False
    """Dimensions of 1 were dropped or doubled on the way."""
    expanded: bool = False
    """The author added an axis on the way: pairs may be what is meant."""

    @property
    def from_right(self) -> int:
        """The example axis as broadcasting counts."""
        return self.rank - self.axis


@dataclass(frozen=True)
class Crossing:
    """An operation that combines examples with other examples."""

    operation: tf.Operation
    left: Trail
    right: Trail
    shapes: tuple[str, str]

    @property
    def certain(self) -> bool:
        """Whether nothing on the way says that pairs may be meant."""
        return not (self.left.reshaped or self.right.reshaped or self.left.roots & self.right.roots)

    def described(self) -> str:
        """`broadcasts y of shape (n, 1) against outputs of shape (n,)`, y first."""
        sides = [(_named(t.roots), shape) for t, shape in zip((self.left, self.right), self.shapes, strict=True)]
        (one, first), (other, second) = sorted(sides, key=lambda side: [Y, OUTPUTS, WEIGHTS, side[0]].index(side[0]))
        return f"broadcasts {one} of shape {first} against {other} of shape {second}"


def _named(roots: frozenset[str]) -> str:
    return next(iter(roots)) if len(roots) == 1 else "a value of " + " and ".join(sorted(roots, reverse=True))


def crossings(operations: Iterable[tf.Operation], roots: Mapping[str, tuple[str, int]]) -> Iterator[Crossing]:
    """Every accidental combination among `operations`, in order. `roots`: tensor's name → (what it is, its rank)."""
    yield from _crossings(operations, {name: Trail(frozenset({what}), rank) for name, (what, rank) in roots.items()})


def _crossings(operations: Iterable[tf.Operation], trails: dict[str, Trail]) -> Iterator[Crossing]:
    for operation in operations:
        known = [trails.get(tensor.name) for tensor in operation.inputs]
        if not any(known):
            continue
        if operation.type in ("PartitionedCall", "StatefulPartitionedCall"):  # a tf.function of the author's
            yield from _inside(operation, known, trails)
            continue
        if operation.type in _ELEMENTWISE and (found := _crossing(operation, known)) is not None:
            yield found
            continue
        trail = _followed(operation, known)
        if trail is not None:
            trails[operation.outputs[0].name] = trail


def _inside(operation: tf.Operation, known: Sequence[Trail | None], trails: dict[str, Trail]) -> Iterator[Crossing]:
    inner = operation.graph._get_function(operation.get_attr("f").name).graph
    within = {tensor.name: trail for tensor, trail in zip(inner.inputs, known, strict=True) if trail is not None}
    yield from _crossings(inner.get_operations(), within)
    for given, tensor in zip(inner.outputs, operation.outputs, strict=True):
        if given.name in within:
            trails[tensor.name] = within[given.name]


def _crossing(operation: tf.Operation, known: Sequence[Trail | None]) -> Crossing | None:
    followed = [(trail, tensor) for trail, tensor in zip(known, operation.inputs, strict=True) if trail is not None]
    for index, (left, one) in enumerate(followed):
        for right, other in followed[index + 1 :]:
            alone = left.roots == right.roots and len(left.roots) == 1  # a value with itself: pairs are meant
            if left.from_right != right.from_right and not (alone or left.expanded or right.expanded):
                return Crossing(operation, left, right, (_shape(one, left), _shape(other, right)))
    return None


def _shape(tensor: tf.Tensor, trail: Trail) -> str:
    sizes = tensor.shape.as_list() if tensor.shape.rank == trail.rank else [None] * trail.rank
    names = ["n" if index == trail.axis else "?" if size is None else str(size) for index, size in enumerate(sizes)]
    return f"({names[0]},)" if len(names) == 1 else f"({', '.join(names)})"


def note_of(crossing: Crossing, what: str, component: str) -> Note:
    """What a user reads of it. `what`: `loss 'acme/Squared'`."""
    place = places.of_tensor(crossing.operation.outputs[0]) or Location(component=component)
    return Note(
        FailureCode.BROADCAST_LOSS,
        f"{what} {crossing.described()}: every example is combined with every other",
        "Give both the same shape, in the data or in the call: tf.squeeze(y_pred, -1), or y_true[:, None]. If pairs "
        "are meant, set the attribute pairwise = True on its class or function.",
        place,
    )


def without_examples(y_true: tf.Tensor, y_pred: tf.Tensor) -> str | None:
    """What is wrong where one of y and outputs has the shape of one example of the other; None elsewhere."""
    if y_true.shape.rank is None or y_pred.shape.rank is None:
        return None
    for (name, one), (other, batch) in (((OUTPUTS, y_pred), (Y, y_true)), ((Y, y_true), (OUTPUTS, y_pred))):
        if one.shape.is_fully_defined() and batch.shape.rank == one.shape.rank + 1 and batch.shape[0] is None:
            if one.shape.rank > 0 and batch.shape[1:].as_list() == one.shape.as_list():
                return (
                    f"{name} of shape {tuple(one.shape)} have no example axis, {other} of shape ({_sizes(batch)}) has"
                )
    return None


def _sizes(tensor: tf.Tensor) -> str:
    return ", ".join(["n", *map(str, tensor.shape.as_list()[1:])])


def declared(measure: Any, attribute: str) -> Any:
    """An attribute of a loss or metric, or of the function behind it; None where neither has it."""
    behind = getattr(measure, "fn", None) or getattr(measure, "_fn", None)
    return next((value for one in (measure, behind) if (value := getattr(one, attribute, None)) is not None), None)


# ── how an operation moves the example axis ──────────────────────────────────────────────────────


def _followed(operation: tf.Operation, known: Sequence[Trail | None]) -> Trail | None:
    """The trail of an operation's first output; None where it ends."""
    first = known[0]
    if operation.type in _ELEMENTWISE:
        return _joined(operation, known)
    if operation.type in _ONE_PER_ROW:
        both = [trail for trail in known if trail is not None]
        if any(trail.axis != 0 for trail in both):
            return None
        return replace(_union(both), rank=1, axis=0)
    if operation.type in ("GatherV2", "ResourceGather", "OneHot"):
        return _picked(operation, known)
    if first is None:
        return None
    if operation.type in _ONE_BY_ONE:
        return first
    if operation.type in _REDUCTIONS:
        return _reduced(operation, first)
    return _reshaped(operation, first)


def _union(trails: Sequence[Trail]) -> Trail:
    return replace(
        trails[0],
        roots=frozenset().union(*(trail.roots for trail in trails)),
        reshaped=any(trail.reshaped for trail in trails),
        expanded=any(trail.expanded for trail in trails),
    )


def _joined(operation: tf.Operation, known: Sequence[Trail | None]) -> Trail | None:
    both = [trail for trail in known if trail is not None]
    ranks = [
        trail.rank if trail is not None else t.shape.rank for trail, t in zip(known, operation.inputs, strict=True)
    ]
    if any(rank is None for rank in ranks) or len({trail.from_right for trail in both}) != 1:
        return None
    rank = max(rank for rank in ranks if rank is not None)
    return replace(_union(both), rank=rank, axis=rank - both[0].from_right)


def _reduced(operation: tf.Operation, trail: Trail) -> Trail | None:
    axes = tf.get_static_value(operation.inputs[1])
    if axes is None:
        return None
    gone = {int(axis) % trail.rank for axis in axes.reshape(-1)}
    if trail.axis in gone:
        return None
    if operation.type not in ("ArgMax", "ArgMin") and operation.get_attr("keep_dims"):
        return trail
    return replace(trail, rank=trail.rank - len(gone), axis=trail.axis - sum(axis < trail.axis for axis in gone))


def _picked(operation: tf.Operation, known: Sequence[Trail | None]) -> Trail | None:
    """Rows of a table by y, an entry of each row by y, a one-hot of y."""
    if operation.type == "OneHot":
        first = known[0]
        return None if first is None or operation.get_attr("axis") != -1 else replace(first, rank=first.rank + 1)
    table, indices = known[0], known[1]
    if indices is None or operation.get_attr("batch_dims") != (0 if table is None else 1):
        return None
    if table is not None:
        each = table.axis == indices.axis == 0 and tf.get_static_value(operation.inputs[2]) == 1
        return replace(_union([table, indices]), rank=table.rank + indices.rank - 2) if each else None
    rank = operation.inputs[0].shape.rank if operation.type == "GatherV2" else operation.outputs[0].shape.rank
    at_front = operation.type == "ResourceGather" or tf.get_static_value(operation.inputs[2]) == 0
    if rank is None or not at_front:
        return None
    return replace(indices, rank=indices.rank + rank - 1 if operation.type == "GatherV2" else rank)


def _reshaped(operation: tf.Operation, trail: Trail) -> Trail | None:
    if operation.type == "Squeeze":
        return _squeezed(operation, trail)
    if operation.type == "ExpandDims":
        at = tf.get_static_value(operation.inputs[1])
        if at is None:
            return None
        where = int(at.reshape(-1)[0]) % (trail.rank + 1)
        sizes = operation.inputs[0].shape
        doubled = where == trail.rank > 1 and sizes.rank == trail.rank and sizes[-1] == 1
        moved = replace(trail, rank=trail.rank + 1, axis=trail.axis + (where <= trail.axis))
        return replace(moved, reshaped=True) if doubled else replace(moved, expanded=True)
    if operation.type == "Reshape":
        before, after = operation.inputs[0].shape, operation.outputs[0].shape
        if before.rank != trail.rank or after.rank is None:
            return None
        old, new = before.as_list(), after.as_list()
        if old == new and old.count(None) == 1:
            return trail
        if old.count(None) == 1 == new.count(None) and [d for d in old if d != 1] == [d for d in new if d != 1]:
            return replace(trail, rank=len(new), axis=new.index(None), reshaped=True)
        return None
    return _sliced(operation, trail) if operation.type == "StridedSlice" else None


def _squeezed(operation: tf.Operation, trail: Trail) -> Trail | None:
    gone = {axis % trail.rank for axis in operation.get_attr("squeeze_dims")}
    if not gone:
        sizes = operation.inputs[0].shape
        if sizes.rank != trail.rank:
            return None
        gone = {axis for axis, size in enumerate(sizes.as_list()) if size == 1}
    if trail.axis in gone:
        return None
    left = replace(trail, rank=trail.rank - len(gone), axis=trail.axis - sum(axis < trail.axis for axis in gone))
    return replace(left, reshaped=True) if gone else left


def _sliced(operation: tf.Operation, trail: Trail) -> Trail | None:
    """`y[:, 0]`: the example axis is taken whole, others may go."""
    mask = {
        name: operation.get_attr(f"{name}_mask") for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")
    }
    steps = tf.get_static_value(operation.inputs[3])
    if mask["ellipsis"] or mask["new_axis"] or steps is None or len(steps) <= trail.axis or steps[trail.axis] != 1:
        return None
    bit = 1 << trail.axis
    if not (mask["begin"] & bit and mask["end"] & bit) or mask["shrink_axis"] & bit:
        return None
    gone = [axis for axis in range(trail.rank) if mask["shrink_axis"] & (1 << axis)]
    before = sum(axis < trail.axis for axis in gone)
    return replace(trail, rank=trail.rank - len(gone), axis=trail.axis - before, reshaped=trail.reshaped or bool(gone))


# ── the graph of a call ──────────────────────────────────────────────────────────────────────────


class Added:
    """The operations that the block adds to the graph being traced; none where nothing is traced."""

    def __init__(self) -> None:
        self.operations: list[tf.Operation] = []

    def __enter__(self) -> Added:
        self._graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        self._before = 0 if self._graph is None else self._graph.num_operations()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._graph is not None:
            self.operations = self._graph.get_operations()[self._before :]

    def roots(self, **tensors: Any) -> dict[str, tuple[str, int]]:
        """What `crossings` starts from: dense tensors whose first axis is the batch; `y=`, `outputs=`, `weights=`."""
        names = {"y": Y, "outputs": OUTPUTS, "weights": WEIGHTS}
        found = {}
        for keyword, tensor in tensors.items():
            if isinstance(tensor, tf.Tensor) and tensor.shape.rank and tensor.shape[0] is None:
                found[self.inside(tensor).name] = (names[keyword], tensor.shape.rank)
        return found

    def inside(self, tensor: tf.Tensor) -> tf.Tensor:
        """A tensor of an outer graph, as a branch or loop body captures it."""
        if tensor.graph is self._graph:
            return tensor
        captures = getattr(self._graph, "captures", ())
        return next((inner for outer, inner in captures if outer is tensor), tensor)


def traced(function: Any, tensors: Sequence[tf.Tensor]) -> tuple[Added, list[tf.Tensor]]:
    """What a function of batches adds to a graph of its own, and the tensors it was given there.

    Nothing where it cannot be traced so: it may need values.
    """
    added = Added()
    with tf.Graph().as_default():
        given = [tf.compat.v1.placeholder(keras.config.floatx(), [None, *one.shape[1:]]) for one in tensors]
        try:
            with added:
                function(*given)
        except Exception:
            added.operations = []
    return added, given
