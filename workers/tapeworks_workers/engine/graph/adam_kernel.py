"""Adam's update in one pass over the weights, by TensorFlow's own kernel, where Keras makes fifteen.

Inside `one_pass_adam()` (tracing) Adam, and what inherits its update (AdamW), uses `ResourceApplyAdam`: the same
formula, rounded at other places. What the kernel does not know stays Keras': AMSGrad, variables of several replicas,
sparse gradients where a beta is 0.
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
    by_zero = isinstance(gradient, tf.IndexedSlices) and not (self.beta_1 and self.beta_2)  # it is divided by them
    if self.amsgrad or by_zero or tf.distribute.get_strategy().num_replicas_in_sync > 1:
        _KERAS_OWN(self, gradient, variable, learning_rate)
        return
    index = self._get_variable_index(variable)
    weights, momentum, velocity = map(_inner, (variable, self._momentums[index], self._velocities[index]))

    def number(value: Any) -> tf.Tensor:
        # tf.cast makes a float32 of a Python number first: too little for a float64 job.
        return tf.constant(value, weights.dtype) if isinstance(value, float) else tf.cast(value, weights.dtype)

    step = number(self.iterations + 1)

    def apply(grad: tf.Tensor) -> None:
        tf.raw_ops.ResourceApplyAdam(
            var=weights.handle, m=momentum.handle, v=velocity.handle,
            beta1_power=tf.pow(number(self.beta_1), step), beta2_power=tf.pow(number(self.beta_2), step),
            lr=number(learning_rate), beta1=number(self.beta_1), beta2=number(self.beta_2),
            epsilon=number(self.epsilon), grad=grad,
        )  # fmt: skip

    if not isinstance(gradient, tf.IndexedSlices):
        apply(number(gradient))
        return
    # The kernel makes m of b₁·m + (1 - b₁)·g for every row. With g = 0, what it is to come to is in m beforehand,
    # divided by b₁: only the rows that have a gradient are written to, and of a row that is there several times squares
    # are added up, as Keras does, where a dense gradient would square the sum.
    values = number(gradient.values)
    for state, beta, added in ((momentum, self.beta_1, values), (velocity, self.beta_2, tf.square(values))):
        share = (1.0 - number(beta)) / number(beta)  # rounded as the kernel rounds it
        tf.raw_ops.ResourceScatterAdd(resource=state.handle, indices=gradient.indices, updates=share * added)
    apply(tf.zeros(weights.shape, weights.dtype))


def _inner(variable: Any) -> Any:
    return variable.value if isinstance(variable, keras.Variable) else variable
