"""`centralize`: gradients whose mean is zero.

Yong et al., "Gradient Centralization: A New Optimization Technique for Deep Neural Networks" (2020), arXiv:2004.01461.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tapeworks import GradientTransform, Run, component


@component("centralize", example={"config": {}})
class Centralize(GradientTransform):
    """From the gradient of each output's weights subtract their mean: `G - mean(G, all dimensions but the last)`.

    Kernels are `(…, inputs, outputs)`, of rank 2 or more; biases and other vectors pass as they are. Shapes and dtypes
    stay. tf.IndexedSlices become dense: the mean of a column is subtracted from all of its rows, those that the batch
    did not touch too. That costs the size of the variable; give an embedding an optimizer of its own to leave it out.
    """

    def __call__(self, gradients: Sequence[Any], variables: Sequence[Any], run: Run) -> Sequence[Any]:
        return [_centred(gradient, variable) for gradient, variable in zip(gradients, variables, strict=True)]


def _centred(gradient: Any, variable: Any) -> Any:
    rank = len(variable.shape)
    if rank < 2:
        return gradient
    if isinstance(gradient, tf.IndexedSlices):
        shape = tf.constant(list(variable.shape), gradient.indices.dtype)
        gradient = tf.scatter_nd(gradient.indices[:, tf.newaxis], gradient.values, shape)
    return gradient - tf.reduce_mean(gradient, axis=list(range(rank - 1)), keepdims=True)
