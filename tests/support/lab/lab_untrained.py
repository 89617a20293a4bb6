"""Parts of a user of which something is not trained, in many ways."""

from typing import Any

import keras
import tensorflow as tf

from tapeworks import TrainingStep, component


@component("untrained/RawVariable")
class RawVariable(keras.layers.Layer):
    """Its scale is a variable that Keras does not know; `trainable` False says that it is a constant."""

    def __init__(self, trainable_scale: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.trainable_scale = trainable_scale

    def build(self, shape: Any) -> None:
        self.scale = tf.Variable(tf.ones([shape[-1]]), trainable=self.trainable_scale, name="scale")

    def call(self, x: Any) -> Any:
        return x * self.scale


class Holder:
    """Hides what it holds from Keras."""

    def __init__(self, held: Any) -> None:
        self.held = held


@component("untrained/HiddenLayer")
class HiddenLayer(keras.layers.Layer):
    """Its inner layer is in an object of the user's own."""

    def build(self, shape: Any) -> None:
        self.holder = Holder(keras.layers.Dense(shape[-1], name="inside"))
        self.holder.held.build(shape)

    def call(self, x: Any) -> Any:
        return self.holder.held(x)


@component("untrained/Moving")
class Moving(keras.layers.Layer):
    """Keeps a moving mean in a variable of its own, which each step assigns."""

    def build(self, shape: Any) -> None:
        self.mean = tf.Variable(tf.zeros([shape[-1]]))

    def call(self, x: Any) -> Any:
        self.mean.assign(0.9 * self.mean + 0.1 * tf.reduce_mean(x, 0))
        return x - self.mean


@component("untrained/Two")
class Two(TrainingStep):
    """Two models, two optimizers; `way` says what it leaves out."""

    models = ("first", "second")
    optimizers = {"first": ("first",), "second": ("second",)}  # noqa: RUF012
    losses = ("first",)

    def __init__(self, way: str = "nothing") -> None:
        self.way = way
        self.temperature = tf.Variable(1.0, name="temperature")

    def train_step(self, batch: Any, run: Any) -> dict[str, Any]:
        x, y = batch
        with tf.GradientTape(persistent=True) as tape:
            outputs = {role: run.models[role](x, training=True) for role in self.models}
            second = tf.reduce_mean(outputs["second"] ** 2)
            if self.way in ("temperature", "own_gradients"):
                second *= self.temperature
            first = (
                tf.reduce_mean(outputs["first"] ** 2)
                if self.way == "loss"
                else run.losses["first"](y, outputs["first"])
            )
        if self.way == "own_gradients":
            run.apply("first", tape.gradient(first, run.models["first"].trainable_variables))
            run.minimize("second", second, tape)
        elif self.way != "all":
            run.minimize("first", first, tape)
            if self.way != "optimizer":
                run.minimize("second", second, tape)
        if self.way != "metrics":
            run.update_metrics("first", y, outputs["first"])
        return {"loss": first}

    def validation_step(self, batch: Any, run: Any) -> dict[str, Any]:
        if self.way != "validation_metrics":
            run.update_metrics("first", batch[1], run.models["first"](batch[0]))
        return {"loss": tf.reduce_mean(run.models["first"](batch[0]))}
