"""Components that each make one mistake which `tapeworks component test` must find, and some that make none."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tapeworks import TrainingStep, component

VECTORS = tf.TensorSpec([None, 4], tf.float32)
PAIR = {"y_true": VECTORS, "y_pred": VECTORS}


@component("mistakes/Unwritable", example={"inputs": VECTORS})
class Unwritable(keras.layers.Layer):
    """Its config holds what JSON cannot."""

    def call(self, x: Any) -> Any:
        return 2.0 * x

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "made_by": 1j}


@component("mistakes/Forgetful", example={"config": {"factor": 3.0}, "inputs": VECTORS})
class Forgetful(keras.layers.Layer):
    """Its own get_config leaves `factor` out, and the default comes back in its place."""

    def __init__(self, factor: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x: Any) -> Any:
        return self.factor * x

    def get_config(self) -> dict[str, Any]:
        return super().get_config()


@component("mistakes/OfThisProcess", example={"inputs": VECTORS})
class OfThisProcess(keras.layers.Layer):
    """Python salts the hash of a string anew in every process."""

    def call(self, x: Any) -> Any:
        return x * (hash("acme") % 10_007)


@component("mistakes/Flat", example={"y_true": np.eye(4), "y_pred": np.full((4, 4), 0.25)})
class Flat(keras.losses.Loss):
    """The sign of an error has no slope."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return tf.reduce_mean(tf.sign(y_pred - y_true), axis=-1)


@component("mistakes/Insensitive", example=PAIR)
class Insensitive(keras.losses.Loss):
    """Small errors cost nothing, and the invented ones are small."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return tf.reduce_mean(tf.nn.relu(tf.abs(y_pred - y_true) - 1.0), axis=-1)


@component("mistakes/Strict", example={"inputs": VECTORS})
class Strict(keras.layers.Layer):
    """Takes what no invented value is."""

    def call(self, x: Any) -> Any:
        tf.debugging.assert_greater(x, 1.0, "beyond one")
        return x


@component("mistakes/Stopped", example=PAIR)
class Stopped(keras.losses.Loss):
    """One of two factors is stopped: half of the gradient is missing."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        error = y_pred - y_true
        return tf.reduce_mean(error * tf.stop_gradient(error), axis=-1)


@component("mistakes/Rounded", example=PAIR)
class Rounded(keras.losses.Loss):
    """Rounds, and lets the gradient pass as if it had not."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        rounded = y_pred + tf.stop_gradient(tf.round(10.0 * y_pred) / 10.0 - y_pred)
        return tf.reduce_mean(tf.square(rounded - y_true), axis=-1)


@component("mistakes/Outside", example=PAIR)
class Outside(keras.losses.Loss):
    """NumPy cannot follow a tensor into a graph."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return tf.reduce_mean(tf.square(y_pred - np.median(y_true)), axis=-1)


@component("mistakes/Right", example=PAIR)
class Right(keras.losses.Loss):
    """A quarter of the fourth power of the error."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return tf.reduce_mean(0.25 * (y_pred - y_true) ** 4, axis=-1)


@component("mistakes/RightPairs", example={"y_true": tf.TensorSpec([None], tf.int64), "y_pred": VECTORS})
class RightPairs(keras.losses.Loss):
    """Learns from pairs of different labels alone."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        differ = tf.cast(y_true[:, None] != y_true[None, :], y_pred.dtype)
        return tf.reduce_sum(differ * tf.matmul(y_pred, y_pred, transpose_b=True), axis=-1)


@component("mistakes/RightLayer", example={"inputs": VECTORS})
class RightLayer(keras.layers.Layer):
    """A dense layer."""

    def __init__(self, units: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(units)

    def call(self, x: Any) -> Any:
        return self.dense(x)


@component("mistakes/Step")
class Step(TrainingStep):
    """Leaves the graph in its train_step, which only a job traces."""

    losses = ("model",)

    def train_step(self, batch: Any, run: Any) -> dict[str, Any]:
        x, y = batch
        with tf.GradientTape() as tape:
            loss = run.losses["model"](y, run.models["model"](x, training=True))
        run.minimize("model", loss, tape)
        return {"loss": loss, "largest": np.max(x)}  # the mistake
