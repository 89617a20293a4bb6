"""`unit_ball`: weights projected into a ball.

Srebro & Shraibman, "Rank, Trace-Norm and Max-Norm" (2005), doi:10.1007/11503415_37; for networks Srivastava et al.,
"Dropout: A Simple Way to Prevent Neural Networks from Overfitting" (2014), section 5.1.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tapeworks import component


@component("unit_ball", example={"config": {}, "inputs": tf.TensorSpec([4, 3], tf.float32)})
class UnitBall(keras.constraints.Constraint):
    """`w · min(1, max_norm / ‖w‖)`: the nearest point of the ball. What lies inside stays, bit for bit.

    `keras/MaxNorm` divides by `‖w‖ + epsilon`, so it moves every weight at every step, inside the ball as well.
    Weights are of any shape and float dtype; the result has both.

    Args:
        max_norm: radius of the ball; positive.
        axis: dimensions that make up one vector: 0 for each output of a dense kernel, `[0, 1, 2]` for each filter of
            a 2D convolution, -1 for each row of an embedding; None: the whole tensor is one vector.
    """

    def __init__(self, max_norm: float = 1.0, axis: int | list[int] | None = 0) -> None:
        if max_norm <= 0:
            raise ValueError(f"max_norm must be positive, not {max_norm}")
        self.max_norm = max_norm
        self.axis = axis

    def __call__(self, w: Any) -> Any:
        w = tf.convert_to_tensor(w)
        radius = tf.constant(self.max_norm, w.dtype)
        norms = tf.sqrt(tf.reduce_sum(tf.square(w), axis=self.axis, keepdims=True))
        return tf.where(norms > radius, w * (radius / tf.maximum(norms, radius)), w)
