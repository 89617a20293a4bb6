"""What holds for each built-in loss: numeric gradients, one trace, float32, its config, admission."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tapeworks.components.registry import registry
from tapeworks.schemas.jobs import ComponentEntry
from tapeworks.spec.references import Kind
from tapeworks_workers.engine.admission.admission import admit
from tapeworks_workers.engine.factory.factory import build

GENERATOR = np.random.default_rng(7)
CLASSES = GENERATOR.integers(0, 3, 12)
VIEWS = np.tile(np.arange(6), 2)
EMBEDDINGS = GENERATOR.normal(size=(12, 4))
PAIRS = GENERATOR.normal(size=(12, 2, 3))
REAL = GENERATOR.integers(0, 2, 12)
LOGITS = GENERATOR.normal(0, 2, (12, 1))
MASKS = GENERATOR.integers(0, 2, (12, 3, 4, 1))
MASK_LOGITS = GENERATOR.normal(0, 2, (12, 3, 4, 1))
CLASS_MASKS = GENERATOR.integers(0, 3, (12, 3, 4))
CLASS_MASK_LOGITS = GENERATOR.normal(0, 2, (12, 3, 4, 3))
POINTS = GENERATOR.normal(0, 8, (12, 6))

CASES: list[tuple[str, dict[str, Any], Any, Any]] = [
    *[
        ("triplet", {"mining": mining, "distance": distance, "margin": 0.7}, CLASSES, EMBEDDINGS)
        for mining in ("semi_hard", "hard", "all")
        for distance in ("euclidean", "squared", "cosine")
    ],
    ("contrastive", {"margin": 2.5}, REAL, PAIRS),
    ("contrastive", {"margin": 1.0}, REAL, np.abs(LOGITS)),
    ("nt_xent", {"temperature": 0.2}, VIEWS, EMBEDDINGS),
    ("nt_xent", {"temperature": 0.5}, CLASSES, EMBEDDINGS),
    ("dice", {"smooth": 0.5}, MASKS, MASK_LOGITS),
    ("dice", {}, CLASS_MASKS, CLASS_MASK_LOGITS),
    ("tversky", {"alpha": 0.2, "beta": 0.9}, MASKS, MASK_LOGITS),
    ("tversky", {"smooth": 0.1}, CLASS_MASKS, CLASS_MASK_LOGITS),
    ("wasserstein", {}, REAL, LOGITS),
    ("hinge_gan", {}, REAL, LOGITS),
    ("hinge_gan", {"player": "generator"}, REAL, LOGITS),
    ("non_saturating_gan", {}, REAL, LOGITS),
    ("wing", {"w": 5.0, "epsilon": 1.5}, np.zeros((12, 6)), POINTS),
]
each = pytest.mark.parametrize(("name", "config", "y", "outputs"), CASES)


def loss_of(component: str, dtype: str = "float64", **config: Any) -> Any:
    return build({"component": component, "config": {"dtype": dtype, **config}}, Kind.LOSS)


def gradient(loss: Any, y: Any, outputs: Any) -> Any:
    outputs = tf.constant(outputs)
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        value = loss(y, outputs)
    return np.asarray(tape.gradient(value, outputs))


def numeric_gradient(function: Callable[[Any], Any], at: Any, step: float = 1e-6) -> Any:
    found = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        up, down = at.copy(), at.copy()
        up[index] += step
        down[index] -= step
        found[index] = (float(function(up)) - float(function(down))) / (2 * step)
    return found


@each
def test_gradients_are_the_numeric_ones(name: str, config: dict[str, Any], y: Any, outputs: Any) -> None:
    loss = loss_of(name, **config)
    some = slice(0, 2) if outputs.ndim == 4 else slice(None)
    value = tf.function(lambda z: loss(y[some], z))
    expected = numeric_gradient(lambda z: value(tf.constant(z)), outputs[some])
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(gradient(loss, y[some], outputs[some]), expected, atol=1e-6)


@pytest.mark.slow
@each
def test_one_trace_takes_every_batch_and_compiles(name: str, config: dict[str, Any], y: Any, outputs: Any) -> None:
    loss, traces = loss_of(name, **config), []
    signature = [
        tf.TensorSpec([None, *y.shape[1:]], tf.as_dtype(y.dtype)),
        tf.TensorSpec([None, *outputs.shape[1:]], tf.float64),
    ]

    @tf.function(input_signature=signature)
    def value(labels: Any, z: Any) -> Any:
        traces.append(1)
        return loss(labels, z)

    for size in (12, 5, 1):
        np.testing.assert_allclose(value(y[:size], outputs[:size]), loss(y[:size], outputs[:size]), rtol=1e-12)
        assert np.isfinite(gradient(loss, y[:size], outputs[:size])).all()
    assert len(traces) == 1
    compiled = tf.function(loss, jit_compile=True)
    np.testing.assert_allclose(compiled(y, outputs), loss(y, outputs), rtol=1e-10)


@each
def test_float32_is_close_to_float64(name: str, config: dict[str, Any], y: Any, outputs: Any) -> None:
    single = loss_of(name, "float32", **config)(y, outputs.astype("float32"))
    assert single.dtype == tf.float32
    assert float(single) == pytest.approx(float(loss_of(name, **config)(y, outputs)), rel=1e-5, abs=1e-6)


@each
def test_values_by_example_weigh_and_come_back(name: str, config: dict[str, Any], y: Any, outputs: Any) -> None:
    values = np.asarray(loss_of(name, reduction="none", **config)(y, outputs))
    assert values.shape == (12,)
    loss, weights = loss_of(name, name="mine", **config), GENERATOR.uniform(0, 1, 12)
    np.testing.assert_allclose(loss(y, outputs), values.mean(), rtol=1e-12)
    np.testing.assert_allclose(loss(y, outputs, sample_weight=weights), (values * weights).mean(), rtol=1e-12)
    back = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert type(back) is registry.get(Kind.LOSS, name).target
    assert back.get_config() == loss.get_config()
    assert back.get_config().items() >= config.items()
    assert float(back(y, outputs)) == float(loss(y, outputs))


@pytest.mark.parametrize("name", sorted({case[0] for case in CASES}))
def test_it_is_admitted(name: str) -> None:
    entry = admit(registry.get(Kind.LOSS, name))
    assert isinstance(entry, ComponentEntry), entry
    assert entry.warnings == []
