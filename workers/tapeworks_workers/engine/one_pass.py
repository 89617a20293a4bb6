"""Adam's update in one pass over the weights, by TensorFlow's own kernel, where Keras makes fifteen.

Inside `one_pass_adam()` (tracing) Adam, and what inherits its update (AdamW), uses `ResourceApplyAdam`: the same
formula, rounded at other places. What the kernel does not know stays Keras': AMSGrad, variables of several replicas.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

_KERAS_OWN: Any = keras.optimizers.Adam.update_step


@contextlib.contextmanager
def one_pass_adam() -> Iterator[None]:
    """Have Adam update by the kernel, while the block runs."""
    keras.optimizers.Adam.update_step = _update_step
    try:
        yield
    finally:
        keras.optimizers.Adam.update_step = _KERAS_OWN


def _update_step(self: Any, gradient: Any, variable: Any, learning_rate: Any) -> None:
    if self.amsgrad or tf.distribute.get_strategy().num_replicas_in_sync > 1:
        _KERAS_OWN(self, gradient, variable, learning_rate)
        return
    index = self._get_variable_index(variable)
    weights, momentum, velocity = map(_inner, (variable, self._momentums[index], self._velocities[index]))

    def number(value: Any) -> tf.Tensor:
        return tf.cast(value, weights.dtype)

    step = number(self.iterations + 1)
    powers = {
        "beta1_power": tf.pow(number(self.beta_1), step),
        "beta2_power": tf.pow(number(self.beta_2), step),
        "epsilon": number(self.epsilon),
    }

    def apply(beta_1: float, beta_2: float, rate: Any, grad: tf.Tensor) -> None:
        tf.raw_ops.ResourceApplyAdam(
            var=weights.handle, m=momentum.handle, v=velocity.handle, **powers,
            beta1=number(beta_1), beta2=number(beta_2), lr=number(rate), grad=grad,
        )  # fmt: skip

    if not isinstance(gradient, tf.IndexedSlices):
        apply(self.beta_1, self.beta_2, learning_rate, number(gradient))
        return
    # Of a row that is there several times Keras adds the squares up, where a dense gradient squares the sum. So the
    # velocity is given another gradient than the momentum: a beta of 1 leaves either as it is.
    values = number(gradient.values)
    apply(self.beta_1, 1.0, 0.0, _summed(values, gradient.indices, weights))
    apply(1.0, self.beta_2, learning_rate, tf.sqrt(_summed(tf.square(values), gradient.indices, weights)))


def _inner(variable: Any) -> Any:
    return variable.value if isinstance(variable, keras.Variable) else variable


def _summed(values: tf.Tensor, indices: tf.Tensor, like: Any) -> tf.Tensor:
    return tf.math.unsorted_segment_sum(values, indices, like.shape[0])
