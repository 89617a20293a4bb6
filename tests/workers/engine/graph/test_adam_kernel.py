"""Adam by TensorFlow's kernel against Keras' own update, in plain and compiled graphs."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tapeworks_workers.engine.graph.adam_kernel import one_pass_adam

OPTIMIZERS = {
    "Adam": lambda: keras.optimizers.Adam(0.01),
    "AdamW": lambda: keras.optimizers.AdamW(0.02, weight_decay=0.1, beta_1=0.8, beta_2=0.9, epsilon=1e-3),
    "AMSGrad": lambda: keras.optimizers.Adam(0.01, amsgrad=True),
    "no momentum": lambda: keras.optimizers.Adam(0.01, beta_1=0.0),
    "a schedule": lambda: keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)),
}
SCALES = (1.0, -0.5, 2.0, 0.0, 1.5, -3.0)


def dense(scale: tf.Tensor) -> Any:
    return tf.reshape(tf.linspace(-1.0, 2.0, 40), [10, 4]) * scale


def repeated(scale: tf.Tensor) -> Any:
    """Rows 1 (twice) and 7 of ten."""
    values = tf.stack([tf.ones(4), -2.0 * tf.ones(4), tf.range(4.0)]) * scale
    return tf.IndexedSlices(values, tf.constant([1, 1, 7]), tf.constant([10, 4]))


def trained(
    make: Any, gradient: Any, *, ours: bool, compiled: bool = False, dtype: str = "float32"
) -> tuple[np.ndarray, list[str]]:
    """The weights after six steps, and the operations of the step."""
    variable = keras.Variable(np.linspace(-1, 1, 40, dtype=dtype).reshape(10, 4), dtype=dtype)
    optimizer = make()
    optimizer.build([variable])

    @tf.function(jit_compile=compiled, autograph=False)
    def step(scale: tf.Tensor) -> None:
        optimizer.apply([gradient(scale)])

    def whole() -> Any:
        return step.get_concrete_function(tf.TensorSpec([], tf.float32))

    if ours:
        with one_pass_adam():
            traced = whole()
    else:
        traced = whole()
    for scale in SCALES:
        step(tf.constant(scale))
    return variable.numpy(), [node.op for node in traced.graph.as_graph_def().node]


@pytest.mark.parametrize("gradient", [dense, repeated])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_trains_as_keras_does(name: str, gradient: Any) -> None:
    expected, _ = trained(OPTIMIZERS[name], gradient, ours=False)
    got, operations = trained(OPTIMIZERS[name], gradient, ours=True)
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6)
    keras_own = name == "AMSGrad" or (name == "no momentum" and gradient is repeated)
    assert ("ResourceApplyAdam" in operations) is not keras_own


@pytest.mark.parametrize("gradient", [dense, repeated])
def test_float64_keeps_its_digits(gradient: Any) -> None:
    """Against the formula in NumPy: Keras' own powers of the betas pass through float32."""
    got, _ = trained(OPTIMIZERS["AdamW"], gradient, ours=True, dtype="float64")
    rate, decay, beta_1, beta_2 = float(np.float32(0.02)), float(np.float32(0.1)), 0.8, 0.9
    weights = np.linspace(-1, 1, 40).reshape(10, 4)
    momentum, velocity = np.zeros((10, 4)), np.zeros((10, 4))
    for step, scale in enumerate(SCALES, start=1):
        given = gradient(tf.constant(scale))
        rows, values = (given.indices, given.values) if gradient is repeated else (tf.range(10), given)
        weights -= weights * decay * rate
        momentum *= beta_1
        velocity *= beta_2
        np.add.at(momentum, rows.numpy(), (1 - beta_1) * values.numpy().astype("float64"))
        np.add.at(velocity, rows.numpy(), (1 - beta_2) * values.numpy().astype("float64") ** 2)
        corrected = rate * np.sqrt(1 - beta_2**step) / (1 - beta_1**step)
        weights -= corrected * momentum / (np.sqrt(velocity) + 1e-3)
    np.testing.assert_allclose(got, weights, rtol=0, atol=1e-12)


@pytest.mark.parametrize("gradient", [dense, repeated])
def test_an_xla_program_trains_alike(gradient: Any) -> None:
    plain, _ = trained(OPTIMIZERS["Adam"], gradient, ours=True)
    compiled, _ = trained(OPTIMIZERS["Adam"], gradient, ours=True, compiled=True)
    np.testing.assert_allclose(compiled, plain, rtol=0, atol=1e-6)


def test_keras_has_its_own_back_afterwards() -> None:
    _, operations = trained(OPTIMIZERS["Adam"], dense, ours=True)
    assert "ResourceApplyAdam" in operations
    _, operations = trained(OPTIMIZERS["Adam"], dense, ours=False)
    assert "ResourceApplyAdam" not in operations
