"""`recall_at_k`: how much of what is right is among the k highest scores.

Manning, Raghavan and Schütze, "Introduction to Information Retrieval" (2008), section 8.4.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tapeworks import component

_EXAMPLE = {
    "config": {"k": 2},
    "y_true": tf.TensorSpec([None], tf.int64),
    "y_pred": tf.TensorSpec([None, 5], tf.float32),
}


@component("recall_at_k", example=_EXAMPLE)
class RecallAtK(keras.metrics.Metric):
    """The mean over examples of (relevant classes among the k highest scores) / (relevant classes).

    Scores, `(…, classes)`, are logits or probabilities of any float dtype; equal ones rank by their index. `y` is one
    class each, `(…)` or `(…, 1)`, which makes it top-k accuracy, or multi-hot, `(…, classes)`: everything that is
    relevant to the example. Examples without a relevant class are left out. `sample_weight` is `(…)` or `(…, 1)`.
    Sums are kept for the whole split, so the value is that of all examples together, however they were batched.

    This ranks classes (or the items of a fixed catalogue) by a model's outputs. The recall of embeddings against a
    gallery needs all examples at once, and so is the work of an evaluator.

    Args:
        k: how many of the highest scores count.
    """

    def __init__(self, k: int = 1, name: str = "recall_at_k", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self._direction = "up"
        if k < 1:
            raise ValueError(f"k must be 1 or more, not {k}")
        self.k = k
        self.recalled = self.add_weight(name="recalled", shape=(), initializer="zeros", dtype=self.dtype)
        self.examples = self.add_weight(name="examples", shape=(), initializer="zeros", dtype=self.dtype)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        y_true, y_pred = tf.convert_to_tensor(y_true), tf.convert_to_tensor(y_pred)
        classes = y_pred.shape[-1] if y_pred.shape.rank else None
        if classes is None or classes < self.k:
            raise ValueError(f"recall_at_k with k of {self.k} needs scores of shape (…, {self.k} or more)")
        highest = tf.math.top_k(tf.reshape(y_pred, [-1, classes]), k=self.k).indices
        if y_true.shape.rank == y_pred.shape.rank and y_true.shape[-1] != 1:
            relevant = tf.reshape(tf.cast(y_true, self.dtype), [-1, classes])
            found = tf.reduce_sum(tf.gather(relevant, highest, batch_dims=1), axis=-1)
            weight = tf.cast(tf.reduce_any(relevant > 0, axis=-1), self.dtype)
            recall = tf.math.divide_no_nan(found, tf.reduce_sum(relevant, axis=-1))
        else:
            labels = tf.reshape(tf.cast(y_true, highest.dtype), [-1, 1])
            recall = tf.cast(tf.reduce_any(tf.equal(highest, labels), axis=-1), self.dtype)
            weight = tf.ones_like(recall)
        if sample_weight is not None:
            weight *= tf.reshape(tf.cast(sample_weight, self.dtype), [-1])
        self.recalled.assign_add(tf.reduce_sum(recall * weight))
        self.examples.assign_add(tf.reduce_sum(weight))

    def result(self) -> Any:
        return tf.math.divide_no_nan(self.recalled.value, self.examples.value)
