"""`clip_by_global_norm`: all gradients of an optimizer scaled down together, Pascanu et al. (2013), arXiv:1211.5063."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tapeworks import GradientTransform, Run, component


@component("clip_by_global_norm", example={"config": {"max_norm": 1.0}})
class ClipByGlobalNorm(GradientTransform):
    """Where the norm of all gradients together exceeds `max_norm`, multiply each by `max_norm / norm`.

    `tf.clip_by_global_norm`: the direction stays. tf.IndexedSlices stay sparse: rows given more than once are added up
    first, since the norm is that of their sum. A norm that is not finite makes every gradient NaN, which fails the job
    as `non_finite`.

    Args:
        max_norm: the largest norm that passes; positive.
    """

    def __init__(self, max_norm: float) -> None:
        if max_norm <= 0:
            raise ValueError(f"max_norm must be positive, not {max_norm}")
        self.max_norm = max_norm

    def __call__(self, gradients: Sequence[Any], variables: Sequence[Any], run: Run) -> Sequence[Any]:
        exact = [_summed(one) if isinstance(one, tf.IndexedSlices) else one for one in gradients]
        clipped, _ = tf.clip_by_global_norm(exact, self.max_norm)
        return list(clipped)


def _summed(slices: tf.IndexedSlices) -> tf.IndexedSlices:
    """The same gradient, each row at most once."""
    rows, position = tf.unique(slices.indices)
    values = tf.math.unsorted_segment_sum(slices.values, position, tf.size(rows))
    return tf.IndexedSlices(values, rows, slices.dense_shape)
