"""`accuracy`: what Keras means by `metrics=["accuracy"]`, chosen by the shapes of labels and outputs."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tapeworks import component

_EXAMPLE = {"y_true": tf.TensorSpec([None], tf.int64), "y_pred": tf.TensorSpec([None, 5], tf.float32)}


@component("accuracy", example=_EXAMPLE)
class Accuracy(keras.metrics.MeanMetricWrapper):
    """`BinaryAccuracy`, `SparseCategoricalAccuracy` or `CategoricalAccuracy`, by the rule of `compile`.

    Outputs whose last dimension is 1 are binary. Labels with fewer dimensions than the outputs, or with a last
    dimension of 1, are class numbers; all others have the outputs' shape. `sample_weight` is as for these metrics.
    """

    def __init__(self, name: str = "accuracy", dtype: str | None = None) -> None:
        super().__init__(_accuracy, name=name, dtype=dtype)
        self._direction = "up"


def _accuracy(y_true: Any, y_pred: Any) -> Any:
    labels, outputs = tf.convert_to_tensor(y_true).shape, tf.convert_to_tensor(y_pred).shape
    if outputs[-1] == 1:
        return keras.metrics.binary_accuracy(y_true, y_pred)
    if labels.rank < outputs.rank or labels[-1] == 1:
        return keras.metrics.sparse_categorical_accuracy(y_true, y_pred)
    return keras.metrics.categorical_accuracy(y_true, y_pred)
