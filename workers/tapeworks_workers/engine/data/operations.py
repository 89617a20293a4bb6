"""The operations of `data.pipeline`, applied to a tf.data.Dataset under their own names.

A pass is one iteration over the training split. What must differ from pass to pass (a shuffle's
order, the seeds of a random `map`) is derived from the job's seed and the pass's number, never from
state inside tf.data: a resumed job rebuilds pass 7 exactly by asking for pass 7.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf

from tapeworks.errors import FailureCode, JobFailure, Location
from tapeworks.spec import pipeline_ops as spec_operations
from tapeworks.spec.pipeline_ops import function_kind
from tapeworks_workers.engine.data import batching, fields
from tapeworks_workers.engine.factory.build_context import BuildContext
from tapeworks_workers.engine.factory.factory import build
from tapeworks_workers.engine.graph import stateless_random
from tapeworks_workers.engine.graph.autograph import engine_code
from tapeworks_workers.engine.graph.dataset_state import caches, reshuffles
from tapeworks_workers.engine.graph.randomness import derive_seed
from tapeworks_workers.engine.graph.stateless_random import Draws, Position, first_of_pass

AUTOTUNE = tf.data.AUTOTUNE
_OF_EACH = frozenset({"map", "cast", "one_hot", "to_sparse", "to_ragged", "prefetch"})


Apply = Callable[[tf.data.Dataset, int], tf.data.Dataset]
"""(dataset, number of the pass) → the dataset after the operation."""


@dataclass(frozen=True)
class PreparedOp:
    """One operation, ready to be applied: `apply(dataset, number of the pass)`."""

    operation: Any
    apply: Apply
    varies: bool = False
    """Whether it differs from pass to pass."""
    batches: bool = False
    """Whether the function of an `apply` makes batches."""
    seed: int | None = None
    """Of a shuffle."""
    place: str = ""
    """Where the spec names it."""
    function: Any = None
    """Of an `apply`: what is called with the dataset."""
    examine: Callable[[tf.data.Dataset], PreparedOp] | None = None
    """Where only a trace tells what the function does: the operation as it is to be applied to such datasets."""

    def known(self, dataset: tf.data.Dataset, made: tf.data.Dataset) -> PreparedOp:
        """The operation, of which the result for one dataset in pass 0 is there already."""
        apply = self.apply
        return replace(self, apply=lambda given, n: made if given is dataset and n == 0 else apply(given, n))

    @property
    def of_each(self) -> bool:
        """Whether it gives one element for each, whatever the others are: passes may then follow each other."""
        return not self.varies and self.operation.op in _OF_EACH


def prepare(
    operation: Any, *, index: int, seed: int, deterministic: bool, pointer: str, missing_labels: bool = False,
    build_context: BuildContext | None = None,
) -> PreparedOp:  # fmt: skip
    """Build what the operation names. `index` is its place in the pipeline at `pointer`, and part of its seed.
    `missing_labels`: whether y is -1 where a row has no label.

    Raises JobFailure `invalid_spec` for a function that is not there.
    """
    own = derive_seed(seed, operation.op, index)
    place = f"{pointer}/{index} ({operation.op})"
    if hasattr(operation, "function"):
        at = f"{pointer}/{index}/function"
        function = build(operation.function, function_kind(operation.op), pointer=at, context=build_context)
    match operation:
        case spec_operations.Shuffle():
            return _shuffle(operation, own if operation.seed is None else derive_seed(operation.seed, "shuffle", index))
        case spec_operations.Map():
            return _map(operation, function, seed=own, deterministic=deterministic, place=place)
        case spec_operations.Filter():
            return _filter(operation, function, seed=own, place=place)
        case spec_operations.DropMissing():
            return _drop_missing(operation, place=place, missing_labels=missing_labels)
        case spec_operations.Apply():
            return _apply(operation, function, seed=own, place=place)
        case _ if (field_function := _of_field(operation)) is not None:
            return _map(operation, field_function, seed=own, deterministic=deterministic, place=place)
        case _:
            return PreparedOp(operation, lambda dataset, number: _plain(operation, dataset))


def _of_field(operation: Any) -> Callable[[Any], Any] | None:
    """What an operation on one field does to it; None for every other operation."""
    match operation:
        case spec_operations.Cast():
            return functools.partial(fields.cast, dtype=operation.dtype)
        case spec_operations.OneHot():
            return functools.partial(
                fields.one_hot,
                depth=operation.depth,
                dtype=operation.dtype,
                sparse=operation.sparse,
                zeros_outside=operation.outside == "zeros",
            )
        case spec_operations.ToSparse():
            return fields.to_sparse
        case spec_operations.ToRagged():
            return functools.partial(fields.to_ragged, padding=operation.padding)
    return None


def _plain(operation: Any, dataset: tf.data.Dataset) -> tf.data.Dataset:
    match operation:
        case spec_operations.Batch():
            return dataset.batch(operation.batch_size, drop_remainder=operation.drop_remainder)
        case spec_operations.PaddedBatch():
            return batching.padded_batch(operation, dataset)
        case spec_operations.RaggedBatch():
            return batching.ragged_batch(dataset, operation.batch_size, drop_remainder=operation.drop_remainder)
        case spec_operations.BucketBySequenceLength():
            return batching.bucketed(operation, dataset)
        case spec_operations.Rebatch():
            return dataset.rebatch(operation.batch_size, drop_remainder=operation.drop_remainder)
        case spec_operations.Unbatch():
            return dataset.unbatch()
        case spec_operations.Cache():
            return dataset.cache()
        case spec_operations.Repeat():
            return dataset.repeat(operation.count)
        case spec_operations.Take():
            return dataset.take(operation.count)
        case spec_operations.Skip():
            return dataset.skip(operation.count)
        case spec_operations.Prefetch():
            return dataset.prefetch(operation.buffer_size or AUTOTUNE)
    raise JobFailure(FailureCode.NOT_SUPPORTED, f"the pipeline operation {operation.op!r} is not supported yet")


def _shuffle(operation: Any, seed: int) -> PreparedOp:
    def shuffle(dataset: tf.data.Dataset, number: int) -> tf.data.Dataset:
        return dataset.shuffle(operation.buffer_size, seed=derive_seed(seed, number))

    return PreparedOp(operation, shuffle, varies=True, seed=seed)


# ── functions ────────────────────────────────────────────────────────────────────────────────────


def takes_seed(function: Callable[..., Any]) -> bool:
    """Whether a function has an argument `seed` that its config does not fill."""
    if isinstance(function, functools.partial) and "seed" in function.keywords:
        return False
    try:
        return "seed" in inspect.signature(function).parameters
    except ValueError:
        return False


def _map(operation: Any, function: Callable[..., Any], *, seed: int, deterministic: bool, place: str) -> PreparedOp:
    options: dict[str, Any] = {"num_parallel_calls": AUTOTUNE, "deterministic": deterministic}

    def call(given: Callable[..., Any], element: tuple[Any, ...]) -> Any:
        return fields.on_element(given, element, operation.field)

    def through(dataset: tf.data.Dataset, traced: Any, indexed: bool) -> tf.data.Dataset:
        return dataset.map(traced, **options)

    return _on_elements(operation, function, call, through, seed=seed, place=place)


def _filter(operation: Any, function: Callable[..., Any], *, seed: int, place: str) -> PreparedOp:
    name = operation.function.component

    def verdict(predicate: Callable[..., Any], element: tuple[Any, ...]) -> tf.Tensor:
        given = element if operation.field is None else (fields.pick(element, operation.field),)
        kept = tf.convert_to_tensor(fields.on_element(predicate, given, None))
        if kept.dtype != tf.bool or kept.shape.rank not in (0, None):
            raise JobFailure(
                FailureCode.COMPONENT_ERROR,
                f"filter: {name!r} must return one bool for each element, not {kept.dtype.name} of shape {kept.shape}",
                hint="Put filter before the batching operation, and reduce with tf.reduce_all or tf.reduce_any.",
                location=Location(component=name),
            )
        return kept

    def through(dataset: tf.data.Dataset, traced: Any, indexed: bool) -> tf.data.Dataset:
        return dataset.filter(traced).map(_element) if indexed else dataset.filter(traced)

    return _on_elements(operation, function, verdict, through, seed=seed, place=place)


def _drop_missing(operation: Any, *, place: str, missing_labels: bool) -> PreparedOp:
    @engine_code
    def complete(*element: Any) -> tf.Tensor:
        return fields.complete(element, operation.fields, missing_labels=missing_labels)

    return PreparedOp(operation, lambda dataset, number: dataset.filter(complete), place=place)


Call = Callable[[Callable[..., Any], tuple[Any, ...]], Any]
"""(function, parts of an element) → what `map` or `filter` takes."""
Through = Callable[[tf.data.Dataset, Any, bool], tf.data.Dataset]
"""(dataset, traced function, whether elements are (index, element)) → the dataset after it."""


def _on_elements(
    operation: Any, function: Callable[..., Any], call: Call, through: Through, *, seed: int, place: str
) -> PreparedOp:
    """An operation that calls a function on each element."""
    seeded = takes_seed(function)
    own = is_own(operation)

    def plain(dataset: tf.data.Dataset, draws: Draws) -> tf.data.Dataset:
        @engine_code
        def traced(*element: Any) -> Any:
            with draws.recorded() if own else contextlib.nullcontext():
                return call(function, element)

        with stateless_random.seeded(seed):
            return through(dataset, traced, False)

    def given_seeds(dataset: tf.data.Dataset, number: int) -> tf.data.Dataset:
        @engine_code
        def traced_at(index: tf.Tensor, element: Any) -> Any:
            position = Position(seed, first_of_pass(number) + index, None)
            with Draws(position).recorded() if own else contextlib.nullcontext():
                return call(_seeded(function, seed, number, index), _parts(element))

        with stateless_random.seeded(seed):
            return through(dataset.enumerate(), traced_at, True)

    def drawing(counts: Mapping[Any, int], size: int) -> Apply:
        # Traced once, whatever the pass is: a layer of Keras may take a second.
        @tf.function(autograph=False)
        def on_place(place: tf.Tensor, element: Any) -> Any:
            with Draws(Position(seed, place, size if size >= 0 else None, counts)).recorded():
                return call(function, _parts(element))

        def apply(dataset: tf.data.Dataset, number: int) -> tf.data.Dataset:
            with stateless_random.seeded(seed):
                return through(dataset.enumerate(first_of_pass(number)), engine_code(on_place), True)

        return apply

    def examine(dataset: tf.data.Dataset) -> PreparedOp:
        draws = Draws()
        made = plain(dataset, draws)
        if not draws.counts:
            known = PreparedOp(operation, lambda given, number: plain(given, Draws()), place=place)
            return known.known(dataset, made)
        apply = drawing(draws.of_an_element(), int(dataset.cardinality()))
        return PreparedOp(operation, apply, varies=True, place=place)

    if seeded:
        return PreparedOp(operation, given_seeds, varies=True, place=place)
    return PreparedOp(
        operation, lambda dataset, number: plain(dataset, Draws()), examine=examine if own else None, place=place
    )


def is_own(operation: Any) -> bool:
    """Whether an operation names a function of a user's: those that we ship draw from the seed they are given."""
    return hasattr(operation, "function") and "/" in operation.function.component


