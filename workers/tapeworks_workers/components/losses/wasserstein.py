"""`wasserstein`: the critic's loss of Arjovsky et al., "Wasserstein GAN" (2017), arXiv:1701.07875."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tapeworks import component

_EXAMPLE = {
    "config": {},
    "y_true": tf.TensorSpec([None], tf.float32),
    "y_pred": tf.TensorSpec([None, 1], tf.float32),
}


@component("wasserstein", example=_EXAMPLE)
class Wasserstein(keras.losses.Loss):
    """`-f` for what is real and `f` for what is fake; f are the critic's scores, unbounded and without activation.

    `y` is 1 for real, 0 for fake, in the shape of the scores or without their last dimension of 1. Scores are `(n,)`,
    `(n, 1)` or, of a patch critic, `(n, …, 1)`, float32 or float64. One value a score is returned, without that
    last dimension.

    In a step the critic's loss is `loss(ones, f(real)) + loss(zeros, f(fake))`, the generator's `loss(ones, f(fake))`.
    The critic must be kept Lipschitz besides: by a gradient penalty, spectral normalisation or clipped weights.
    """

    def call(self, y_true: Any, y_pred: Any) -> Any:
        y, score = _aligned(y_true, tf.convert_to_tensor(y_pred))
        return (1.0 - 2.0 * y) * score


def _aligned(y: Any, score: Any) -> tuple[Any, Any]:
    """Both without the last dimension of 1: y of `(n,)` against scores of `(n, 1)` would broadcast to n × n."""
    y, rank = tf.cast(y, score.dtype), score.shape.rank
    if score.shape[-1] == 1 and rank > 1:
        score = tf.squeeze(score, axis=-1)
    if y.shape.rank == score.shape.rank + 1:
        y = tf.squeeze(y, axis=-1)
    if y.shape.rank != score.shape.rank:
        raise ValueError(f"y of shape {y.shape} does not go with scores of shape {score.shape}")
    return y, score
