"""`clip`: numbers held between two bounds (tf.clip_by_value)."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tapeworks import component

_EXAMPLE = {"config": {"minimum": -1.0, "maximum": 1.0}, "inputs": tf.TensorSpec([None, 3], tf.float32)}


@component("clip", example=_EXAMPLE)
class Clip(keras.layers.Layer):
    """Numbers below `minimum` become it, those above `maximum` likewise; NaN stays NaN.

    Takes floats or integers of any shape and gives the same shape and dtype: inputs are not cast to the compute dtype.

    Args:
        minimum: the lower bound; None: there is none.
        maximum: the upper bound; None: there is none.
    """

    def __init__(self, minimum: float | None = None, maximum: float | None = None, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        if minimum is None and maximum is None:
            raise ValueError("give minimum, maximum or both")
        if minimum is not None and maximum is not None and minimum > maximum:
            raise ValueError(f"minimum must not exceed maximum, got {minimum} and {maximum}")
        self.minimum = minimum
        self.maximum = maximum

    def build(self, input_shape: Any) -> None:
        """No variables."""

    def call(self, inputs: Any) -> Any:
        for bound in (self.minimum, self.maximum):
            if inputs.dtype.is_integer and bound is not None and bound != int(bound):
                raise ValueError(f"{bound} is not an integer bound: cast the column to a float, or give an integer")
        if self.minimum is not None:
            inputs = tf.maximum(inputs, tf.cast(self.minimum, inputs.dtype))
        return inputs if self.maximum is None else tf.minimum(inputs, tf.cast(self.maximum, inputs.dtype))

    def compute_output_spec(self, inputs: Any) -> Any:
        """The dtype stays."""
        return keras.KerasTensor(inputs.shape, dtype=inputs.dtype)
