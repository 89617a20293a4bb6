"""`macro_f_beta`: F-beta of each class, averaged over the classes."""

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


@component("macro_f_beta", example=_EXAMPLE)
class MacroFBeta(keras.metrics.Metric):
    """The mean over classes of `(1 + beta²) · precision · recall / (beta² · precision + recall)`.

    Counts are kept for the whole split, so the value is that of all examples together, as scikit-learn's
    `fbeta_score(average="macro")`. Classes that neither labels nor predictions hold are left out of the mean.
    `y` is sparse, `(n,)` or `(n, 1)`; the prediction is the largest of the outputs `(n, classes)`.

    Args:
        classes: how many there are.
        beta: how many times recall is as important as precision.
    """

    def __init__(self, classes: int, beta: float = 1.0, name: str = "macro_f_beta", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self._direction = "up"
        if classes < 2 or beta <= 0:
            raise ValueError(f"classes must be 2 or more and beta positive, not {classes} and {beta}")
        self.classes = classes
        self.beta = beta
        self.hits = self.add_weight(name="hits", shape=(classes,), initializer="zeros", dtype=self.dtype)
        self.predicted = self.add_weight(name="predicted", shape=(classes,), initializer="zeros", dtype=self.dtype)
        self.actual = self.add_weight(name="actual", shape=(classes,), initializer="zeros", dtype=self.dtype)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        y_true = tf.reshape(tf.cast(y_true, tf.int32), [-1])
        guess = tf.reshape(tf.argmax(y_pred, axis=-1, output_type=tf.int32), [-1])
        weight = tf.ones_like(guess, self.dtype)
        if sample_weight is not None:
            weight *= tf.reshape(tf.cast(sample_weight, self.dtype), [-1])
        actual = tf.one_hot(y_true, self.classes, dtype=self.dtype) * weight[:, tf.newaxis]
        guessed = tf.one_hot(guess, self.classes, dtype=self.dtype)
        self.hits.assign_add(tf.reduce_sum(actual * guessed, axis=0))
        self.predicted.assign_add(tf.reduce_sum(guessed * weight[:, tf.newaxis], axis=0))
        self.actual.assign_add(tf.reduce_sum(actual, axis=0))

    def result(self) -> Any:
        square = self.beta**2
        # In counts, so that no precision or recall of 0/0 comes up: (1 + b²)·hits / (b²·actual + predicted).
        total = square * self.actual + self.predicted
        seen = tf.cast(total > 0, self.dtype)
        scores = tf.math.divide_no_nan((1.0 + square) * self.hits, total)
        return tf.math.divide_no_nan(tf.reduce_sum(scores), tf.reduce_sum(seen))
