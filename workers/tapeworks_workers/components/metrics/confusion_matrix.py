"""`confusion_matrix`: how often each class was taken for which. Counts as scikit-learn's `confusion_matrix` does."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tapeworks import component

_EXAMPLE = {
    "config": {"classes": 3},
    "y_true": tf.TensorSpec([None], tf.int64),
    "y_pred": tf.TensorSpec([None, 3], tf.float32),
}

_MOST_CLASSES = 64
"""A report carries classes² numbers, each under a name of its own."""


@component("confusion_matrix", example=_EXAMPLE)
class ConfusionMatrix(keras.metrics.Metric):
    """Counts of (true class, predicted class), as a dict: `true_0_predicted_0`, `true_0_predicted_1`, … .

    `y` is sparse, `(…)` or `(…, 1)`, or one-hot, `(…, classes)`; the prediction is the largest of the outputs
    `(…, classes)`, logits or probabilities of any float dtype. `sample_weight`, one an example, makes sums of the
    counts. Labels outside 0 … classes - 1 (an ignored class of -1) are left out. Counts are kept for the whole split.
    In a job the values are named `confusion_matrix_true_0_predicted_1` and so on, and each can be monitored.

    Args:
        classes: how many there are, 2 … 64.
    """

    def __init__(self, classes: int, name: str = "confusion_matrix", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        if not 2 <= classes <= _MOST_CLASSES:
            raise ValueError(f"classes must be 2 … {_MOST_CLASSES}, not {classes}")
        self.classes = classes
        self.counts = self.add_weight(name="counts", shape=(classes, classes), initializer="zeros", dtype=self.dtype)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        y_true, y_pred = tf.convert_to_tensor(y_true), tf.convert_to_tensor(y_pred)
        if y_pred.shape.rank is None or y_pred.shape.rank < 2 or y_pred.shape[-1] != self.classes:
            raise ValueError(f"confusion_matrix needs outputs of shape (…, {self.classes}), not {y_pred.shape}")
        guess = tf.reshape(tf.argmax(y_pred, axis=-1, output_type=tf.int32), [-1])
        if y_true.shape.rank == y_pred.shape.rank and y_true.shape[-1] != 1:
            y_true = tf.argmax(y_true, axis=-1)
        labels = tf.reshape(tf.cast(y_true, tf.int32), [-1])
        weight = tf.ones_like(labels, self.dtype)
        if sample_weight is not None:
            weight = tf.reshape(tf.cast(sample_weight, self.dtype), [-1])
        known = (labels >= 0) & (labels < self.classes)
        cell = tf.where(known, labels * self.classes + guess, -tf.ones_like(labels))  # -1 is dropped
        sums = tf.math.unsorted_segment_sum(weight, cell, self.classes**2)
        self.counts.assign_add(tf.reshape(sums, [self.classes, self.classes]))

    def result(self) -> dict[str, Any]:
        rows = [tf.unstack(row) for row in tf.unstack(tf.convert_to_tensor(self.counts))]
        return {
            f"true_{true}_predicted_{predicted}": count
            for true, row in enumerate(rows)
            for predicted, count in enumerate(row)
        }
