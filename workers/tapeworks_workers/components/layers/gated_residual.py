"""`gated_residual`: the gated residual block of Lim et al., "Temporal Fusion Transformers" (2019), arXiv:1912.09363."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tapeworks import component


@component("gated_residual", example={"config": {"units": 8}, "inputs": tf.TensorSpec([None, 4], tf.float32)})
class GatedResidual(keras.layers.Layer):
    """`LayerNorm(x + sigmoid(a) * b)` with `a, b` from a dense layer on `activation(dense(x))`. Keeps the shape.

    A gate near 0 leaves x as it is: the block learns how much of itself is needed.

    Args:
        units: of the hidden dense layer.
        activation: Keras' name.
        dropout: rate before the gate.
        kernel_regularizer: of both dense layers' kernels.
    """

    def __init__(
        self,
        units: int,
        activation: str = "elu",
        dropout: float = 0.0,
        kernel_regularizer: keras.regularizers.Regularizer | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.activation = activation
        self.dropout_rate = dropout
        self.kernel_regularizer = kernel_regularizer
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        size = input_shape[-1]
        if size is None:
            raise ValueError(f"gated_residual needs an input whose last dimension is known, not {input_shape}")
        regularizer, dtype = self.kernel_regularizer, self.dtype_policy
        self.hidden = keras.layers.Dense(
            self.units, activation=self.activation, kernel_regularizer=regularizer, dtype=dtype, name="hidden"
        )
        self.gate = keras.layers.Dense(2 * size, kernel_regularizer=regularizer, dtype=dtype, name="gate")
        self.dropout = keras.layers.Dropout(self.dropout_rate, dtype=dtype, name="dropout")
        self.normalization = keras.layers.LayerNormalization(dtype=dtype, name="normalization")
        self.hidden.build(input_shape)
        self.gate.build((*input_shape[:-1], self.units))
        self.normalization.build(input_shape)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        hidden = self.dropout(self.hidden(inputs), training=training)
        gate, value = tf.split(self.gate(hidden), 2, axis=-1)
        return self.normalization(inputs + tf.sigmoid(gate) * value)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape
