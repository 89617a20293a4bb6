"""`noise`: annealed Gaussian noise on gradients.

Neelakantan et al., "Adding Gradient Noise Improves Learning for Very Deep Networks" (2015), arXiv:1511.06807, eq. 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tapeworks import GradientTransform, Run, component


@component("noise", example={"config": {"eta": 0.3}})
class Noise(GradientTransform):
    """Adds `N(0, eta / (1 + t)^gamma)` to every entry of every gradient; t is `run.step`, steps done so far.

    The numbers come from the job's own stream (`run.random_normal`), so they are seeded and resumed. Shapes and dtypes
    stay. tf.IndexedSlices become dense: the paper's noise is on every weight, and noise on the rows of a batch alone
    would make the result depend on how a gradient happens to be stored. That costs the size of the variable.

    Args:
        eta: the variance at step 0; the paper uses 0.01, 0.3 and 1.0.
        gamma: how fast it falls; the paper uses 0.55. 0: not at all.
    """

    def __init__(self, eta: float, gamma: float = 0.55) -> None:
        if eta <= 0 or gamma < 0:
            raise ValueError(f"eta must be positive and gamma 0 or more, not {eta} and {gamma}")
        self.eta = eta
        self.gamma = gamma

    def __call__(self, gradients: Sequence[Any], variables: Sequence[Any], run: Run) -> Sequence[Any]:
        # In float64, since float32 counts steps exactly up to 2**24 only.
        deviation = tf.sqrt(self.eta / (1.0 + tf.cast(run.step, tf.float64)) ** self.gamma)

        def noisy(gradient: Any, variable: Any) -> Any:
            dense = _dense(gradient, variable)
            numbers = run.random_normal(tf.shape(dense), dtype=dense.dtype)
            return dense + tf.cast(deviation, dense.dtype) * numbers

        return [noisy(gradient, variable) for gradient, variable in zip(gradients, variables, strict=True)]


def _dense(gradient: Any, variable: Any) -> Any:
    """tf.IndexedSlices as a tensor of the variable's shape; rows given more than once add up."""
    if isinstance(gradient, tf.IndexedSlices):
        shape = tf.constant(list(variable.shape), gradient.indices.dtype)
        return tf.scatter_nd(gradient.indices[:, tf.newaxis], gradient.values, shape)
    return tf.convert_to_tensor(gradient)
