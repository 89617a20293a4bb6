"""Metrics of a user who has no use for weights."""

from typing import Any

import keras
import tensorflow as tf

from tapeworks import component


@component("signatures/Worst")
class Worst(keras.metrics.Metric):
    """Has no use for weights."""

    def __init__(self) -> None:
        super().__init__(name="worst")
        self.value = self.add_weight(shape=(), initializer="zeros", name="value")

    def update_state(self, y_true: Any, y_pred: Any) -> None:
        self.value.assign(tf.maximum(self.value, tf.reduce_max(tf.abs(y_pred))))

    def result(self) -> Any:
        return self.value


@component("signatures/Largest")
class Largest(Worst):
    """The same as Keras calls it."""

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        super().update_state(y_true, y_pred)


@component("signatures/share", kind="metric")
def share(y_true: Any, y_pred: Any, limit: float = 0.0) -> Any:
    """The share of outputs above a limit."""
    return tf.reduce_mean(tf.cast(y_pred > limit, tf.float32), -1)
