"""Rows that come in blocks: a dataset of elements that remembers the blocks of rows it is made of.

tf.data takes each element by itself through `unbatch`, a filter and `batch`: microseconds for a row, more than reading
it. A part of a file is a block of rows already, so batches are cut from blocks, and a split masks them. Elements, their
order and the batches are the same either way.

Interface: `rows_of(blocks)` makes the dataset of elements; `batched`, `chosen` and `whole` do to its blocks what
`batch`, an enumerated filter and a batch of everything do to elements. They return None for any other dataset.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

_MARK = "_tapeworks_row_blocks"
_AT_ONCE = 2


def rows_of(blocks: tf.data.Dataset, count: int | None) -> tf.data.Dataset:
    """The rows of blocks, each an element.

    Args:
        blocks: nests of tensors whose first dimension is that of the rows.
        count: of all rows; None: unknown.
    """

    @tf.autograph.experimental.do_not_convert
    def rows(*nest: Any) -> tf.data.Dataset:
        # Not from_tensor_slices: inside a graph it warns of the type of ragged tensors, for every job.
        return tf.data.Dataset.from_tensors(nest if len(nest) > 1 else nest[0]).unbatch()

    return _marked(blocks.flat_map(rows), blocks, count)


def batched(dataset: tf.data.Dataset, size: int, *, drop_remainder: bool) -> tf.data.Dataset | None:
    """`dataset.batch(size, drop_remainder)`."""
    blocks = _blocks_of(dataset)
    if blocks is None:
        return None
    made = blocks.rebatch(size, drop_remainder=drop_remainder)
    count = int(dataset.cardinality())
    steps = count // size if drop_remainder else -(-count // size)
    return made.apply(tf.data.experimental.assert_cardinality(steps)) if count >= 0 else made


def chosen(dataset: tf.data.Dataset, inside: Callable[[tf.Tensor], tf.Tensor]) -> tf.data.Dataset | None:
    """The rows whose numbers are inside; `inside` takes a vector of int64."""
    blocks = _blocks_of(dataset)
    if blocks is None:
        return None

    @tf.autograph.experimental.do_not_convert
    def numbered(start: tf.Tensor, *block: Any) -> tuple[tf.Tensor, Any]:
        nest = block if len(block) > 1 else block[0]
        return start + tf.shape(tf.nest.flatten(nest)[0], tf.int64)[0], (start, nest)

    @tf.autograph.experimental.do_not_convert
    def masked(start: tf.Tensor, block: Any) -> Any:
        count = tf.shape(tf.nest.flatten(block)[0], tf.int64)[0]
        kept = tf.where(inside(start + tf.range(count)))[:, 0]
        return tf.nest.map_structure(lambda leaf: tf.gather(leaf, kept), block)

    numbers = blocks.scan(tf.constant(0, tf.int64), numbered)
    return rows_of(numbers.map(masked, num_parallel_calls=_AT_ONCE, deterministic=True), None)


def counted(dataset: tf.data.Dataset, count: int) -> tf.data.Dataset:
    """A dataset of which the number of elements is known."""
    blocks = getattr(dataset, _MARK, None)
    return _marked(dataset, blocks, count)


def whole(dataset: tf.data.Dataset) -> Any:
    """All rows as one nest of tensors."""
    blocks = _blocks_of(dataset)
    if blocks is None:
        return None
    return tf.nest.map_structure(lambda *leaves: tf.concat(leaves, 0), *blocks)


def _marked(dataset: tf.data.Dataset, blocks: tf.data.Dataset | None, count: int | None) -> tf.data.Dataset:
    made = dataset if count is None else dataset.apply(tf.data.experimental.assert_cardinality(count))
    setattr(made, _MARK, blocks)
    return made


def _blocks_of(dataset: tf.data.Dataset) -> tf.data.Dataset | None:
    """The blocks of a dataset whose elements are tensors of one shape each."""
    leaves = tf.nest.flatten(dataset.element_spec)
    dense = all(isinstance(leaf, tf.TensorSpec) and leaf.shape.is_fully_defined() for leaf in leaves)
    return getattr(dataset, _MARK, None) if dense else None
