"""`glu`: the gated linear unit of Dauphin et al., "Language Modeling with Gated Convolutional Networks" (2016).

arXiv:1612.08083; published at ICML 2017.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tapeworks import component


@component("glu", example={"config": {"units": 3}, "inputs": tf.TensorSpec([None, 4], tf.float32)})
class GatedLinearUnit(keras.layers.Layer):
    """`(x W + b) · gate(x V + c)`: a linear path, and a gate that decides how much of it passes.

    x is `(batch, …, features)` of any float dtype; the output is `(batch, …, units)` in the layer's compute dtype.

    Args:
        units: features of the output.
        gate: Keras' name of the gate's activation; the paper's is `sigmoid`, `swish` and `gelu` are Shazeer's variants
            (2020, arXiv:2002.05202).
        use_bias: whether there are b and c.
        kernel_regularizer: of W and V.
    """

    def __init__(
        self,
        units: int,
        gate: str = "sigmoid",
        use_bias: bool = True,
        kernel_regularizer: keras.regularizers.Regularizer | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if units < 1:
            raise ValueError(f"units must be 1 or more, not {units}")
        self.units = units
        self.gate = keras.activations.get(gate)
        self.use_bias = use_bias
        self.kernel_regularizer = kernel_regularizer
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        if input_shape[-1] is None:
            raise ValueError(f"glu needs an input whose last dimension is known, not {input_shape}")
        shared = {"use_bias": self.use_bias, "kernel_regularizer": self.kernel_regularizer, "dtype": self.dtype_policy}
        self.linear_path = keras.layers.Dense(self.units, name="linear_path", **shared)
        self.gate_path = keras.layers.Dense(self.units, name="gate_path", **shared)
        self.linear_path.build(input_shape)
        self.gate_path.build(input_shape)

    def call(self, inputs: Any) -> Any:
        return self.linear_path(inputs) * self.gate(self.gate_path(inputs))

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (*input_shape[:-1], self.units)
