"""`clip_by_norm`: each gradient scaled down by itself (tf.clip_by_norm), Pascanu et al. (2013), arXiv:1211.5063."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tapeworks import GradientTransform, Run, component


@component("clip_by_norm", example={"config": {"max_norm": 1.0}})
class ClipByNorm(GradientTransform):
    """Where the 2-norm of a variable's gradient exceeds `max_norm`, multiply it by `max_norm / norm`.

    Each variable by itself, so their proportions change: `clip_by_global_norm` keeps them. Shapes and dtypes stay.
    tf.IndexedSlices stay sparse: rows given more than once are added up first, since the norm is that of their sum.
    A norm that is not finite makes the gradient NaN, which fails the job as `non_finite`.

    Args:
        max_norm: the largest norm that passes; positive.
    """

    def __init__(self, max_norm: float) -> None:
        if max_norm <= 0:
            raise ValueError(f"max_norm must be positive, not {max_norm}")
        self.max_norm = max_norm

    def __call__(self, gradients: Sequence[Any], variables: Sequence[Any], run: Run) -> Sequence[Any]:
        return [self._clipped(gradient) for gradient in gradients]

    def _clipped(self, gradient: Any) -> Any:
        if isinstance(gradient, tf.IndexedSlices):
            gradient = _summed(gradient)
            return tf.IndexedSlices(self._scaled(gradient.values), gradient.indices, gradient.dense_shape)
        return self._scaled(tf.convert_to_tensor(gradient))

    def _scaled(self, values: Any) -> Any:
        limit = tf.constant(self.max_norm, values.dtype)
        norm = tf.norm(values)
        # An infinite norm must not pass as the factor 0, which would leave NaN in some entries and 0 in others.
        return values * (limit / tf.maximum(norm, limit) + (norm - norm))


def _summed(slices: tf.IndexedSlices) -> tf.IndexedSlices:
    """The same gradient, each row at most once."""
    rows, position = tf.unique(slices.indices)
    values = tf.math.unsorted_segment_sum(slices.values, position, tf.size(rows))
    return tf.IndexedSlices(values, rows, slices.dense_shape)
