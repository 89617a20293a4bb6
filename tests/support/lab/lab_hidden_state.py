"""Layers, losses, metrics and optimizers that keep state where a checkpoint might not look for it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tapeworks import GradientTransform, TrainingStep, component

MODULE_COUNT = tf.Variable(0.0, trainable=False)
MODULE_GENERATOR = tf.random.Generator.from_seed(3, alg="philox")


def _counted(variable: Any) -> Any:
    return variable.assign_add(1.0) if isinstance(variable, tf.Variable) else variable.assign(variable + 1.0)


class Plain:
    """Not a tf.Module."""

    def __init__(self) -> None:
        self.count = tf.Variable(0.0, trainable=False)
        self.parts = {"deep": [tf.Variable(0.0, trainable=False)]}

    def value(self) -> Any:
        return self.count.assign_add(1.0) + self.parts["deep"][0].assign_add(2.0)


@component("hidden/Layer", example={"inputs": tf.TensorSpec([None, 4], tf.float32)})
class ScaledByState(keras.layers.Layer):
    """Scales its input by what it keeps; `way` says where."""

    def __init__(self, way: str = "generator", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.way = way
        if way == "generator":
            self.generator = tf.random.Generator.from_seed(1, alg="philox")
        elif way == "generator_in_dict":
            self.made = {"noise": tf.random.Generator.from_seed(1, alg="philox")}
        elif way == "variable":
            self.count = tf.Variable(0.0, trainable=False)
        elif way == "variables_in_containers":
            self.parts = {"b": [tf.Variable(0.0, trainable=False)], "a": (tf.Variable(1.0, trainable=False),)}
        elif way == "plain_object":
            self.plain = Plain()
        elif way == "namespace":
            self.space = SimpleNamespace(count=tf.Variable(0.0, trainable=False))
        elif way == "closure":
            count = tf.Variable(0.0, trainable=False)
            self.value = lambda: count.assign_add(1.0)
        elif way == "table":
            self.table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, 0.0)
        elif way == "seed_generator_in_list":
            self.seeds = [keras.random.SeedGenerator(5)]

    def call(self, x: Any, training: bool = False) -> Any:
        return x * (1.0 + 0.01 * tf.cast(self._value(), x.dtype)) if training else x

    def _value(self) -> Any:
        match self.way:
            case "generator":
                return self.generator.uniform([])
            case "generator_in_dict":
                return self.made["noise"].uniform([])
            case "variable":
                return self.count.assign_add(1.0)
            case "variables_in_containers":
                return self.parts["b"][0].assign_add(1.0) + self.parts["a"][0].assign_add(1.0)
            case "plain_object":
                return self.plain.value()
            case "namespace":
                return self.space.count.assign_add(1.0)
            case "closure":
                return self.value()
            case "module_variable":
                return MODULE_COUNT.assign_add(1.0)
            case "module_generator":
                return MODULE_GENERATOR.uniform([])
            case "operation":
                return tf.random.uniform([])
            case "operation_in_branch":
                return tf.cond(MODULE_COUNT < 0.0, lambda: 0.0, lambda: tf.random.uniform([]))
            case "python":
                return tf.ensure_shape(tf.numpy_function(lambda: np.float32(1.0), [], tf.float32), [])
            case "seeded_operation":
                return tf.random.normal([], seed=7)
            case "keras_random":
                return keras.random.uniform([])
            case "seed_generator_in_list":
                return keras.random.uniform([], seed=self.seeds[0])
            case "table":
                key = tf.constant(0, tf.int64)
                value = self.table.lookup(key) + 1.0
                with tf.control_dependencies([self.table.insert(key, value)]):
                    return tf.ensure_shape(value, [])
        raise ValueError(self.way)


@component("hidden/Loss")
class HiddenLoss(keras.losses.Loss):
    """A cross entropy that grows with what it keeps."""

    def __init__(self, way: str = "variable", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.way = way
        self.held = {"variable": tf.Variable, "keras_variable": keras.Variable}.get(way, float)(0.0)
        self.parts = [{"count": tf.Variable(0.0, trainable=False)}] if way == "variables_in_containers" else []

    def call(self, y_true: Any, y_pred: Any) -> Any:
        loss = keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)
        if self.way == "operation":
            return loss * (1.0 + 0.1 * tf.random.uniform([]))
        held = self.parts[0]["count"] if self.parts else self.held
        return loss * (1.0 + 0.01 * tf.convert_to_tensor(_counted(held)))


@component("hidden/Metric")
class HiddenMetric(keras.metrics.Metric):
    """Counts updates where `reset_state` does not look."""

    def __init__(self, name: str = "updates", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.parts = {"count": [tf.Variable(0.0, trainable=False)]}

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.parts["count"][0].assign_add(1.0)

    def result(self) -> Any:
        return self.parts["count"][0] + 0.0

    def reset_state(self) -> None:
        pass


@component("hidden/Optimizer")
class HiddenOptimizer(keras.optimizers.SGD):
    """Its learning rate falls by a count of its own."""

    def __init__(self, learning_rate: float = 0.1, **kwargs: Any) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.counts = {"steps": tf.Variable(0.0, trainable=False)}

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        scale = 1.0 / (1.0 + self.counts["steps"].assign_add(1.0))
        super().update_step(gradient, variable, learning_rate * scale)


@component("hidden/Gradients")
class HiddenGradients(GradientTransform):
    """Noise of a generator in a list."""

    def build(self, variables: Any) -> None:
        self.made = [tf.random.Generator.from_seed(2, alg="philox")]

    def __call__(self, gradients: Any, variables: Any, run: Any) -> Any:
        return [gradient + 0.01 * self.made[0].normal(tf.shape(gradient)) for gradient in gradients]


@component("hidden/Step")
class HiddenStep(TrainingStep):
    """A loop by hand whose state is in a plain object and a table."""

    models = ("model",)
    optimizers = {"model": ("model",)}  # noqa: RUF012

    def build(self, run: Any) -> None:
        self.plain = Plain()

    def train_step(self, batch: Any, run: Any) -> dict[str, Any]:
        x, y = batch
        with tf.GradientTape() as tape:
            outputs = run.models["model"](x, training=True)
            loss = tf.reduce_mean(run.losses["model"](y, outputs)) * (1.0 + 0.01 * self.plain.value())
        run.minimize("model", loss, tape)
        return {"loss": loss}
