"""`has_class`, `length_between`: which elements stay, for `filter`."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tapeworks import component


@component(
    "has_class",
    example={"config": {"classes": [0, 1]}, "inputs": (tf.TensorSpec([4], tf.float32), tf.TensorSpec([], tf.int64))},
)
def has_class(x: Any, y: Any, *rest: Any, classes: list[int]) -> Any:
    """Whether the label y is one of some classes.

    Args:
        classes: the labels that stay.
    """
    return tf.reduce_any(tf.cast(y, tf.int64) == tf.constant(classes, tf.int64))


@component("length_between", example={"inputs": tf.TensorSpec([None], tf.int64)})
def length_between(sequence: Any, *, minimum: int = 1, maximum: int | None = None) -> Any:
    """Whether a sequence has so many elements; name its `field` in `filter`.

    Args:
        minimum: the shortest that stays.
        maximum: the longest that stays; null: any.
    """
    length = sequence.nrows() if isinstance(sequence, tf.RaggedTensor) else tf.shape(sequence, tf.int64)[0]
    long_enough = length >= minimum
    return long_enough if maximum is None else long_enough & (length <= maximum)
