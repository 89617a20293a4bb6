"""`nt_xent`: the normalised, temperature-scaled cross-entropy of contrastive learning.

Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations" (2020), arXiv:2002.05709, eq. 1;
for more than one positive Khosla et al., "Supervised Contrastive Learning" (2020), arXiv:2004.11362, eq. 2.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tapeworks import component

_EXAMPLE = {
    "config": {"temperature": 0.5},
    "y_true": tf.TensorSpec([None], tf.int64),
    "y_pred": tf.TensorSpec([None, 8], tf.float32),
}

_SHORTEST = 1e-24
"""The square of a length below which a vector counts as zero: its direction has no gradient in float32."""


@component("nt_xent", example=_EXAMPLE)
class NTXent(keras.losses.Loss):
    """`-log(exp(s(a, p) / t) / Σ over k ≠ a of exp(s(a, k) / t))` for each positive p of a; s is the cosine.

    Labels give the positives: `y`, `(n,)` or `(n, 1)`, exact up to 2^24 in float32, is equal for rows that belong
    together. Two views of m examples are `outputs = concat([first, second])` with `y = concat([range(m), range(m)])`,
    as in SimCLR; class labels make it the supervised contrastive loss, where the terms of an anchor's positives are
    averaged. Outputs are embeddings `(n, d)`, float32 or float64, normalised here; a zero vector stays one.

    One value an anchor is returned, scaled so that their mean is the mean over the anchors that have a positive; a
    batch without any costs 0, with a gradient of 0.

    Args:
        temperature: t; the smaller, the more the nearest rows count.
    """

    def __init__(self, temperature: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, not {temperature}")
        self.temperature = temperature

    def call(self, y_true: Any, y_pred: Any) -> Any:
        embeddings = tf.convert_to_tensor(y_pred)
        if embeddings.shape.rank != 2:
            raise ValueError(f"nt_xent needs embeddings of shape (n, d), not {embeddings.shape}")
        labels = tf.reshape(y_true, [-1])
        own = tf.eye(tf.size(labels), dtype=tf.bool)
        positive = tf.cast(tf.equal(labels[:, tf.newaxis], labels[tf.newaxis, :]) & ~own, embeddings.dtype)
        unit = _unit(embeddings)
        similarity = tf.matmul(unit, unit, transpose_b=True) / self.temperature
        # The lowest finite number, not -inf: a batch of one has nothing else in its row, and log 0 no gradient.
        others = tf.where(own, tf.fill(tf.shape(similarity), similarity.dtype.min), similarity)
        log_p = similarity - tf.reduce_logsumexp(others, axis=-1, keepdims=True)
        positives = tf.reduce_sum(positive, axis=-1)
        losses = -tf.math.divide_no_nan(tf.reduce_sum(positive * log_p, axis=-1), positives)
        anchors = tf.reduce_sum(tf.cast(positives > 0, losses.dtype))
        return losses * tf.math.divide_no_nan(tf.cast(tf.size(labels), losses.dtype), anchors)


def _unit(embeddings: Any) -> Any:
    """Rows of length 1. A zero vector has no direction; it stays 0 and its gradient finite."""
    squares = tf.reduce_sum(tf.square(embeddings), axis=-1, keepdims=True)
    return embeddings * tf.math.rsqrt(tf.where(squares > _SHORTEST, squares, tf.ones_like(squares)))
