"""Which rows of the global batch a replica has while it is traced, and random numbers cut by these rows.

A mask for n rows on one device is, on several, one mask for all rows of the global batch: each replica draws it from
the same seed and takes its own rows. So dropout gives the same numbers however many devices share a batch.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from tensorflow.python.framework.tensor_util import constant_value_as_shape


@dataclass(frozen=True)
class Rows:
    """Rows `start` … `start + count` of `total`: int32 scalars."""

    count: tf.Tensor
    start: tf.Tensor
    total: tf.Tensor
    index: int
    """The replica's number."""

    @property
    def share(self) -> tf.Tensor:
        """The replica's part of the global batch: a float64 scalar."""
        return tf.cast(self.count, tf.float64) / tf.cast(tf.maximum(self.total, 1), tf.float64)


_LOCAL = threading.local()


def current() -> Rows | None:
    """The rows of the replica that this thread traces; None on one device."""
    return getattr(_LOCAL, "rows", None)


@contextlib.contextmanager
def of(rows: Rows) -> Iterator[None]:
    """Trace the replica with these rows in the block."""
    _LOCAL.rows = rows
    try:
        yield
    finally:
        _LOCAL.rows = None


def spans_batch(shape: Any) -> bool:
    """Whether the first dimension of a shape is known only when the step runs, as that of a batch is."""
    known = constant_value_as_shape(tf.convert_to_tensor(shape, tf.int32))
    return known.rank is None or (known.rank > 0 and known[0] is None)


def widened(first: tf.Tensor, count: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(first dimension for the global batch, how many of its entries a row has).

    `first` counts several entries a row where examples were folded into the first axis. 0 entries a row: the dimension
    does not belong to the rows.
    """
    each = tf.where(count > 0, first // tf.maximum(count, 1), 1)
    each = tf.where(each * count == first, each, 0)
    return tf.where(each > 0, each * total, first), each


def cut(draw: Callable[[Any], tf.Tensor], shape: Any) -> tf.Tensor:
    """`draw(shape)`, or this replica's rows of what is drawn for the global batch.

    Where the first dimension is no multiple of the replica's rows (the values of a ragged tensor), replicas draw other
    numbers than one device would, and other ones than each other.
    """
    rows = current()
    if rows is None or not spans_batch(shape):
        return draw(shape)
    shape = tf.convert_to_tensor(shape, tf.int32)
    first = shape[0]
    wide, each = widened(first, rows.count, rows.total)
    start = tf.where(each > 0, each * rows.start, first * rows.index)
    wide = tf.where(each > 0, wide, first * (rows.index + 1))
    drawn = draw(tf.concat([wide[None], shape[1:]], 0))
    taken: tf.Tensor = drawn[start : start + first]
    return taken
