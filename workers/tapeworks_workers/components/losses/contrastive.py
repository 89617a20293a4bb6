"""`contrastive`: Hadsell et al., "Dimensionality Reduction by Learning an Invariant Mapping" (2006), CVPR, eq. 4."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tapeworks import component

_EXAMPLE = {
    "config": {"margin": 1.0},
    "y_true": tf.TensorSpec([None], tf.int64),
    "y_pred": tf.TensorSpec([None, 2, 8], tf.float32),
}


@component("contrastive", example=_EXAMPLE)
class Contrastive(keras.losses.Loss):
    """Pairs that belong together cost `D² / 2`, others `max(0, margin - D)² / 2`; D is the Euclidean distance.

    `y` is `(n,)` or `(n, 1)`: 1 for a pair that belongs together, 0 for one that does not (the paper's Y is the other
    way round). Outputs, float32 or float64, are either the embeddings of both, `(n, 2, d)`, as `keras/TimeDistributed`
    around one encoder gives them, or their distances, `(n,)` or `(n, 1)`. One value a pair, `(n,)`, is returned.

    A pair of equal embeddings that should differ costs `margin² / 2` and has no direction to move in: its gradient
    is 0.

    Args:
        margin: how far apart different ones must be; farther costs nothing.
    """

    def __init__(self, margin: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if margin <= 0:
            raise ValueError(f"margin must be positive, not {margin}")
        self.margin = margin

    def call(self, y_true: Any, y_pred: Any) -> Any:
        y_pred = tf.convert_to_tensor(y_pred)
        together = tf.reshape(tf.cast(y_true, y_pred.dtype), [-1])
        distance, squared = _distance(y_pred)
        apart = tf.square(tf.nn.relu(self.margin - distance))
        return 0.5 * (together * squared + (1.0 - together) * apart)


def _distance(y_pred: Any) -> tuple[Any, Any]:
    """D and D², `(n,)` both; D² does not come from D, whose square root has no gradient at 0."""
    shape = y_pred.shape
    if shape.rank == 1 or (shape.rank == 2 and shape[-1] == 1):
        distance = tf.reshape(y_pred, [-1])
        return distance, tf.square(distance)
    if shape.rank != 3 or shape[1] != 2:
        raise ValueError(f"contrastive needs pairs of embeddings, (n, 2, d), or distances, (n, 1), not {shape}")
    squared = tf.reduce_sum(tf.math.squared_difference(y_pred[:, 0], y_pred[:, 1]), axis=-1)
    apart = squared > 0
    root = tf.sqrt(tf.where(apart, squared, tf.ones_like(squared)))
    return tf.where(apart, root, tf.zeros_like(root)), squared
