"""`expected_calibration_error`: how far confidence is from accuracy.

Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning" (2015), AAAI;
Guo et al., "On Calibration of Modern Neural Networks" (2017), arXiv:1706.04599, eq. 3.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tapeworks import component

_EXAMPLE = {
    "config": {"bins": 15},
    "y_true": tf.TensorSpec([None], tf.int64),
    "y_pred": tf.TensorSpec([None, 3], tf.float32),
}


@component("expected_calibration_error", example=_EXAMPLE)
class ExpectedCalibrationError(keras.metrics.Metric):
    """The mean over examples of |accuracy - confidence| of the bin that the example's confidence falls into.

    Confidence is the probability of the predicted class; bin m of M holds `(m - 1) / M < confidence ≤ m / M`.
    Outputs of any float dtype are `(…, k)` for k classes, with `y` sparse, `(…)` or `(…, 1)`, or one-hot, `(…, k)`; or
    `(n,)` and `(…, 1)` for two classes, with `y` 0 or 1 in that shape or without the last dimension. `sample_weight`
    is one an example. Sums are kept in bins for the whole split, so the value is that of all examples together,
    however they were batched: it is not the mean of the batches' values.

    Args:
        bins: M; bins are equally wide.
        from_logits: whether outputs are logits (True) or probabilities.
    """

    def __init__(
        self,
        bins: int = 15,
        from_logits: bool = True,
        name: str = "expected_calibration_error",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self._direction = "down"
        if bins < 1:
            raise ValueError(f"bins must be 1 or more, not {bins}")
        self.bins = bins
        self.from_logits = from_logits
        self.confidence = self.add_weight(name="confidence", shape=(bins,), initializer="zeros", dtype=self.dtype)
        self.correct = self.add_weight(name="correct", shape=(bins,), initializer="zeros", dtype=self.dtype)
        self.examples = self.add_weight(name="examples", shape=(), initializer="zeros", dtype=self.dtype)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        y_true, y_pred = tf.convert_to_tensor(y_true), tf.cast(y_pred, self.dtype)
        confidence, correct = self._judged(y_true, y_pred)
        weight = tf.ones_like(confidence)
        if sample_weight is not None:
            weight = tf.reshape(tf.cast(sample_weight, self.dtype), [-1])
        index = tf.cast(tf.math.ceil(confidence * self.bins), tf.int32) - 1
        index = tf.clip_by_value(index, 0, self.bins - 1)
        self.confidence.assign_add(tf.math.unsorted_segment_sum(confidence * weight, index, self.bins))
        self.correct.assign_add(tf.math.unsorted_segment_sum(correct * weight, index, self.bins))
        self.examples.assign_add(tf.reduce_sum(weight))

    def _judged(self, y: Any, y_pred: Any) -> tuple[Any, Any]:
        """The confidence of each prediction, and 1 where it is right; `(n,)` both."""
        classes = 1 if y_pred.shape.rank == 1 else y_pred.shape[-1]
        if classes is None:
            raise ValueError(f"outputs must have a known last dimension, not {y_pred.shape}")
        if classes == 1:
            p = tf.reshape(tf.sigmoid(y_pred) if self.from_logits else y_pred, [-1])
            guess = tf.cast(p > 0.5, tf.int32)
            confidence = tf.maximum(p, 1.0 - p)
        else:
            p = tf.reshape(tf.nn.softmax(y_pred) if self.from_logits else y_pred, [-1, classes])
            guess = tf.argmax(p, axis=-1, output_type=tf.int32)
            confidence = tf.reduce_max(p, axis=-1)
            if y.shape.rank == y_pred.shape.rank and y.shape[-1] != 1:
                y = tf.argmax(y, axis=-1)
        labels = tf.reshape(tf.cast(y, tf.int32), [-1])
        return confidence, tf.cast(tf.equal(guess, labels), self.dtype)

    def result(self) -> Any:
        gaps = tf.reduce_sum(tf.abs(self.correct.value - self.confidence.value))
        return tf.math.divide_no_nan(gaps, self.examples.value)
