"""`residual`: the block of He et al., "Deep Residual Learning for Image Recognition" (2015), arXiv:1512.03385."""

from __future__ import annotations

from typing import Any, Literal

import keras
import tensorflow as tf

from tapeworks import component

_CONVOLUTIONS = {3: keras.layers.Conv1D, 4: keras.layers.Conv2D, 5: keras.layers.Conv3D}
_EXAMPLE = {"config": {"filters": 3}, "inputs": tf.TensorSpec([None, 6, 6, 2], tf.float32)}


@component("residual", example=_EXAMPLE)
class Residual(keras.layers.Layer):
    """`activation(F(x) + x)` where F is two dense or convolutional layers, each normalised, an activation between them.

    With `filters`, x is `(batch, length, channels)`, `(batch, height, width, channels)` or has one dimension more, of
    any float dtype, and so is the output, with `filters` channels; with `units`, x is `(batch, …, features)` and the
    output `(batch, …, units)`. Where the shapes of F(x) and x differ, x goes through a linear projection (option B of
    the paper); otherwise it is added as it is. The dtype is the layer's compute dtype.

    Args:
        filters: channels of both convolutions; give this or `units`.
        units: of both dense layers; give this or `filters`.
        kernel_size: of both convolutions.
        strides: of the first convolution.
        activation: Keras' name.
        normalization: after each dense or convolutional layer: of the batch, of each example, or none.
        dropout: rate after the inner activation.
        kernel_regularizer: of every kernel.

    Raises ValueError where neither or both of `filters` and `units` are given, or x has no known last dimension.
    """

    def __init__(
        self,
        filters: int | None = None,
        units: int | None = None,
        kernel_size: int = 3,
        strides: int = 1,
        activation: str = "relu",
        normalization: Literal["batch", "layer", "none"] = "batch",
        dropout: float = 0.0,
        kernel_regularizer: keras.regularizers.Regularizer | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if (filters is None) == (units is None):
            raise ValueError("residual takes either filters (convolutions) or units (dense layers)")
        if units is not None and strides != 1:
            raise ValueError(f"strides are of convolutions: residual with units takes none, not {strides}")
        self.filters = filters
        self.units = units
        self.kernel_size = kernel_size
        self.strides = strides
        self.activation = keras.activations.get(activation)
        self.normalization = normalization
        self.dropout_rate = dropout
        self.kernel_regularizer = kernel_regularizer
        # A mask runs along the steps, which strides leave out and convolutions smear.
        self.supports_masking = units is not None

    def build(self, input_shape: Any) -> None:
        shape = tuple(input_shape)
        if shape[-1] is None:
            raise ValueError(f"residual needs an input whose last dimension is known, not {shape}")
        if self.filters is not None and len(shape) not in _CONVOLUTIONS:
            raise ValueError(f"residual with filters takes inputs of rank 3, 4 or 5, not {shape}")
        size = self.filters if self.filters is not None else self.units
        plain = self.normalization == "none"
        self.first = self._linear(shape, "first", self.kernel_size, self.strides, use_bias=plain)
        self.first.build(shape)
        inner = self.first.compute_output_shape(shape)
        self.first_normalization = self._normalization(inner, "first_normalization")
        self.dropout = keras.layers.Dropout(self.dropout_rate, dtype=self.dtype_policy, name="dropout")
        self.second = self._linear(inner, "second", self.kernel_size, 1, use_bias=plain)
        self.second.build(inner)
        self.second_normalization = self._normalization(inner, "second_normalization")
        self.projection = self.projection_normalization = None
        if self.strides != 1 or shape[-1] != size:
            self.projection = self._linear(shape, "projection", 1, self.strides, use_bias=plain)
            self.projection.build(shape)
            self.projection_normalization = self._normalization(inner, "projection_normalization")

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        hidden = self.activation(_through(self.first_normalization, self.first(inputs), training))
        hidden = self.dropout(hidden, training=training)
        outputs = _through(self.second_normalization, self.second(hidden), training)
        shortcut = inputs
        if self.projection is not None:
            shortcut = _through(self.projection_normalization, self.projection(inputs), training)
        return self.activation(outputs + shortcut)

    def compute_output_shape(self, input_shape: Any) -> Any:
        if self.units is not None:
            return (*input_shape[:-1], self.units)
        steps = [None if size is None else -(-size // self.strides) for size in input_shape[1:-1]]
        return (input_shape[0], *steps, self.filters)

    def _linear(self, shape: Any, name: str, kernel_size: int, strides: int, *, use_bias: bool) -> keras.layers.Layer:
        shared = {
            "use_bias": use_bias,
            "kernel_initializer": "he_normal",
            "kernel_regularizer": self.kernel_regularizer,
            "dtype": self.dtype_policy,
            "name": name,
        }
        if self.units is not None:
            return keras.layers.Dense(self.units, **shared)
        return _CONVOLUTIONS[len(shape)](self.filters, kernel_size, strides=strides, padding="same", **shared)

    def _normalization(self, shape: Any, name: str) -> keras.layers.Layer | None:
        if self.normalization == "none":
            return None
        kind = keras.layers.BatchNormalization if self.normalization == "batch" else keras.layers.LayerNormalization
        layer = kind(dtype=self.dtype_policy, name=name)
        layer.build(shape)
        return layer


def _through(normalization: Any, values: Any, training: bool | None) -> Any:
    if normalization is None:
        return values
    if isinstance(normalization, keras.layers.BatchNormalization):
        return normalization(values, training=training)
    return normalization(values)
