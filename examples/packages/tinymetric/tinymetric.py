"""Distances that mean something: what is alike lies close (Wang et al. 2019, "Multi-Similarity Loss", eq. 15)."""

import keras
import numpy as np
import tensorflow as tf

from tapeworks import Evaluator, component


@component("tinymetric/Encoder", example={"inputs": tf.TensorSpec([None, 64], tf.float32)})
class Encoder(keras.layers.Layer):
    """A point of the unit sphere for each example: `(n, features)` to `(n, dimension)`."""

    def __init__(self, dimension: int = 3, hidden: int = 64, **kwargs):
        super().__init__(**kwargs)
        self.hidden = keras.layers.Dense(hidden, activation="relu")
        self.point = keras.layers.Dense(dimension)

    def call(self, x):
        return tf.math.l2_normalize(self.point(self.hidden(x)), axis=-1)


LABELS, POINTS = tf.TensorSpec([None], tf.int64), tf.TensorSpec([None, 3], tf.float32)


@component("tinymetric/MultiSimilarity", example={"y_true": LABELS, "y_pred": POINTS})
class MultiSimilarity(keras.losses.Loss):
    """Labels `(n,)` and points of the unit sphere `(n, d)` to `(n,)`: like pulls like, and pushes others away."""

    def __init__(self, pull: float = 2.0, push: float = 20.0, margin: float = 0.5, **kwargs):
        super().__init__(**kwargs)
        self.pull, self.push, self.margin = pull, push, margin

    def call(self, y_true, y_pred):
        closer = tf.matmul(y_pred, y_pred, transpose_b=True) - self.margin
        labels = tf.reshape(y_true, [-1])
        alike = tf.cast(labels[:, None] == labels[None, :], y_pred.dtype)
        others = alike - tf.eye(tf.size(labels), dtype=y_pred.dtype)
        near = tf.math.log1p(tf.reduce_sum(others * tf.exp(-self.pull * closer), axis=-1)) / self.pull
        return near + tf.math.log1p(tf.reduce_sum((1.0 - alike) * tf.exp(self.push * closer), axis=-1)) / self.push


@component("tinymetric/Neighbours")
class Neighbours(Evaluator):
    """`nearest_is_alike`: the share of examples of a split whose nearest other example has their label."""

    directions = {"nearest_is_alike": "max"}

    def evaluate(self, dataset, run):
        pairs = [(np.asarray(run.models["model"](x, training=False)), np.asarray(y)) for x, y, *_ in dataset]
        points, labels = (np.concatenate(part) for part in zip(*pairs, strict=True))
        likeness = points @ points.T
        np.fill_diagonal(likeness, -np.inf)
        return {"nearest_is_alike": float(np.mean(labels[likeness.argmax(axis=1)] == labels))}
