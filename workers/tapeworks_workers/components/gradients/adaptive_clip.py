"""`adaptive_clip`: gradients held in proportion to their weights.

Brock et al., "High-Performance Large-Scale Image Recognition Without Normalization" (2021), arXiv:2102.06171, eq. 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tapeworks import GradientTransform, Run, component


@component("adaptive_clip", example={"config": {"clipping": 0.01}})
class AdaptiveClip(GradientTransform):
    """Unit by unit, `G · min(1, clipping · max(‖W‖, epsilon) / ‖G‖)`.

    A unit is what one output is computed from: a column of a dense kernel `(inputs, outputs)`, a filter of a
    convolution, in general all dimensions but the last; of variables of rank 0 or 1 the whole. Shapes and dtypes stay.
    The paper leaves the last linear layer out: give it another optimizer.

    tf.IndexedSlices stay sparse: rows given more than once are added up, a column's norm is taken over them (other rows
    are 0), and its factor is applied to them. The variable is read whole for its own norms.

    Args:
        clipping: the largest ratio of the norms that passes; positive. The paper uses 0.01 to 0.16.
        epsilon: smallest norm of weights that counts, so that weights of 0 can grow.
    """

    def __init__(self, clipping: float = 0.01, epsilon: float = 1e-3) -> None:
        if clipping <= 0 or epsilon <= 0:
            raise ValueError(f"clipping and epsilon must be positive, not {clipping} and {epsilon}")
        self.clipping = clipping
        self.epsilon = epsilon

    def __call__(self, gradients: Sequence[Any], variables: Sequence[Any], run: Run) -> Sequence[Any]:
        return [self._clipped(gradient, weights) for gradient, weights in zip(gradients, variables, strict=True)]

    def _clipped(self, gradient: Any, variable: Any) -> Any:
        if isinstance(gradient, tf.IndexedSlices):
            gradient = _summed(gradient)
            values = self._scaled(gradient.values, variable)
            return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
        return self._scaled(tf.convert_to_tensor(gradient), variable)

    def _scaled(self, values: Any, variable: Any) -> Any:
        weights = tf.cast(tf.convert_to_tensor(variable), values.dtype)
        limit = tf.constant(self.clipping, values.dtype) * tf.maximum(_unit_norms(weights), self.epsilon)
        norms = _unit_norms(values)
        # Where the norm is 0 there is nothing to scale; NaN and infinity stay to be seen, as NaN.
        return values * (limit / tf.maximum(norms, limit) + (norms - norms))


def _unit_norms(values: Any) -> Any:
    """2-norm over all dimensions but the last, which broadcasts against `values`."""
    rank = values.shape.rank
    axes = list(range(rank - 1)) if rank > 1 else None
    return tf.sqrt(tf.reduce_sum(tf.square(values), axis=axes, keepdims=rank > 1))


def _summed(slices: tf.IndexedSlices) -> tf.IndexedSlices:
    """The same gradient, each row at most once."""
    rows, position = tf.unique(slices.indices)
    values = tf.math.unsorted_segment_sum(slices.values, position, tf.size(rows))
    return tf.IndexedSlices(values, rows, slices.dense_shape)
