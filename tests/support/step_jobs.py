"""A job around a step, in float64, and what a step on one batch did to it."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tapeworks.spec.parsing import parse_spec
from tapeworks_workers.engine.graph.randomness import derive_seed
from tapeworks_workers.engine.step.assembly import Assembly, assemble
from tapeworks_workers.engine.step.compiled_step import compile_train_step, compile_validation_step

FEATURES, RATE = 4, 0.1
ELEMENT = (tf.TensorSpec([None, FEATURES], tf.float64), tf.TensorSpec([None], tf.int64))
SGD = {"component": "keras/SGD", "config": {"learning_rate": RATE}}


def mlp(outputs: int, **config: Any) -> dict[str, Any]:
    return {"component": "mlp", "config": {"hidden": [5], "outputs": outputs, "activation": "tanh", **config}}


def batch(size: int = 7, *, seed: int = 0) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    return random.uniform(size=(size, FEATURES)), random.integers(0, 3, size)


def assembled(
    step: str, config: dict[str, Any], models: dict[str, Any], *, element: Any = ELEMENT, **parts: Any
) -> Assembly:
    """Every optimizer is SGD, so that a step moves the weights by `RATE` times their gradients."""
    document = {
        "data": {"source": "iris", "pipeline": [{"op": "batch", "batch_size": 7}]},
        "step": {"component": step, "config": config},
        "models": models,
        "training": {"precision": "float64", "seed": 5},
        **parts,
    }
    return assemble(parse_spec(document), element)


class Noise:
    """The job's stream from its start, made anew: floats from Philox' bits, in NumPy."""

    def __init__(self, stream: str) -> None:
        self._generator = tf.random.Generator.from_seed(derive_seed(5, "run", stream), alg="philox")

    def uniform(self, shape: Any, dtype: Any = tf.float32) -> tf.Tensor:
        wide = tf.as_dtype(dtype) == tf.float64
        bits = self._generator.uniform_full_int(shape, tf.uint64 if wide else tf.uint32).numpy()
        if wide:  # TensorFlow takes the first 32 bits drawn for the lower ones of a double
            exchanged = (bits >> np.uint64(32)) | (bits << np.uint64(32))
            drawn = (exchanged & np.uint64((1 << 52) - 1)) * 2.0**-52
        else:
            drawn = (bits & np.uint32(0x7FFFFF)) * 2.0**-23
        return tf.constant(drawn, dtype)

    def normal(self, shape: Any, dtype: Any = tf.float32) -> tf.Tensor:
        count = int(np.prod(shape))
        radius, angle = self.uniform([-(-count // 2), 2], dtype).numpy().T
        length = np.sqrt(-2 * np.log(np.maximum(radius, 1e-7)))
        pairs = np.stack([length * np.sin(2 * np.pi * angle), length * np.cos(2 * np.pi * angle)], axis=1)
        return tf.constant(pairs.reshape(-1)[:count].reshape(shape), dtype)


def noise(stream: str = "training") -> Noise:
    return Noise(stream)


def copy(model: keras.Model) -> keras.Model:
    """A model of the same weights, for a reference that trains beside the engine."""
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    return twin


def trained(assembly: Assembly, given: Any) -> dict[str, float]:
    """The logs of one training step."""
    return {name: float(value) for name, value in compile_train_step(assembly)(given).items()}


def validated(assembly: Assembly, given: Any) -> dict[str, float]:
    """The logs of one validation step."""
    return {name: float(value) for name, value in compile_validation_step(assembly)(given).items()}


def descend(model: keras.Model, tape: tf.GradientTape, loss: Any) -> None:
    """A step of plain gradient descent."""
    for variable, gradient in zip(
        model.trainable_variables, tape.gradient(loss, model.trainable_variables), strict=True
    ):
        variable.assign_sub(RATE * gradient)


def assert_same_weights(model: keras.Model, reference: keras.Model) -> None:
    for found, expected in zip(model.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
