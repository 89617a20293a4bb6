"""`clip_by_value`: each entry of each gradient held in an interval (tf.clip_by_value).

Mikolov, "Statistical Language Models Based on Neural Networks" (2012), PhD thesis, Brno University of Technology.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tapeworks import GradientTransform, Run, component


@component("clip_by_value", example={"config": {"min": -1.0, "max": 1.0}})
class ClipByValue(GradientTransform):
    """Entries below `min` become `min`, entries above `max` become `max`; shapes and dtypes stay.

    The direction changes: `clip_by_norm` and `clip_by_global_norm` keep it. tf.IndexedSlices stay sparse: rows given
    more than once are added up first, since only their sum is the gradient, and rows not given are 0, which lies
    inside. NaN stays NaN.

    Args:
        min: the smallest entry that passes; 0 or less.
        max: the largest entry that passes; 0 or more, and above `min`.
    """

    def __init__(self, min: float, max: float) -> None:
        if not min <= 0 <= max or min == max:
            raise ValueError(f"min must be at most 0, max at least 0, and they must differ: {min}, {max}")
        self.min = min
        self.max = max

    def __call__(self, gradients: Sequence[Any], variables: Sequence[Any], run: Run) -> Sequence[Any]:
        return [self._clipped(gradient) for gradient in gradients]

    def _clipped(self, gradient: Any) -> Any:
        if isinstance(gradient, tf.IndexedSlices):
            gradient = _summed(gradient)
            values = tf.clip_by_value(gradient.values, self.min, self.max)
            return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
        return tf.clip_by_value(gradient, self.min, self.max)


def _summed(slices: tf.IndexedSlices) -> tf.IndexedSlices:
    """The same gradient, each row at most once."""
    rows, position = tf.unique(slices.indices)
    values = tf.math.unsorted_segment_sum(slices.values, position, tf.size(rows))
    return tf.IndexedSlices(values, rows, slices.dense_shape)
