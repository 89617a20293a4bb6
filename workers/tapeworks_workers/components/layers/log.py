"""`log`: log(1 + x), for amounts that differ by orders of magnitude (tf.math.log1p)."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tapeworks import component

_EXAMPLE = {"config": {"signed": True}, "inputs": tf.TensorSpec([None, 3], tf.float32)}


@component("log", example=_EXAMPLE)
class Log(keras.layers.Layer):
    """`log(1 + x)`; with `signed` `sign(x) log(1 + |x|)`, which takes negative numbers and is its own mirror image.

    Takes numbers of any shape and gives floats of the same shape: floats keep their dtype, integers become the layer's
    variable dtype. Inputs are not cast to the compute dtype, so amounts beyond float16 are right in mixed precision.
    Without `signed` a number of -1 or less has no logarithm: the result is -inf or NaN. NaN stays NaN.

    Args:
        signed: whether negative numbers are mirrored.
    """

    def __init__(self, signed: bool = False, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.signed = signed

    def build(self, input_shape: Any) -> None:
        """No variables."""

    def call(self, inputs: Any) -> Any:
        x = inputs if inputs.dtype.is_floating else tf.cast(inputs, self.variable_dtype)
        return tf.sign(x) * tf.math.log1p(tf.abs(x)) if self.signed else tf.math.log1p(x)

    def compute_output_spec(self, inputs: Any) -> Any:
        """Floats keep their dtype."""
        return keras.KerasTensor(inputs.shape, dtype=inputs.dtype if "float" in inputs.dtype else self.variable_dtype)
