"""Cutting a source into training, validation and test by fractions, before the pipeline.

`split_rows` chooses the elements by their indices, which every split then gives in the order of the source, whether it
lies in memory or is streamed. Where the number of elements is unknown, a random split goes by a stable hash of the
element's index; other splits read the source once at the start. A source of known size that fits is read into memory
once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from tapeworks.errors import FailureCode, JobFailure
from tapeworks.spec.splits import Split as SplitSpec
from tapeworks_workers.components.sources import row_blocks
from tapeworks_workers.engine.data import in_memory
from tapeworks_workers.engine.data.checks import element_order
from tapeworks_workers.engine.data.checks.element_order import Disorder
from tapeworks_workers.engine.data.splitting import field_values
from tapeworks_workers.engine.data.splitting import rows as split_rows
from tapeworks_workers.engine.data.splitting.field_values import FieldValues, Values
from tapeworks_workers.engine.graph.randomness import derive_seed

IN_MEMORY_BYTES = 512 * 1024 * 1024
_BUCKETS = 1_000_000
AT_ONCE = 1024


@dataclass(frozen=True)
class Cut:
    """A source in splits."""

    datasets: dict[str, tf.data.Dataset]
    """`training`, and each split named."""
    disorder: Disorder | None = None
    """Why neighbours in a split need not be neighbours in the source."""
    notes: list[str] = field(default_factory=list)
    indices: dict[str, np.ndarray] | None = None
    """Of each split's elements in the source, ascending; None where all are in one split, or they are unknown."""


Column = Callable[[str], tf.data.Dataset | None]
"""A column of a table that is no part of its elements, by name."""


def split(dataset: tf.data.Dataset, splits: Mapping[str, SplitSpec], *, seed: int, column: Column | None = None) -> Cut:
    """The source in splits. Raises JobFailure `invalid_data` where one would be empty, or its field does not serve."""
    if not splits:
        return Cut({"training": dataset})
    size = int(dataset.cardinality())
    if size == tf.data.INFINITE_CARDINALITY:
        raise JobFailure(
            FailureCode.INVALID_DATA,
            "an endless source cannot be split by a fraction",
            hint="Give data.validation and data.test sources of their own.",
        )
    if size == tf.data.UNKNOWN_CARDINALITY and all(one.plain for one in splits.values()):
        return Cut(_by_hash(dataset, splits, seed), element_order.lost_by_split(splits, {}))
    whole = in_memory.in_memory(dataset)
    if whole is None and size > 0 and _bytes(dataset.element_spec, size) <= IN_MEMORY_BYTES:
        whole = row_blocks.whole(dataset)
        whole = next(iter(dataset.batch(size))) if whole is None else whole
    values = _values(dataset, splits, whole, column)
    if size == tf.data.UNKNOWN_CARDINALITY:
        size = _count(dataset, values)
    chosen = split_rows.choose(size, splits, values, seed=seed)
    if whole is not None:
        datasets = {name: _taken(whole, of_split) for name, of_split in chosen.indices.items()}
    else:
        datasets = {name: _where(dataset, of_split, size) for name, of_split in chosen.indices.items()}
    return Cut(datasets, element_order.lost_by_split(splits, values), chosen.notes, chosen.indices)


def _values(
    dataset: tf.data.Dataset, splits: Mapping[str, SplitSpec], whole: Any, column: Column | None
) -> dict[tuple[str, str], Values]:
    """The values of the fields that the splits name."""
    values: dict[tuple[str, str], Values] = {}
    for one in splits.values():
        for use in ("stratify", "group", "by"):
            path = getattr(one, use)
            if path is not None and (use, path) not in values:
                values[use, path] = field_values.read(dataset, path, use=use, whole=whole, column=column)
    return values


def _count(dataset: tf.data.Dataset, values: FieldValues) -> int:
    for one in values.values():
        return len(one.codes) if isinstance(one, field_values.Categories) else len(one)
    return int(dataset.reduce(np.int64(0), lambda count, *_: count + 1))


def _bytes(element_spec: Any, size: int) -> float:
    total = 0.0
    for leaf in tf.nest.flatten(element_spec):
        count = leaf.shape.num_elements() if isinstance(leaf, tf.TensorSpec) else None
        if count is None:
            return float("inf")
        total += count * (leaf.dtype.size if leaf.dtype != tf.string else 64) * size
    return total


def _taken(whole: Any, of_split: np.ndarray) -> tf.data.Dataset:
    rows = tf.nest.map_structure(lambda array: in_memory.taken(array, of_split), whole)
    return tf.data.Dataset.from_tensor_slices(rows)


def _where(dataset: tf.data.Dataset, of_split: np.ndarray, size: int) -> tf.data.Dataset:
    """The elements at the indices, in the source's order."""
    mask = np.zeros(size, bool)
    mask[of_split] = True
    chosen = tf.constant(mask)  # outside of the function: as a constant in its graph it is copied many times

    @tf.autograph.experimental.do_not_convert
    def inside(index: tf.Tensor) -> tf.Tensor:
        return tf.gather(chosen, index)

    taken = row_blocks.chosen(dataset, inside)
    return row_blocks.counted(_chosen(dataset.take(size), inside) if taken is None else taken, len(of_split))


def _by_hash(dataset: tf.data.Dataset, splits: Mapping[str, SplitSpec], seed: int) -> dict[str, tf.data.Dataset]:
    bounds: dict[str, tuple[int, int]] = {}
    start = 0
    for name, item in splits.items():
        bounds[name] = (start, start + round(item.fraction * _BUCKETS))
        start = bounds[name][1]
    bounds["training"] = (start, _BUCKETS)
    salt = f":{derive_seed(seed, 'split')}"

    def between(low: int, high: int) -> tf.data.Dataset:
        def inside(index: tf.Tensor) -> tf.Tensor:
            bucket = tf.strings.to_hash_bucket_fast(tf.strings.as_string(index) + salt, _BUCKETS)
            return (bucket >= low) & (bucket < high)

        return _chosen(dataset, inside)

    return {name: between(*bound) for name, bound in bounds.items()}


def _chosen(dataset: tf.data.Dataset, inside: Callable[[tf.Tensor], tf.Tensor]) -> tf.data.Dataset:
    """The elements whose indices are inside; `inside` takes one index or a vector of them.

    Elements of one shape, and ragged ones, are taken many at a time: one by one, each costs a call of a traced
    function.
    """
    made = row_blocks.chosen(dataset, inside)
    if made is not None:
        return made
    if not all(map(_is_batched, tf.nest.flatten(dataset.element_spec))):
        kept = dataset.enumerate().filter(lambda index, element: inside(index))
        return kept.map(lambda index, element: element)

    def of_rows(number: tf.Tensor, rows: Any) -> Any:
        first = tf.nest.flatten(rows)[0]
        count = first.nrows(tf.int64) if isinstance(first, tf.RaggedTensor) else tf.shape(first, tf.int64)[0]
        kept = inside(number * AT_ONCE + tf.range(count))
        return tf.nest.map_structure(lambda leaf: _masked(leaf, kept), rows)

    return dataset.batch(AT_ONCE).enumerate().map(of_rows).unbatch()


def _is_batched(spec: Any) -> bool:
    """Whether elements of a spec are batched whatever their lengths."""
    return isinstance(spec, tf.RaggedTensorSpec) or (isinstance(spec, tf.TensorSpec) and spec.shape.is_fully_defined())


def _masked(rows: Any, kept: tf.Tensor) -> Any:
    return tf.ragged.boolean_mask(rows, kept) if isinstance(rows, tf.RaggedTensor) else tf.boolean_mask(rows, kept)
