"""`non_saturating_gan`: Goodfellow et al., "Generative Adversarial Nets" (2014), arXiv:1406.2661, section 3."""

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


@component("non_saturating_gan", example=_EXAMPLE)
class NonSaturatingGan(keras.losses.Loss):
    """`-log p` for what is real and `-log(1 - p)` for what is fake, with `p = sigmoid(logits)`.

    `y` is 1 for real, 0 for fake (or between: 0.9 smooths the labels), in the shape of the logits or without their
    last dimension of 1. Logits are `(n,)`, `(n, 1)` or, of a patch discriminator, `(n, …, 1)`, float32 or float64.
    One value a logit is returned, without that last dimension.

    In a step the discriminator's loss is `loss(ones, f(real)) + loss(zeros, f(fake))`. The generator's is
    `loss(ones, f(fake))`: it raises `log p` of its fakes instead of lowering `log(1 - p)`, whose gradient vanishes
    where the discriminator is sure.
    """

    def call(self, y_true: Any, y_pred: Any) -> Any:
        y, logits = _aligned(y_true, tf.convert_to_tensor(y_pred))
        # By softplus: exact, with finite gradients, however saturated the logit.
        return y * tf.nn.softplus(-logits) + (1.0 - y) * tf.nn.softplus(logits)


def _aligned(y: Any, logits: Any) -> tuple[Any, Any]:
    """Both without the last dimension of 1: y of `(n,)` against logitss of `(n, 1)` would broadcast to n × n."""
    y, rank = tf.cast(y, logits.dtype), logits.shape.rank
    if logits.shape[-1] == 1 and rank > 1:
        logits = tf.squeeze(logits, axis=-1)
    if y.shape.rank == logits.shape.rank + 1:
        y = tf.squeeze(y, axis=-1)
    if y.shape.rank != logits.shape.rank:
        raise ValueError(f"y of shape {y.shape} does not go with logitss of shape {logits.shape}")
    return y, logits
