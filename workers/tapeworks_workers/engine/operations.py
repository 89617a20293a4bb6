"""The operations of `data.pipeline`, applied to a tf.data.Dataset under their own names.

A pass is one iteration over the training split. What must differ from pass to pass (a shuffle's
order, the seeds of a random `map`) is derived from the job's seed and the pass's number, never from
state inside tf.data: a resumed job rebuilds pass 7 exactly by asking for pass 7.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from tapeworks import operations as spec_operations
from tapeworks.errors import FailureCode, JobFailure
from tapeworks.references import Kind
from tapeworks_workers.engine.building import build
from tapeworks_workers.engine.randomness import derive_seed
from tapeworks_workers.engine.tracing import call_user_code, engine_code

AUTOTUNE = tf.data.AUTOTUNE
PARALLEL = frozenset({"map", "cast"})
"""Operations whose parallel calls tf.data tunes while they run."""
_FIELDS = ("x", "y", "sample_weight")


@dataclass(frozen=True)
class Applied:
    """One operation, ready to be applied: `apply(dataset, number of the pass)`."""

    operation: Any
    apply: Callable[[tf.data.Dataset, int], tf.data.Dataset]
    varies: bool
    """Whether it differs from pass to pass."""


def prepare(operation: Any, *, index: int, seed: int, deterministic: bool) -> Applied:
    """Build what the operation names. `index` is its place in the pipeline: part of its seed and its pointer."""
    pointer = f"/data/pipeline/{index}"
    match operation:
        case spec_operations.Shuffle():
            own = derive_seed(seed if operation.seed is None else operation.seed, "shuffle", index)

            def shuffle(dataset: tf.data.Dataset, number: int) -> tf.data.Dataset:
                return dataset.shuffle(operation.buffer_size, seed=derive_seed(own, number))

            return Applied(operation, shuffle, varies=True)
        case spec_operations.Map():
            function = build(operation.function, Kind.TRANSFORM, pointer=f"{pointer}/function")
            return _map(operation, function, seed=derive_seed(seed, "map", index), deterministic=deterministic)
        case spec_operations.Cast():
            cast = functools.partial(_cast, dtype=operation.dtype)
            return _map(operation, cast, seed=seed, deterministic=deterministic)
        case _:
            return Applied(operation, lambda dataset, number: _plain(operation, dataset), varies=False)


def _plain(operation: Any, dataset: tf.data.Dataset) -> tf.data.Dataset:
    match operation:
        case spec_operations.Batch():
            return dataset.batch(operation.batch_size, drop_remainder=operation.drop_remainder)
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


# ── map ──────────────────────────────────────────────────────────────────────────────────────────


def _map(operation: Any, function: Callable[..., Any], *, seed: int, deterministic: bool) -> Applied:
    field = operation.field
    options: dict[str, Any] = {"num_parallel_calls": AUTOTUNE, "deterministic": deterministic}
    if not takes_seed(function):

        @engine_code
        def call(*element: Any) -> Any:
            return on_element(function, element, field)

        return Applied(operation, lambda dataset, number: dataset.map(call, **options), varies=False)

    def apply(dataset: tf.data.Dataset, number: int) -> tf.data.Dataset:
        of_pass = derive_seed(seed, number)

        @engine_code
        def call_seeded(index: tf.Tensor, element: Any) -> Any:
            # Stateless: pass and index make the element's seed, so the iterator can be saved and rebuilt.
            seeded = functools.partial(function, seed=tf.stack([tf.constant(of_pass, tf.int64), index]))
            return on_element(seeded, element if isinstance(element, tuple) else (element,), field)

        return dataset.enumerate().map(call_seeded, **options)

    return Applied(operation, apply, varies=True)


def takes_seed(function: Callable[..., Any]) -> bool:
    """Whether a transform has an argument `seed` that its config does not fill."""
    if isinstance(function, functools.partial) and "seed" in function.keywords:
        return False
    try:
        return "seed" in inspect.signature(function).parameters
    except ValueError:
        return False


def on_element(function: Callable[..., Any], element: tuple[Any, ...], field: str | None) -> Any:
    """Call a transform with the element's parts as arguments, or replace one field of it by the result."""
    if field is None:
        result = call_user_code(function, *element)
        return tuple(result) if isinstance(result, list) else result
    head, *path = field.split(".")
    position = _FIELDS.index(head)
    if position >= len(element):
        raise JobFailure(
            FailureCode.INVALID_DATA, f"the element has no {head!r}: it is ({', '.join(_FIELDS[: len(element)])})"
        )
    parts = list(element)
    parts[position] = _replaced(parts[position], path, function, field)
    return tuple(parts) if len(parts) > 1 else parts[0]


def _replaced(value: Any, path: list[str], function: Callable[..., Any], field: str) -> Any:
    if not path:
        return call_user_code(function, value)
    key, *rest = path
    if not isinstance(value, Mapping) or key not in value:
        have = f"has {sorted(value)}" if isinstance(value, Mapping) else "is not a dict"
        raise JobFailure(
            FailureCode.INVALID_DATA, f"the element has no field {field!r}: the part before {key!r} {have}"
        )
    return {**value, key: _replaced(value[key], rest, function, field)}


def _cast(value: Any, *, dtype: str) -> Any:
    return tf.nest.map_structure(lambda tensor: tf.cast(tensor, dtype), value)
