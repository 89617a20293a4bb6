"""`wing`: Wing loss of Feng et al., "Wing Loss for Robust Facial Landmark Localisation with Convolutional Neural
Networks" (2018), arXiv:1711.06753, eq. 5.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from tapeworks import component

_EXAMPLE = {
    "config": {"w": 10.0, "epsilon": 2.0},
    "y_true": tf.TensorSpec([None, 10], tf.float32),
    "y_pred": tf.TensorSpec([None, 10], tf.float32),
}


@component("wing", example=_EXAMPLE)
class Wing(keras.losses.Loss):
    """For an error x, `w ln(1 + |x| / epsilon)` where `|x| < w`, else `|x| - w + w ln(1 + w / epsilon)`.

    Like the absolute error for large errors, and steeper for small ones. `y` and outputs are float32 or float64 of
    one shape, `(…, coordinates)`, in the unit of `w`; `y` may lack a last dimension of 1. The mean over the last axis
    is returned (the paper sums), `(…)`; outputs `(n,)` are returned as `(n,)`.

    Args:
        w: the size of error up to which the loss is logarithmic; 10 pixels in the paper.
        epsilon: the curvature; small values make gradients near 0 large: they reach w / epsilon.
    """

    def __init__(self, w: float = 10.0, epsilon: float = 2.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if w <= 0 or epsilon <= 0:
            raise ValueError(f"w and epsilon must be positive, not {w} and {epsilon}")
        self.w = w
        self.epsilon = epsilon

    def call(self, y_true: Any, y_pred: Any) -> Any:
        y_pred = tf.convert_to_tensor(y_pred)
        y = _of_shape(tf.cast(y_true, y_pred.dtype), y_pred)
        error = tf.abs(y - y_pred)
        offset = self.w - self.w * math.log1p(self.w / self.epsilon)
        loss = tf.where(error < self.w, self.w * tf.math.log1p(error / self.epsilon), error - offset)
        return loss if loss.shape.rank == 1 else tf.reduce_mean(loss, axis=-1)


def _of_shape(y: Any, y_pred: Any) -> Any:
    """y as `(n,)` or `(n, 1)`, like the outputs: the one against the other would broadcast to n × n."""
    if y.shape.rank == y_pred.shape.rank - 1 and y_pred.shape[-1] == 1:
        return y[..., tf.newaxis]
    if y.shape.rank == y_pred.shape.rank + 1 and y.shape[-1] == 1:
        return tf.squeeze(y, axis=-1)
    if y.shape.rank != y_pred.shape.rank:
        raise ValueError(f"y of shape {y.shape} does not go with outputs of shape {y_pred.shape}")
    return y
