"""`hinge_gan`: the hinge loss of Lim and Ye, "Geometric GAN" (2017), arXiv:1705.02894.

Also Miyato et al., "Spectral Normalization for Generative Adversarial Networks" (2018), arXiv:1802.05957, eq. 16, 17.
"""

from __future__ import annotations

from typing import Any, Literal

import keras
import tensorflow as tf

from tapeworks import component

_EXAMPLE = {
    "config": {},
    "y_true": tf.TensorSpec([None], tf.float32),
    "y_pred": tf.TensorSpec([None, 1], tf.float32),
}


@component("hinge_gan", example=_EXAMPLE)
class HingeGan(keras.losses.Loss):
    """For the discriminator `max(0, 1 - f)` for what is real and `max(0, 1 + f)` for what is fake; f are its logits.

    `y` is 1 for real, 0 for fake, in the shape of the logits or without their last dimension of 1. Logits are `(n,)`,
    `(n, 1)` or, of a patch discriminator, `(n, …, 1)`, float32 or float64. One value a logit is returned, without
    that last dimension.

    The generator has another formula, so the two players are two losses of a spec: the discriminator's loss is
    `loss(ones, f(real)) + loss(zeros, f(fake))`, the generator's `loss(ones, f(fake))` with `player: "generator"`,
    which is `-f`.

    Args:
        player: whose loss it is.
    """

    def __init__(self, player: Literal["discriminator", "generator"] = "discriminator", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if player not in ("discriminator", "generator"):
            raise ValueError(f'player must be "discriminator" or "generator", not {player!r}')
        self.player = player

    def call(self, y_true: Any, y_pred: Any) -> Any:
        y, logits = _aligned(y_true, tf.convert_to_tensor(y_pred))
        if self.player == "generator":
            return (1.0 - 2.0 * y) * logits
        return y * tf.nn.relu(1.0 - logits) + (1.0 - y) * tf.nn.relu(1.0 + logits)


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
