"""A batch cut by rows, one part for each replica, and parts put together again. Dense, ragged and sparse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tapeworks_workers.engine.graph.replica_rows import Rows


def rows_of(batch: Any) -> tf.Tensor:
    """How many examples a batch holds: an int32 scalar."""
    leaf = tf.nest.flatten(batch)[0]
    if isinstance(leaf, tf.RaggedTensor):
        return tf.cast(leaf.nrows(), tf.int32)
    if isinstance(leaf, tf.SparseTensor):
        return tf.cast(leaf.dense_shape[0], tf.int32)
    return tf.shape(leaf)[0]


def cut(batch: Any, replicas: int) -> list[tuple[Any, Rows]]:
    """A part for each replica: ⌈n / replicas⌉ rows, the last ones fewer, or none."""
    total = rows_of(batch)
    each = -(-total // replicas)
    parts = []
    for index in range(replicas):
        start = tf.minimum(index * each, total)
        count = tf.minimum(start + each, total) - start
        part = tf.nest.map_structure(lambda leaf, start=start, count=count: _rows(leaf, start, count), batch)
        parts.append((part, Rows(count, start, total, index)))
    return parts


def _rows(leaf: Any, start: tf.Tensor, count: tf.Tensor) -> Any:
    if not isinstance(leaf, tf.SparseTensor):
        return leaf[start : start + count]
    rest = leaf.dense_shape[1:]
    begin = tf.concat([tf.cast(start, tf.int64)[None], tf.zeros_like(rest)], 0)
    size = tf.concat([tf.cast(count, tf.int64)[None], rest], 0)
    part = tf.sparse.slice(leaf, begin, size)
    part.dense_shape.set_shape(leaf.dense_shape.shape)
    return tf.SparseTensor(part.indices, part.values, tf.ensure_shape(size, leaf.dense_shape.shape))


def joined(parts: Sequence[Any]) -> Any:
    """The nests of all replicas as one, in the order of the rows; what has no rows is the first replica's."""
    return tf.nest.map_structure(lambda *leaves: _joined(leaves), *parts)


def _joined(leaves: Sequence[Any]) -> Any:
    first = leaves[0]
    if isinstance(first, tf.SparseTensor):
        return tf.sparse.concat(0, list(leaves))
    if not (isinstance(first, tf.RaggedTensor) or tf.is_tensor(first)) or first.shape.rank == 0:
        return first
    whole = tf.concat(list(leaves), 0)
    masks = [getattr(leaf, "_keras_mask", None) for leaf in leaves]
    if all(mask is not None for mask in masks):
        whole._keras_mask = tf.concat(masks, 0)
    return whole
