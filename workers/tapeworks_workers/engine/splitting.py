"""Cutting a source into training, validation and test by fractions, before the pipeline.

`random`: a seeded permutation of the n elements, `round(n·f)` for each split; `tail`: the end of
the source, the test split last. Where n is unknown, `random` goes by a stable hash of the element's
index and `tail` counts once. A source of known size that fits is read into memory once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tapeworks.errors import FailureCode, JobFailure
from tapeworks.spec import Split as SplitSpec
from tapeworks_workers.components.sources import row_blocks
from tapeworks_workers.engine import gathering
from tapeworks_workers.engine.randomness import derive_seed

IN_MEMORY_BYTES = 512 * 1024 * 1024
_BUCKETS = 1_000_000
_AT_ONCE = 1024


def split(dataset: tf.data.Dataset, fractions: Mapping[str, SplitSpec], *, seed: int) -> dict[str, tf.data.Dataset]:
    """`training`, and each split named. Raises JobFailure `invalid_data` where one would be empty."""
    if not fractions:
        return {"training": dataset}
    size = int(dataset.cardinality())
    if size == tf.data.INFINITE_CARDINALITY:
        raise JobFailure(
            FailureCode.INVALID_DATA,
            "an endless source cannot be split by a fraction",
            hint="Give data.validation and data.test sources of their own.",
        )
    if size == tf.data.UNKNOWN_CARDINALITY:
        if all(item.split == "random" for item in fractions.values()):
            return _by_hash(dataset, fractions, seed)
        size = int(dataset.reduce(np.int64(0), lambda count, *_: count + 1))
    chosen = indices(size, fractions, seed=seed)
    for name, of_split in chosen.items():
        if len(of_split) == 0:
            raise JobFailure(
                FailureCode.INVALID_DATA,
                f"the {name} split is empty: the source has {size} elements",
                hint="Take a larger fraction, or give the split a source of its own.",
            )
    whole = gathering.in_memory(dataset)
    if whole is None and dataset.cardinality() > 0 and _bytes(dataset.element_spec, size) <= IN_MEMORY_BYTES:
        whole = row_blocks.whole(dataset)
        whole = next(iter(dataset.batch(size))) if whole is None else whole
    if whole is not None:
        return {name: _taken(whole, of_split) for name, of_split in chosen.items()}
    return {name: _where(dataset, of_split, size) for name, of_split in chosen.items()}


def indices(size: int, fractions: Mapping[str, SplitSpec], *, seed: int) -> dict[str, np.ndarray]:
    """Split → the indices of its elements: in the permutation's order where one is random, else in the source's."""
    left = np.arange(size)
    chosen: dict[str, np.ndarray] = {}
    for name in ("test", "validation"):
        if name in fractions and fractions[name].split == "tail":
            count = round(size * fractions[name].fraction)
            left, chosen[name] = left[: len(left) - count], left[len(left) - count :]
    if any(item.split == "random" for item in fractions.values()):
        # RandomState: its permutations are the same in every NumPy.
        left = left[np.random.RandomState(derive_seed(seed, "split")).permutation(len(left))]
    for name in ("validation", "test"):
        if name in fractions and fractions[name].split == "random":
            count = round(size * fractions[name].fraction)
            chosen[name], left = left[:count], left[count:]
    return {"training": left, **chosen}


def _bytes(element_spec: Any, size: int) -> float:
    total = 0.0
    for leaf in tf.nest.flatten(element_spec):
        count = leaf.shape.num_elements() if isinstance(leaf, tf.TensorSpec) else None
        if count is None:
            return float("inf")
        total += count * (leaf.dtype.size if leaf.dtype != tf.string else 64) * size
    return total


def _taken(whole: Any, of_split: np.ndarray) -> tf.data.Dataset:
    rows = tf.nest.map_structure(lambda array: gathering.taken(array, of_split), whole)
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


def _by_hash(dataset: tf.data.Dataset, fractions: Mapping[str, SplitSpec], seed: int) -> dict[str, tf.data.Dataset]:
    bounds: dict[str, tuple[int, int]] = {}
    start = 0
    for name, item in fractions.items():
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

    Elements of one shape are taken many at a time: one by one, each costs a call of a traced function.
    """
    made = row_blocks.chosen(dataset, inside)
    if made is not None:
        return made
    leaves = tf.nest.flatten(dataset.element_spec)
    if not all(isinstance(leaf, tf.TensorSpec) and leaf.shape.is_fully_defined() for leaf in leaves):
        kept = dataset.enumerate().filter(lambda index, element: inside(index))
        return kept.map(lambda index, element: element)

    def of_rows(number: tf.Tensor, rows: Any) -> Any:
        count = tf.shape(tf.nest.flatten(rows)[0], tf.int64)[0]
        kept = inside(number * _AT_ONCE + tf.range(count))
        return tf.nest.map_structure(lambda leaf: tf.boolean_mask(leaf, kept), rows)

    return dataset.batch(_AT_ONCE).enumerate().map(of_rows).unbatch()
