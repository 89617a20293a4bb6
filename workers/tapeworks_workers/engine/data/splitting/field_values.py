"""The values of one scalar field in all elements of a source, for splits by class, group or time.

`read(dataset, …)` takes them from memory where the source is there, else in one pass over the source at the start of
the job, 1024 elements at a time. In memory stay 8 bytes for each element, and the distinct values of classes and
groups, at most `MAX_GROUPS`. Of sources that are zipped (images and their labels) only the part with the field is
read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tapeworks.errors import FailureCode, JobFailure
from tapeworks.spec.splits import MAX_GROUP_BYTES, MAX_GROUPS
from tapeworks_workers.engine.data import in_memory
from tapeworks_workers.engine.data.fields import pick
from tapeworks_workers.engine.graph.autograph import engine_code
from tapeworks_workers.engine.graph.element_spec import FIELDS
from tapeworks_workers.engine.graph.tensorflow_private import zipped_datasets

AT_ONCE = 1024
"""Elements that are read together."""

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Categories:
    """Values as numbers: `codes[i]` is the place of element i's value in `distinct`, which is sorted."""

    codes: np.ndarray[Any, np.dtype[np.int64]]
    distinct: Array

    @property
    def count(self) -> int:
        """Different values."""
        return len(self.distinct)

    def name(self, code: int) -> Any:
        """A value as Python has it."""
        return _python(self.distinct[code])


Values = Categories | Array
"""Categories, or of a time an array of numbers."""
FieldValues = Mapping[tuple[str, str], Values]
"""(`stratify`, `group` or `by`, field path) → the values of that field, as this use takes them."""


def read(
    dataset: tf.data.Dataset, path: str, *, use: str, whole: Any = None, column: Callable[[str], Any] | None = None
) -> Values:
    """The values at a field path in all elements, in order.

    Args:
        use: the argument of the spec that names the field: `stratify`, `group` or `by`.
        whole: all elements as one batch, where they are in memory.
        column: gives a dataset of a column that is no part of the elements, by its name; None where there is none.

    Raises JobFailure `invalid_data`: a field that is not there, is no scalar, or has values that do not serve.
    """
    if column is not None and path.startswith("x.") and not _is_there(dataset.element_spec, path):
        alone = column(path.removeprefix("x."))
        if alone is not None:
            dataset, whole = alone, None
    spec = _spec(dataset.element_spec, path, use)
    field = _Field(path, use, spec)
    if whole is None:
        dataset, inner = _part(dataset, path)
        whole = in_memory.in_memory(dataset)
    else:
        inner = path
    batches: Iterator[Array]
    if whole is not None:
        batches = iter([_picked(whole, inner).numpy()])
    else:
        batches = _batches(dataset, inner)
    return _times(field, batches) if use == "by" else _categories(field, batches)


@dataclass(frozen=True)
class _Field:
    path: str
    use: str
    spec: tf.TensorSpec

    def refused(self, message: str, hint: str) -> JobFailure:
        """A failure that names the field."""
        return JobFailure(FailureCode.INVALID_DATA, f"{self.use} {self.path!r}: {message}", hint=hint)


def _is_there(element: Any, path: str) -> bool:
    try:
        pick(_parts(element), path)
    except JobFailure:
        return False
    return True


def _spec(element: Any, path: str, use: str) -> Any:
    """The spec of a field. Raises JobFailure where it is not there or no scalar."""
    try:
        spec = pick(_parts(element), path)
    except JobFailure as failure:
        hint = "Name a field of the source's element, such as y or x.COLUMN, or as x.COLUMN a column of its table."
        raise JobFailure(FailureCode.INVALID_DATA, f"{use}: {failure.message}", hint=hint) from failure
    if not isinstance(spec, tf.TensorSpec):
        kind = "a dict" if isinstance(spec, Mapping) else "ragged or sparse"
        raise _Field(path, use, spec).refused(f"is {kind}", "Name a field that holds one value for each element.")
    if spec.shape.rank is None or spec.shape.as_list() not in ([], [1]):
        raise _Field(path, use, spec).refused(
            f"has the shape {spec.shape}, not one value for each element",
            "Name a field of single values; of one-hot labels, split before they are made (one_hot in data.pipeline).",
        )
    return spec


def _parts(element: Any) -> tuple[Any, ...]:
    return element if isinstance(element, tuple) else (element,)


def _picked(element: Any, path: str) -> tf.Tensor:
    return tf.reshape(pick(_parts(element), path) if path else element, [-1])


