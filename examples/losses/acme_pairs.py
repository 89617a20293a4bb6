"""Pairs for a contrastive loss, and how many of them a distance tells right."""

import keras
import tensorflow as tf

from tapeworks import component


@component(
    "acme/Pairs",
    example={"config": {}, "inputs": (tf.TensorSpec([None, 4], tf.float32), tf.TensorSpec([None], tf.int64))},
)
class Pairs:
    """From a batch `(x, y)` to twice as many pairs `({"first": x, "second": x}, 1 for one class, else 0)`.

    Neighbours in the order of the labels mostly belong together, neighbours in a shuffled batch mostly do not.
    """

    def __call__(self, x, y):
        orders = [tf.argsort(y), tf.range(tf.shape(y)[0])]
        first = tf.concat(orders, axis=0)
        second = tf.concat([tf.roll(order, 1, axis=0) for order in orders], axis=0)
        together = tf.gather(y, first) == tf.gather(y, second)
        return {"first": tf.gather(x, first), "second": tf.gather(x, second)}, tf.cast(together, x.dtype)


@component(
    "acme/PairAccuracy",
    example={"config": {}, "y_true": tf.TensorSpec([None], tf.float32), "y_pred": tf.TensorSpec([None, 2, 4])},
)
class PairAccuracy(keras.metrics.Mean):
    """How often a distance below `threshold` means that two embeddings `(n, 2, d)` belong together."""

    def __init__(self, threshold: float = 0.5, name: str = "pair_accuracy", **kwargs):
        super().__init__(name=name, **kwargs)
        self.threshold = threshold

    def update_state(self, y_true, y_pred, sample_weight=None):
        near = tf.norm(y_pred[:, 0] - y_pred[:, 1], axis=-1) < self.threshold
        right = near == (tf.reshape(y_true, [-1]) > 0.5)
        return super().update_state(tf.cast(right, self.dtype), sample_weight)
