"""`triplet`: triplet margin loss with mining inside the batch.

Schroff et al., "FaceNet: A Unified Embedding for Face Recognition and Clustering" (2015), arXiv:1503.03832;
Hermans et al., "In Defense of the Triplet Loss for Person Re-Identification" (2017), arXiv:1703.07737.
"""

from __future__ import annotations

from typing import Any, Literal

import keras
import tensorflow as tf

from tapeworks import component

_EXAMPLE = {
    "config": {"margin": 1.0},
    "y_true": tf.TensorSpec([None], tf.int64),
    "y_pred": tf.TensorSpec([None, 8], tf.float32),
}

_SHORTEST = 1e-24
"""The square of a length below which a vector counts as zero: its direction has no gradient in float32."""


@component("triplet", example=_EXAMPLE)
class Triplet(keras.losses.Loss):
    """`max(0, margin + D(a, p) - D(a, n))` for anchors a, positives p (same class) and negatives n (another class).

    `y` holds class labels, `(n,)` or `(n, 1)`, exact up to 2^24 in float32; outputs are embeddings `(n, d)` of float32
    or float64, taken as they are: end the model in `keras/UnitNormalization` where the paper has unit vectors.

    One value an anchor is returned, scaled so that their mean is the mean named at `mining`. A batch that holds no
    triplet (one class, one example, all classes different) costs 0, with a gradient of 0. Where two embeddings are
    equal their distance gives no gradient. Memory grows with n² · d, since differences, unlike a Gram matrix, keep
    small distances exact.

    Args:
        margin: by how much farther a negative must be than a positive, in units of the distance.
        mining: "semi_hard": each pair (a, p) with the nearest negative that is farther away than p or, where none is,
            with the farthest one (FaceNet); the mean over pairs. "hard": each anchor with its farthest positive
            and its nearest negative ("batch hard"); the mean over anchors that have both. "all": every triplet
            ("batch all"); the mean over all of them, those that cost nothing included.
        distance: "euclidean", "squared" (its square) or "cosine" (1 less the cosine of the angle).
    """

    def __init__(
        self,
        margin: float = 1.0,
        mining: Literal["semi_hard", "hard", "all"] = "semi_hard",
        distance: Literal["euclidean", "squared", "cosine"] = "euclidean",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if margin < 0:
            raise ValueError(f"margin must be 0 or more, not {margin}")
        if mining not in ("semi_hard", "hard", "all"):
            raise ValueError(f'mining must be "semi_hard", "hard" or "all", not {mining!r}')
        if distance not in ("euclidean", "squared", "cosine"):
            raise ValueError(f'distance must be "euclidean", "squared" or "cosine", not {distance!r}')
        self.margin = margin
        self.mining = mining
        self.distance = distance

    def call(self, y_true: Any, y_pred: Any) -> Any:
        embeddings = tf.convert_to_tensor(y_pred)
        if embeddings.shape.rank != 2:
            raise ValueError(f"triplet needs embeddings of shape (n, d), not {embeddings.shape}")
        labels = tf.reshape(y_true, [-1])
        same = tf.equal(labels[:, tf.newaxis], labels[tf.newaxis, :])
        positive = same & ~tf.eye(tf.size(labels), dtype=tf.bool)
        distances = _distances(embeddings, self.distance)
        mine = {"semi_hard": _semi_hard, "hard": _hard, "all": _all}[self.mining]
        losses, counts = mine(distances, positive, ~same, self.margin)
        size = tf.cast(tf.size(labels), losses.dtype)
        return losses * tf.math.divide_no_nan(size, tf.reduce_sum(counts))


def _semi_hard(distances: Any, positive: Any, negative: Any, margin: float) -> tuple[Any, Any]:
    """For each anchor the sum over its pairs, and how many pairs there are."""
    ranked = _ranked(distances, negative)
    candidates = tf.reduce_sum(tf.cast(negative, tf.int32), axis=-1, keepdims=True)
    following = tf.searchsorted(tf.stop_gradient(ranked), tf.stop_gradient(distances), side="right")
    farther = tf.gather(ranked, tf.minimum(following, tf.shape(ranked)[-1] - 1), batch_dims=1)
    farthest = tf.reduce_max(tf.where(negative, distances, tf.zeros_like(distances)), axis=-1, keepdims=True)
    chosen = tf.where(following < candidates, farther, farthest)
    pairs = positive & (candidates > 0)
    losses = tf.where(pairs, tf.nn.relu(margin + distances - chosen), tf.zeros_like(distances))
    return tf.reduce_sum(losses, axis=-1), tf.reduce_sum(tf.cast(pairs, distances.dtype), axis=-1)


def _hard(distances: Any, positive: Any, negative: Any, margin: float) -> tuple[Any, Any]:
    """For each anchor its hardest triplet, and 1 where it has one."""
    farthest = tf.reduce_max(tf.where(positive, distances, tf.zeros_like(distances)), axis=-1)
    nearest = tf.reduce_min(tf.where(negative, distances, _infinite(distances)), axis=-1)
    complete = tf.reduce_any(positive, axis=-1) & tf.reduce_any(negative, axis=-1)
    losses = tf.where(complete, tf.nn.relu(margin + farthest - nearest), tf.zeros_like(nearest))
    return losses, tf.cast(complete, distances.dtype)


def _all(distances: Any, positive: Any, negative: Any, margin: float) -> tuple[Any, Any]:
    """For each anchor the sum over its triplets, and how many there are; by prefix sums, so n² and not n³ numbers."""
    ranked = _ranked(distances, negative)
    reach = margin + distances
    violating = tf.searchsorted(tf.stop_gradient(ranked), tf.stop_gradient(reach), side="left")
    sums = tf.cumsum(tf.where(tf.math.is_inf(ranked), tf.zeros_like(ranked), ranked), axis=-1)
    below = tf.gather(tf.pad(sums, [[0, 0], [1, 0]]), violating, batch_dims=1)
    losses = tf.cast(violating, reach.dtype) * reach - below
    losses = tf.reduce_sum(tf.where(positive, losses, tf.zeros_like(losses)), axis=-1)
    positives = tf.reduce_sum(tf.cast(positive, reach.dtype), axis=-1)
    return losses, positives * tf.reduce_sum(tf.cast(negative, reach.dtype), axis=-1)


def _ranked(distances: Any, negative: Any) -> Any:
    """Each anchor's distances to its negatives in rising order, then infinities."""
    return tf.sort(tf.where(negative, distances, _infinite(distances)), axis=-1)


def _infinite(distances: Any) -> Any:
    return tf.fill(tf.shape(distances), tf.constant(float("inf"), distances.dtype))


def _distances(embeddings: Any, distance: str) -> Any:
    """`(n, n)`. A square root at 0 and the direction of a zero vector are given gradients of 0 and 1, not NaN."""
    if distance == "cosine":
        squares = tf.reduce_sum(tf.square(embeddings), axis=-1, keepdims=True)
        embeddings *= tf.math.rsqrt(tf.where(squares > _SHORTEST, squares, tf.ones_like(squares)))
    squared = tf.reduce_sum(tf.math.squared_difference(embeddings[:, tf.newaxis], embeddings[tf.newaxis]), axis=-1)
    if distance == "cosine":
        return squared / 2.0  # of unit vectors
    if distance == "squared":
        return squared
    apart = squared > 0
    return tf.where(apart, tf.sqrt(tf.where(apart, squared, tf.ones_like(squared))), tf.zeros_like(squared))
