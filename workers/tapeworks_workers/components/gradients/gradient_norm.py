"""`gradient_norm`: the norm of the gradients, reported with an epoch's logs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tapeworks import GradientTransform, Run, component


@component("gradient_norm", example={"config": {}})
class GradientNorm(GradientTransform):
    """Changes nothing; records the 2-norm of all gradients of an optimizer together, at its place in the order.

    Reported over an epoch's updates: `NAME`, the mean, and `NAME_max`. Rows that tf.IndexedSlices give more than once
    are added up first.

    Args:
        name: what it is reported as; two of them, before and after a clip, need two names.
    """

    def __init__(self, name: str = "gradient_norm") -> None:
        self.name = name
        self._mean = keras.metrics.Mean(name=name)
        self._max = _Largest(name=f"{name}_max")
        self.metrics = [self._mean, self._max]

    def __call__(self, gradients: Sequence[Any], variables: Sequence[Any], run: Run) -> Sequence[Any]:
        squares = [tf.reduce_sum(tf.square(tf.cast(_entries(one), self._mean.dtype))) for one in gradients]
        norm = tf.sqrt(tf.add_n(squares))
        self._mean.update_state(norm)
        self._max.update_state(norm)
        return gradients


class _Largest(keras.metrics.Metric):
    """The largest value so far; 0 before the first."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name)
        self._largest = self.add_variable((), initializer="zeros", name="largest")

    def update_state(self, value: Any) -> None:
        self._largest.assign(tf.maximum(self._largest.value, value))

    def result(self) -> Any:
        return tf.identity(self._largest.value)


def _entries(gradient: Any) -> Any:
    """The entries of a gradient that may be other than 0, each once."""
    if not isinstance(gradient, tf.IndexedSlices):
        return tf.convert_to_tensor(gradient)
    rows, position = tf.unique(gradient.indices)
    return tf.math.unsorted_segment_sum(gradient.values, position, tf.size(rows))
