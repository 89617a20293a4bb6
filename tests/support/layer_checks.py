"""Layers in tests: built by name, with random weights, differentiated numerically, reloaded."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tapeworks.spec.references import Kind
from tapeworks_workers.engine.factory.factory import build

GENERATOR = np.random.default_rng(0)


def layer(component: str, **config: Any) -> Any:
    return build({"component": component, "config": {"dtype": "float64", **config}}, Kind.LAYER)


def normal(*shape: int) -> np.ndarray:
    return GENERATOR.normal(size=shape)


def values(one: Any) -> list[np.ndarray]:
    """The weights, all drawn anew: zeros and ones would hide what is done with them."""
    for weight in one.weights:
        if weight.dtype == "float64":
            weight.assign(np.abs(normal(*weight.shape)) + 0.1)
    return [np.asarray(weight.value) for weight in one.weights]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def check_gradients(forward: Any, variables: list[Any]) -> None:
    """Central differences in float64, entry by entry."""

    def total() -> Any:
        return tf.reduce_sum(tf.sin(forward()))

    with tf.GradientTape() as tape:
        value = total()
    gradients = tape.gradient(value, [variable.value for variable in variables])
    for variable, gradient in zip(variables, gradients, strict=True):
        gradient, start = tf.convert_to_tensor(gradient).numpy(), variable.numpy().copy()
        for index in np.ndindex(*start.shape):
            ends = []
            for step in (1e-5, -1e-5):
                moved = start.copy()
                moved[index] += step
                variable.assign(moved)
                ends.append(float(total()))
            variable.assign(start)
            assert gradient[index] == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-6), (variable.path, index)


def reloaded(model: keras.Model, folder: Path) -> keras.Model:
    model.save(folder / "m.keras")
    back = keras.models.load_model(folder / "m.keras")
    assert [one.shape for one in back.variables] == [one.shape for one in model.variables]
    return back


def ragged(*lengths: int, features: int = 3) -> Any:
    return tf.RaggedTensor.from_row_lengths(normal(sum(lengths), features), lengths)