def _part(dataset: tf.data.Dataset, path: str) -> tuple[tf.data.Dataset, str]:
    """The one of zipped datasets that holds a field, and the path inside it: images need not be decoded for labels."""
    datasets = zipped_datasets(dataset)
    if datasets is None:
        return dataset, path
    first, _, rest = path.partition(".")
    part = datasets[FIELDS.index(first)]
    return (part, f"x.{rest}" if rest else "") if isinstance(part, tf.data.Dataset) else (dataset, path)


def _batches(dataset: tf.data.Dataset, path: str) -> Iterator[Array]:
    """The values, in arrays of `AT_ONCE`."""

    @engine_code
    def one(*element: Any) -> tf.Tensor:
        return _picked(element if len(element) > 1 else element[0], path)

    leaves = tf.nest.flatten(dataset.element_spec)
    if all(isinstance(leaf, tf.TensorSpec) and leaf.shape.is_fully_defined() for leaf in leaves):
        values = dataset.batch(AT_ONCE).map(one)
    else:
        values = dataset.map(one).batch(AT_ONCE).map(engine_code(lambda rows: tf.reshape(rows, [-1])))
    for batch in values.prefetch(2):
        yield batch.numpy()


# ── classes and groups ───────────────────────────────────────────────────────────────────────────


def _categories(field: _Field, batches: Iterator[Array]) -> Categories:
    known: dict[Any, int] = {}
    codes: list[Array] = []
    count = size = 0
    for batch in batches:
        _check_numbers(field, batch, count)
        values, places = np.unique(batch, return_inverse=True)
        keys = [_python_key(value) for value in values]
        size += sum(len(key) for key in keys if isinstance(key, bytes) and key not in known)
        numbers = np.array([known.setdefault(key, len(known)) for key in keys], np.int64)
        if len(known) > MAX_GROUPS or size > MAX_GROUP_BYTES:
            raise field.refused(
                f"has more than {MAX_GROUPS} different values, or more than {MAX_GROUP_BYTES} bytes of them",
                "Name a field with fewer or shorter values, or split by time.",
            )
        codes.append(numbers[places.reshape(-1)])
        count += len(batch)
    distinct = np.array(list(known), object if field.spec.dtype == tf.string else None)
    order = np.argsort(distinct, kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return Categories(place[np.concatenate(codes)] if codes else np.zeros(0, np.int64), distinct[order])


def _check_numbers(field: _Field, batch: Array, before: int) -> None:
    if batch.dtype.kind == "f" and not np.isfinite(batch).all():
        row = int(np.flatnonzero(~np.isfinite(batch))[0])
        raise field.refused(
            f"element {before + row} is {batch[row]}", "Remove the elements without a value, or name another field."
        )


def _python_key(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _python(value: Any) -> Any:
    value = _python_key(value)
    return value.decode(errors="replace") if isinstance(value, bytes) else value


# ── times ────────────────────────────────────────────────────────────────────────────────────────


def _times(field: _Field, batches: Iterator[Array]) -> Array:
    if field.spec.dtype == tf.bool:
        raise field.refused("holds booleans, which have no order in time", "Name a field of dates, times or numbers.")
    found: list[Array] = []
    count, zoned = 0, None
    for batch in batches:
        if batch.dtype.kind == "O":
            batch, own = _microseconds(field, batch, count)
            if zoned is not None and own != zoned:
                raise field.refused("has times with and without a zone", "Write all of them in one form.")
            zoned = own
        _check_numbers(field, batch, count)
        found.append(batch)
        count += len(batch)
    return np.concatenate(found) if found else np.zeros(0)


def _microseconds(field: _Field, texts: Array, before: int) -> tuple[Array, bool]:
    """ISO 8601 texts as microseconds since 1970, and whether they have a zone."""
    import pyarrow as pa

    try:
        column = pa.array(texts, pa.binary()).cast(pa.string())
    except pa.ArrowInvalid as error:
        raise field.refused("holds texts that are not UTF-8", "Give the source its encoding.") from error
    for zoned in (False, True):
        kind = pa.timestamp("us", "UTC" if zoned else None)
        try:
            return np.asarray(column.cast(kind).cast(pa.int64()).to_numpy(zero_copy_only=False)), zoned
        except pa.ArrowInvalid:
            continue
    row = next((row for row, text in enumerate(column) if not _is_time(text)), 0)
    raise field.refused(
        f"element {before + row} is {column[row].as_py()!r}, which is not an ISO 8601 time",
        "Write times as 2024-12-31 or 2024-12-31T23:59:00, or name a field of numbers. Parquet keeps dates and times.",
    )


def _is_time(text: Any) -> bool:
    import pyarrow as pa

    for kind in (pa.timestamp("us"), pa.timestamp("us", "UTC")):
        try:
            text.cast(kind)
        except pa.ArrowInvalid:
            continue
        return True
    return False
