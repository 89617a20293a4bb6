"""A metric that gives several values, and a measure that needs all examples at once."""

import keras
import tensorflow as tf

from tapeworks import Evaluator, component


@component(
    "acme/ErrorShares",
    example={
        "config": {"limits": [1.0, 2.0]},
        "y_true": tf.TensorSpec([None], tf.float32),
        "y_pred": tf.TensorSpec([None, 1], tf.float32),
    },
)
class ErrorShares(keras.metrics.Metric):
    """The share of examples that are off by more than each of `limits`, as a dict."""

    def __init__(self, limits: list[float], name: str = "off_by_more_than", **kwargs):
        super().__init__(name=name, **kwargs)
        self.limits = limits
        self.above = self.add_weight(shape=(len(limits),), initializer="zeros", name="above")
        self.examples = self.add_weight(shape=(), initializer="zeros", name="examples")

    def update_state(self, y_true, y_pred, sample_weight=None):
        error = tf.abs(tf.reshape(tf.cast(y_true, self.dtype), [-1]) - tf.reshape(tf.cast(y_pred, self.dtype), [-1]))
        weight = tf.ones_like(error) if sample_weight is None else tf.cast(tf.reshape(sample_weight, [-1]), self.dtype)
        above = tf.cast(error[:, None] > tf.constant(self.limits, self.dtype), self.dtype)
        self.above.assign_add(tf.reduce_sum(above * weight[:, None], axis=0))
        self.examples.assign_add(tf.reduce_sum(weight))

    def result(self):
        shares = tf.math.divide_no_nan(self.above.value, self.examples.value)
        return {f"{limit:g}": shares[index] for index, limit in enumerate(self.limits)}


@component("acme/WorstTenth")
class WorstTenth(Evaluator):
    """The mean absolute error of the tenth of a split that is worst: no mean over batches can tell it."""

    def __init__(self, role: str = "model"):
        self.role = role

    def evaluate(self, dataset, run):
        model = run.models[self.role]
        errors = [tf.abs(tf.reshape(y, [-1]) - tf.reshape(model(x, training=False), [-1])) for x, y in dataset]
        errors = tf.sort(tf.concat(errors, axis=0), direction="DESCENDING")
        return {"worst_tenth": float(tf.reduce_mean(errors[: max(1, len(errors) // 10)]))}
