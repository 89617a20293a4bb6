"""Components of the random jobs: sources, data functions, layers, losses, metrics and steps that hold state or draw."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tapeworks import Callback, GradientTransform, Source, TrainingStep, component


@component("fuzz/Rows")
class Rows(Source):
    """Rows of six numbers and a class of three, made with NumPy's unseeded generator; `form` says how they come."""

    def __init__(self, size: int = 60, form: str = "memory", weighted: bool = False) -> None:
        self.size, self.form, self.weighted = size, form, weighted

    def dataset(self) -> tf.data.Dataset:
        x = np.random.normal(size=(self.size, 6)).astype("float32")
        y = (np.abs(x[:, 0] + x[:, 1]) * 1.5).astype("int64") % 3
        parts = (x, y, np.random.uniform(0.5, 1.5, self.size).astype("float32")) if self.weighted else (x, y)
        rows = tf.data.Dataset.from_tensor_slices(parts)
        match self.form:
            case "unknown":
                return rows.filter(lambda x, *rest: x[0] > -1.5)
            case "shuffled":
                return rows.shuffle(20)
            case "seeded":
                return rows.shuffle(20, seed=3)
            case "python":
                return tf.data.Dataset.from_generator(
                    lambda: zip(*parts, strict=True), output_signature=rows.element_spec
                )
        return rows


@component("fuzz/Dropped")
class Dropped:
    """A Keras layer with a seed of its own, on x."""

    def __init__(self, seed: int | None = None) -> None:
        self.drop = keras.layers.Dropout(0.2, seed=seed)

    def __call__(self, x: Any) -> Any:
        return self.drop(x, training=True)


@component("fuzz/Generated")
class Generated:
    """A generator of TensorFlow, on x."""

    def __init__(self) -> None:
        self.generator = tf.random.Generator.from_seed(7, alg="philox")

    def __call__(self, x: Any) -> Any:
        return tf.ensure_shape(x + 0.1 * self.generator.normal(tf.shape(x)), x.shape)


@component("fuzz/global_noise")
def global_noise(x: Any) -> Any:
    """Keras' and TensorFlow's own streams, on x."""
    return tf.ensure_shape(x + 0.1 * keras.random.normal(tf.shape(x)) + tf.random.uniform([], 0.0, 0.1), x.shape)


@component("fuzz/given_noise")
def given_noise(x: Any, seed: Any) -> Any:
    """The seed that it is given, on x."""
    return tf.ensure_shape(x + 0.1 * tf.random.stateless_normal(tf.shape(x), seed), x.shape)


@component("fuzz/kept")
def kept(x: Any) -> Any:
    """Most elements."""
    return tf.random.uniform([]) < 0.9


@component("fuzz/mixed", kind="dataset_function")
def mixed(dataset: Any) -> Any:
    """Shuffles without taking a seed."""
    return dataset.shuffle(13)


@component("fuzz/Remembering")
class Remembering(keras.layers.Layer):
    """Adds noise and a moving mean of what it saw."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seeds = keras.random.SeedGenerator(2)
        self.hidden = {
            "count": [tf.Variable(0.0, trainable=False)],
            "noise": tf.random.Generator.from_seed(4, alg="philox"),
        }

    def build(self, shape: Any) -> None:
        self.seen = self.add_weight(shape=(shape[-1],), initializer="zeros", trainable=False, name="seen")

    def call(self, x: Any, training: bool = False) -> Any:
        if training:
            self.seen.assign(0.9 * self.seen + 0.1 * keras.ops.cast(keras.ops.mean(x, 0), self.seen.dtype))
            x = x + 0.1 * keras.random.normal(keras.ops.shape(x), seed=self.seeds, dtype=x.dtype)
            drawn = self.hidden["noise"].uniform([]) * self.hidden["count"][0].assign_add(1.0)
            x = x * (1.0 + 0.001 * tf.cast(drawn, x.dtype))
        return x - keras.ops.cast(self.seen, x.dtype)


@component("fuzz/Warming")
class Warming(keras.losses.Loss):
    """Counts its calls in a variable and grows with them."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.calls = keras.Variable(0.0, trainable=False)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        loss = keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)
        self.calls.assign_add(1.0)
        grown = 1.0 + 0.01 * keras.ops.cast(self.calls, loss.dtype)
        return loss * (grown + keras.random.uniform((), 0.0, 0.1, dtype=loss.dtype))


@component("fuzz/Largest")
class Largest(keras.metrics.Metric):
    """The largest output seen."""

    def __init__(self, name: str = "largest", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.value = self.add_variable((), initializer="zeros", name="value")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.value.assign(keras.ops.maximum(self.value, keras.ops.cast(keras.ops.max(y_pred), self.value.dtype)))

    def result(self) -> Any:
        return self.value.value


@component("fuzz/Momentum")
class Momentum(GradientTransform):
    """Adds a part of the gradients before."""

    def build(self, variables: Any) -> None:
        self.before = [tf.Variable(tf.zeros(v.shape, v.dtype), trainable=False) for v in variables]

    def __call__(self, gradients: Any, variables: Any, run: Any) -> Any:
        result = []
        for gradient, before in zip(gradients, self.before, strict=True):
            before.assign(0.5 * before + tf.convert_to_tensor(gradient))
            result.append(tf.identity(before))
        return result


@component("fuzz/Step")
class Step(TrainingStep):
    """A loop by hand with noise of the run, variables and a mean of its own."""

    models = ("model",)
    optimizers = {"model": ("model",)}  # noqa: RUF012

    def build(self, run: Any) -> None:
        self.scale = tf.Variable(1.0, trainable=False)
        self.generator = tf.random.Generator.from_seed(5, alg="philox")

    def train_step(self, batch: Any, run: Any) -> dict[str, Any]:
        x, y = batch[0], batch[1]
        with tf.GradientTape() as tape:
            noise = run.random_normal(tf.shape(x), dtype=x.dtype) + tf.cast(self.generator.normal([]), x.dtype)
            outputs = run.models["model"](x + 0.05 * noise, training=True)
            loss = tf.reduce_mean(run.losses["model"](y, outputs))
            loss *= tf.cast(self.scale, loss.dtype)
        run.minimize("model", loss, tape)
        self.scale.assign(0.99 * self.scale + 0.01)
        return {"loss": loss, "scale": self.scale}

    def validation_step(self, batch: Any, run: Any) -> dict[str, Any]:
        return {"loss": tf.reduce_mean(run.losses["model"](batch[1], run.models["model"](batch[0], training=False)))}


@component("fuzz/Halving")
class Halving(Callback):
    """Halves the learning rate every other epoch, by a count that it tells checkpoints."""

    def __init__(self) -> None:
        self.waited = 0

    def on_epoch_end(self, epoch: int, logs: Any, run: Any) -> None:
        self.waited += 1
        if self.waited == 2:
            self.waited = 0
            run.learning_rate("model", run.learning_rate("model") / 2)

    def state(self) -> dict[str, Any]:
        return {"waited": self.waited}

    def load(self, state: Any) -> None:
        self.waited = state["waited"]
