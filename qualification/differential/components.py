"""Losses, metrics, layers and optimizers as users write them, and the source that holds a set-up's arrays."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from tapeworks import Source, component

ARRAYS: dict[str, Any] = {}
"""Name → elements of a split, as `from_tensor_slices` takes them. A set-up puts its own here."""


@component("differential/Held")
class Held(Source):
    """The arrays of a set-up that this process holds."""

    def __init__(self, name: str) -> None:
        self.name = name

    def dataset(self) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices(ARRAYS[self.name])


@component("differential/Quantile")
class Quantile(keras.losses.Loss):
    """Pinball loss, a class with an argument."""

    def __init__(self, quantile: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.quantile = quantile

    def call(self, y_true: Any, y_pred: Any) -> Any:
        error = ops.reshape(ops.cast(y_true, y_pred.dtype), ops.shape(y_pred)) - y_pred
        return ops.mean(ops.maximum(self.quantile * error, (self.quantile - 1) * error), axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "quantile": self.quantile}


@component("differential/quartic", kind="loss")
def quartic(y_true: Any, y_pred: Any) -> Any:
    """A loss that is a function."""
    return ops.mean((ops.reshape(ops.cast(y_true, y_pred.dtype), ops.shape(y_pred)) - y_pred) ** 4, axis=-1)


@component("differential/LargestError")
class LargestError(keras.metrics.Metric):
    """A metric that is no mean, and heeds no weights."""

    def __init__(self, scale: float = 1.0, name: str = "largest_error", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.scale = scale
        self.largest = self.add_variable((), initializer="zeros", name="largest")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        true = ops.reshape(ops.cast(y_true, self.dtype), (-1,))
        error = ops.max(ops.abs(ops.mean(ops.cast(y_pred, self.dtype)) - true))
        self.largest.assign(ops.maximum(self.largest, self.scale * error))

    def result(self) -> Any:
        return self.largest + 0.0

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scale": self.scale}


@component("differential/mean_bias", kind="metric")
def mean_bias(y_true: Any, y_pred: Any) -> Any:
    """A metric that is a function."""
    return ops.mean(y_pred, axis=-1) - ops.mean(ops.reshape(ops.cast(y_true, y_pred.dtype), ops.shape(y_pred)), axis=-1)


@component("differential/Shift")
class Shift(keras.layers.Layer):
    """Adds a trained vector, a loss of its own, and counts its calls in training."""

    def __init__(self, penalty: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.penalty = penalty
        self.supports_masking = True

    def build(self, shape: Any) -> None:
        self.shift = self.add_weight(shape=(shape[-1],), initializer="ones", name="shift")
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")

    def call(self, x: Any, training: bool = False) -> Any:
        if training:
            self.calls.assign(self.calls + 1)
        if self.penalty:
            self.add_loss(self.penalty * ops.sum(ops.square(self.shift)))
        return x + ops.cast(self.shift, x.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "penalty": self.penalty}


@component("differential/Slowed")
class Slowed(keras.optimizers.SGD):
    """Overrides `update_step`."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        super().update_step(gradient, variable, 0.5 * learning_rate)


@component("differential/Signed")
class Signed(keras.optimizers.Adam):
    """Overrides `apply_gradients`."""

    def apply_gradients(self, grads_and_vars: Any) -> Any:
        return super().apply_gradients(
            [(0.5 * tf.convert_to_tensor(gradient), variable) for gradient, variable in grads_and_vars]
        )


@component("differential/Centred")
class Centred(keras.optimizers.SGD):
    """Overrides `apply`."""

    def apply(self, grads: Any, trainable_variables: Any = None) -> Any:
        dense = [tf.convert_to_tensor(gradient) for gradient in grads]
        return super().apply([gradient - ops.mean(gradient) for gradient in dense], trainable_variables)
