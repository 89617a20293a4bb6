"""`dice`: soft Dice loss of Milletari et al., "V-Net" (2016), arXiv:1606.04797.

The denominator is linear, as in Sudre et al., "Generalised Dice Overlap as a Deep Learning Loss Function for Highly
Unbalanced Segmentations" (2017), arXiv:1707.03237, and in Keras.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tapeworks import component

_EXAMPLE = {
    "config": {"smooth": 1.0},
    "y_true": tf.TensorSpec([None, 6, 6, 1], tf.float32),
    "y_pred": tf.TensorSpec([None, 6, 6, 1], tf.float32),
}


@component("dice", example=_EXAMPLE)
class Dice(keras.losses.Loss):
    """`1 - (2 Σ y p + smooth) / (Σ y + Σ p + smooth)`, summed over an example's positions.

    Outputs of shape `(n, …, 1)`, float32 or float64, are binary (by sigmoid); `y` is 0 or 1 (or between), `(n, …)` or
    `(n, …, 1)`. Outputs of shape `(n, …, k)` are k classes (by softmax); `y` is sparse, `(n, …)` or `(n, …, 1)`, or
    one-hot, `(n, …, k)`; the loss is averaged over the classes. One value an example, `(n,)`, is returned.

    An example without positives costs what its predicted positives cost; 0/0 (nothing there, nothing predicted,
    `smooth` of 0) counts as full overlap: 0.

    Args:
        smooth: added above and below, in positions; keeps examples without positives steady.
        from_logits: whether outputs are logits (True) or probabilities.
    """

    label_domain = (0.0, 1.0)

    def __init__(self, smooth: float = 1.0, from_logits: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if smooth < 0:
            raise ValueError(f"smooth must be 0 or more, not {smooth}")
        self.smooth = smooth
        self.from_logits = from_logits

    def call(self, y_true: Any, y_pred: Any) -> Any:
        y_pred = tf.convert_to_tensor(y_pred)
        y, p = _by_class(tf.convert_to_tensor(y_true), y_pred, self.from_logits)
        above = 2.0 * tf.reduce_sum(y * p, axis=1) + self.smooth
        below = tf.reduce_sum(y, axis=1) + tf.reduce_sum(p, axis=1) + self.smooth
        overlap = tf.where(below > 0, tf.math.divide_no_nan(above, below), tf.ones_like(below))
        return 1.0 - tf.reduce_mean(overlap, axis=-1)


def _by_class(y: Any, y_pred: Any, from_logits: bool) -> tuple[Any, Any]:
    """Labels and probabilities, `(n, positions, classes)` both."""
    classes = y_pred.shape[-1] if y_pred.shape.rank else None
    if classes is None or y_pred.shape.rank < 2:
        raise ValueError(f"outputs must be (n, …, classes) with a known number of classes, not {y_pred.shape}")
    if from_logits:
        y_pred = tf.sigmoid(y_pred) if classes == 1 else tf.nn.softmax(y_pred)
    if y.shape.rank == y_pred.shape.rank and y.shape[-1] != classes:
        y = tf.squeeze(y, axis=-1)
    if y.shape.rank == y_pred.shape.rank - 1 and classes > 1:
        y = tf.one_hot(tf.cast(y, tf.int32), classes, dtype=y_pred.dtype)
    positions = tf.reduce_prod(tf.shape(y_pred)[1:-1])  # 1 for outputs (n, classes)
    shape = tf.stack([tf.shape(y_pred)[0], positions, classes])
    return tf.reshape(tf.cast(y, y_pred.dtype), shape), tf.reshape(y_pred, shape)
