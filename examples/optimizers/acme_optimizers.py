"""One of each: an initializer, a regularizer, a constraint, a schedule and an optimizer of our own."""

from typing import Any

import keras
import tensorflow as tf

from tapeworks import component


@component("acme/Blobs", example={"config": {"seed": 1}})
class Blobs(keras.initializers.Initializer):
    """Each unit of a dense layer over square pictures begins with a soft blob somewhere in the picture."""

    def __init__(self, width: float = 1.5, seed: int = 0) -> None:
        self.width, self.seed = width, seed

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        side, units, dtype = round(shape[0] ** 0.5), shape[1], dtype or keras.config.floatx()
        middle = tf.random.stateless_uniform([2, 1, units], [self.seed, 0], 0, side - 1, dtype, alg="philox")
        sign = tf.sign(tf.random.stateless_normal([1, units], [self.seed, 1], dtype=dtype, alg="philox"))
        pixels = tf.range(side * side)
        place = tf.cast(tf.stack([pixels // side, pixels % side])[:, :, tf.newaxis], dtype)
        blobs = tf.exp(-tf.reduce_sum(tf.square(place - middle), axis=0) / (2 * self.width**2))
        return sign * tf.math.l2_normalize(blobs, axis=0)


@component("acme/Smooth", example={"config": {"factor": 0.1}, "inputs": tf.TensorSpec([9, 2])})
class Smooth(keras.regularizers.Regularizer):
    """`factor` times the squared differences of the weights of neighbouring pixels."""

    def __init__(self, factor: float = 0.01) -> None:
        self.factor = factor

    def __call__(self, weights: Any) -> Any:
        side = round(weights.shape[0] ** 0.5)
        pictures = tf.reshape(weights, [side, side, -1])
        down, across = pictures[1:] - pictures[:-1], pictures[:, 1:] - pictures[:, :-1]
        return self.factor * (tf.reduce_sum(tf.square(down)) + tf.reduce_sum(tf.square(across)))


@component("acme/Centred", example={"inputs": tf.TensorSpec([9, 2])})
class Centred(keras.constraints.Constraint):
    """The weights of every unit have the mean 0: how bright the whole picture is says nothing."""

    def __call__(self, weights: Any) -> Any:
        return weights - tf.reduce_mean(weights, axis=0, keepdims=True)


@component("acme/InverseRoot", example={"config": {"peak": 0.1, "warmup_steps": 4}})
class InverseRoot(keras.optimizers.schedules.LearningRateSchedule):
    """Linear up to `peak`, then with the inverse square root of the step (Vaswani et al. 2017, section 5.3)."""

    def __init__(self, peak: float, warmup_steps: int) -> None:
        self.peak, self.warmup_steps = peak, warmup_steps

    def __call__(self, step: Any) -> Any:
        done = (tf.cast(step, keras.config.floatx()) + 1.0) / self.warmup_steps
        return self.peak * tf.minimum(done, tf.math.rsqrt(done))


@component("acme/Signum", example={"config": {"learning_rate": 0.01}})
class Signum(keras.optimizers.Optimizer):
    """Steps of one size along the sign of averaged gradients (Bernstein et al. 2018, arXiv:1802.04434)."""

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.001,
        momentum: float = 0.9,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.momentum = momentum

    def build(self, variables: Any) -> None:
        if self.built:
            return
        super().build(variables)
        self.averages = [self.add_variable_from_reference(variable, name="average") for variable in variables]

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        average = self.averages[self._get_variable_index(variable)]
        gradient = tf.cast(tf.convert_to_tensor(gradient), average.dtype)
        average.assign(self.momentum * average + (1.0 - self.momentum) * gradient)
        variable.assign(variable - tf.cast(learning_rate, variable.dtype) * tf.sign(average.value))