def _seeded(function: Callable[..., Any], seed: int, number: int, index: tf.Tensor) -> Callable[..., Any]:
    """Stateless: pass and index make the element's seed, so the iterator can be saved and rebuilt."""
    return functools.partial(function, seed=tf.stack([tf.constant(derive_seed(seed, number), tf.int64), index]))


def _parts(element: Any) -> tuple[Any, ...]:
    return element if isinstance(element, tuple) else (element,)


@engine_code
def _element(index: tf.Tensor, element: Any) -> Any:
    return element


def _apply(operation: Any, function: Callable[..., Any], *, seed: int, place: str) -> PreparedOp:
    name = operation.function.component
    seeded = takes_seed(function)

    def apply(dataset: tf.data.Dataset, number: int) -> tf.data.Dataset:
        with stateless_random.seeded(seed, number):
            result = function(dataset, seed=derive_seed(seed, number)) if seeded else function(dataset)
        if not isinstance(result, tf.data.Dataset):
            raise JobFailure(
                FailureCode.COMPONENT_ERROR,
                f"apply: {name!r} must return a tf.data.Dataset, not {type(result).__name__}",
                location=Location(component=name),
            )
        return result

    batches = bool(getattr(function, "batched", False))

    def examine(dataset: tf.data.Dataset) -> PreparedOp:
        made = apply(dataset, 0)
        # Built anew for each pass, it shuffles as the pass says; a cache of its own would be lost with it.
        anew = reshuffles(made, until=dataset) and not caches(made, until=dataset)
        return PreparedOp(operation, apply, anew, batches, place=place, function=function).known(dataset, made)

    settled = seeded or not is_own(operation)
    return PreparedOp(
        operation, apply, seeded, batches, examine=None if settled else examine, place=place, function=function
    )
