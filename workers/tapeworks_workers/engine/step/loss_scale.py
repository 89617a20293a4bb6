"""A loss scale that finds its own size, as float16 gradients need it.

Micikevicius et al., "Mixed Precision Training" (2017), arXiv:1710.03740, and the rule of Keras' LossScaleOptimizer:
half the scale where a gradient overflowed, double it after so many good steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

INITIAL = 2.0**15
GOOD_STEPS = 2000
"""As many finite gradients in a row double the scale."""
SMALLEST = 1.0
"""Below this the loss is made smaller, not larger: the gradients themselves are not finite."""


class LossScale:
    """The scale of one backward pass; its state lives in variables."""

    def __init__(self) -> None:
        self._scale = tf.Variable(INITIAL, dtype=tf.float32, trainable=False, name="loss_scale")
        self._good = tf.Variable(0, dtype=tf.int64, trainable=False, name="good_steps")

    def variables(self) -> dict[str, tf.Variable]:
        """What a checkpoint must hold."""
        return {"scale": self._scale, "good_steps": self._good}

    def gradients(self, tape: tf.GradientTape, loss: Any, variables: Sequence[Any], seeds: Any = None) -> list[Any]:
        """Unscaled gradients of a loss that was scaled on its way back; not finite where they overflowed.

        `seeds`: what the gradients are multiplied with beside the scale, of the loss's structure; None: nothing.
        """
        scale = self._scale.read_value()
        # Scaling the loss after its tape has closed would leave it without a gradient.
        seeds = tf.nest.map_structure(tf.ones_like, loss) if seeds is None else seeds
        seeds = tf.nest.map_structure(lambda one: one * tf.cast(scale, one.dtype), seeds)
        return [_divided(one, scale) for one in tape.gradient(loss, variables, output_gradients=seeds)]

    def update(self, finite: tf.Tensor) -> tf.Tensor:
        """Count gradients that were finite or not (bool scalar). 0 where the scale is usable, else NaN: float32."""
        good = tf.where(finite, self._good.read_value() + 1, tf.zeros([], tf.int64))
        grown = good >= GOOD_STEPS
        factor = tf.where(finite, tf.where(grown, 2.0, 1.0), 0.5)
        self._scale.assign(self._scale.read_value() * factor)
        self._good.assign(tf.where(grown, tf.zeros([], tf.int64), good))
        return tf.where(self._scale.read_value() < SMALLEST, tf.constant(float("nan")), 0.0)


class CurrentScale(keras.metrics.Metric):
    """The scale as it is, to be reported."""

    def __init__(self, scale: LossScale) -> None:
        super().__init__(name="loss_scale")
        self._source = scale.variables()["scale"]

    def update_state(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the scale moves by itself."""

    def reset_state(self) -> None:
        """Nothing: an epoch does not end a scale."""

    def result(self) -> tf.Tensor:
        """The result as a float32 scalar."""
        return self._source.read_value()


def all_finite(gradients: Sequence[Any]) -> tf.Tensor:
    """Whether every entry of every gradient is: a bool scalar."""
    parts = [g.values if isinstance(g, tf.IndexedSlices) else g for g in gradients]
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(part)) for part in parts])


def _divided(gradient: Any, scale: tf.Tensor) -> Any:
    if isinstance(gradient, tf.IndexedSlices):
        values = gradient.values / tf.cast(scale, gradient.dtype)
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return None if gradient is None else gradient / tf.cast(scale, gradient.dtype)
