"""Focal loss against the paper's formula written out, against Keras, and against numeric gradients; in float64."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tapeworks.components.registry import registry
from tapeworks.errors import JobFailure
from tapeworks.spec.references import Kind
from tapeworks_workers.engine.factory.factory import build

GENERATOR = np.random.default_rng(0)
LABELS = GENERATOR.integers(0, 2, 40)
LOGITS = GENERATOR.normal(0, 3, 40)
CLASS_LABELS = GENERATOR.integers(0, 4, 40)
CLASS_LOGITS = GENERATOR.normal(0, 3, (40, 4))


def focal(**config: Any) -> Any:
    return build({"component": "focal", "config": {"dtype": "float64", **config}}, Kind.LOSS)


def sigmoid(z: Any) -> Any:
    return 1 / (1 + np.exp(-z))


def softmax(z: Any) -> Any:
    exponents = np.exp(z)
    return exponents / exponents.sum(-1, keepdims=True)


def binary(y: Any, p: Any, gamma: float, alpha: float | None) -> float:
    """Equations 4 and 5 of the paper, word for word."""
    total = 0.0
    for label, probability in zip(y, p, strict=True):
        p_t = probability if label == 1 else 1 - probability
        alpha_t = 1.0 if alpha is None else alpha if label == 1 else 1 - alpha
        total += -alpha_t * (1 - p_t) ** gamma * np.log(p_t)
    return total / len(y)


def categorical(y: Any, p: Any, gamma: float, alpha: Any) -> float:
    weights = np.broadcast_to(1.0 if alpha is None else alpha, p.shape[1])
    values = [-weights[label] * (1 - row[label]) ** gamma * np.log(row[label]) for label, row in zip(y, p, strict=True)]
    return float(np.mean(values))


def numeric_gradient(function: Callable[[Any], float], at: Any, step: float = 1e-6) -> Any:
    gradient = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        up, down = at.copy(), at.copy()
        up[index] += step
        down[index] -= step
        gradient[index] = (function(up) - function(down)) / (2 * step)
    return gradient


def gradient(loss: Any, y: Any, y_pred: Any) -> Any:
    outputs = tf.constant(y_pred)
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        value = loss(y, outputs)
    return np.asarray(tape.gradient(value, outputs))


# ── against the formula ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
@pytest.mark.parametrize("alpha", [None, 0.25])
def test_binary_is_the_formula(gamma: float, alpha: float | None) -> None:
    expected = binary(LABELS, sigmoid(LOGITS), gamma, alpha)
    assert float(focal(gamma=gamma, alpha=alpha)(LABELS, LOGITS)) == pytest.approx(expected, abs=1e-12)
    probabilities = focal(gamma=gamma, alpha=alpha, from_logits=False)(LABELS, sigmoid(LOGITS))
    assert float(probabilities) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
@pytest.mark.parametrize("alpha", [None, 0.25, [0.1, 1.0, 2.0, 0.5]])
def test_multi_class_is_the_formula(gamma: float, alpha: Any) -> None:
    expected = categorical(CLASS_LABELS, softmax(CLASS_LOGITS), gamma, alpha)
    assert float(focal(gamma=gamma, alpha=alpha)(CLASS_LABELS, CLASS_LOGITS)) == pytest.approx(expected, abs=1e-12)
    probabilities = focal(gamma=gamma, alpha=alpha, from_logits=False)(CLASS_LABELS, softmax(CLASS_LOGITS))
    assert float(probabilities) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("alpha", [None, 0.25])
def test_binary_is_keras_own(from_logits: bool, alpha: float | None) -> None:
    theirs = keras.losses.BinaryFocalCrossentropy(
        apply_class_balancing=alpha is not None,
        alpha=alpha or 0.25,
        gamma=2.0,
        from_logits=from_logits,
        dtype="float64",
    )
    outputs = (LOGITS if from_logits else sigmoid(LOGITS))[:, None]
    ours = focal(gamma=2.0, alpha=alpha, from_logits=from_logits)
    assert float(ours(LABELS[:, None], outputs)) == pytest.approx(float(theirs(LABELS[:, None], outputs)), abs=1e-7)


@pytest.mark.parametrize("from_logits", [True, False])
def test_multi_class_is_keras_own(from_logits: bool) -> None:
    theirs = keras.losses.CategoricalFocalCrossentropy(alpha=0.25, gamma=2.0, from_logits=from_logits, dtype="float64")
    outputs = CLASS_LOGITS if from_logits else softmax(CLASS_LOGITS)
    ours = focal(gamma=2.0, alpha=0.25, from_logits=from_logits)
    expected = float(theirs(np.eye(4)[CLASS_LABELS], outputs))
    assert float(ours(CLASS_LABELS, outputs)) == pytest.approx(expected, abs=1e-7)
    assert float(ours(np.eye(4)[CLASS_LABELS], outputs)) == pytest.approx(expected, abs=1e-7)


def test_gamma_0_is_cross_entropy() -> None:
    theirs = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")
    assert float(focal(gamma=0.0)(CLASS_LABELS, CLASS_LOGITS)) == pytest.approx(
        float(theirs(CLASS_LABELS, CLASS_LOGITS)), abs=1e-12
    )


# ── gradients ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("gamma", [0.5, 2.0])
@pytest.mark.parametrize("from_logits", [True, False])
def test_binary_gradients_are_the_numeric_ones(gamma: float, from_logits: bool) -> None:
    loss = focal(gamma=gamma, alpha=0.3, from_logits=from_logits)
    outputs = LOGITS if from_logits else sigmoid(LOGITS)
    expected = numeric_gradient(lambda z: binary(LABELS, sigmoid(z) if from_logits else z, gamma, 0.3), outputs)
    np.testing.assert_allclose(gradient(loss, LABELS, outputs), expected, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_multi_class_gradients_are_the_numeric_ones(gamma: float) -> None:
    loss = focal(gamma=gamma, alpha=[0.1, 1.0, 2.0, 0.5])
    expected = numeric_gradient(
        lambda z: categorical(CLASS_LABELS, softmax(z), gamma, [0.1, 1.0, 2.0, 0.5]), CLASS_LOGITS
    )
    np.testing.assert_allclose(gradient(loss, CLASS_LABELS, CLASS_LOGITS), expected, atol=1e-6)


# ── edges ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("size", [50.0, 1e4, 1e30])
def test_saturated_logits_stay_finite_and_right(gamma: float, size: float) -> None:
    """Right and sure costs nothing; wrong and sure costs the logit, with a gradient of 1."""
    loss = build({"component": "focal", "config": {"gamma": gamma, "reduction": "none"}}, Kind.LOSS)
    outputs = np.array([size, -size, size, -size], "float32")
    labels = np.array([1, 0, 0, 1])
    values = np.asarray(loss(labels, outputs))
    np.testing.assert_allclose(values, [0, 0, size, size], rtol=1e-6, atol=1e-20)
    np.testing.assert_allclose(gradient(loss, labels, outputs), [0, 0, 1, -1], atol=1e-6)
    rows = np.stack([outputs, -outputs, np.zeros(4, "float32")], -1)
    for sparse in ([0, 1, 0, 1], [1, 0, 1, 0]):
        assert np.isfinite(np.asarray(loss(np.array(sparse), rows))).all()
        assert np.isfinite(gradient(loss, np.array(sparse), rows)).all()


def test_probabilities_of_0_and_1_stay_finite() -> None:
    loss = build({"component": "focal", "config": {"from_logits": False, "gamma": 0.5}}, Kind.LOSS)
    outputs, labels = np.array([0.0, 1.0, 0.0, 1.0], "float32"), np.array([0, 1, 1, 0])
    assert np.isfinite(float(loss(labels, outputs)))
    assert np.isfinite(gradient(loss, labels, outputs)).all()
    rows = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], "float32")
    assert np.isfinite(gradient(loss, np.array([0, 2]), rows)).all()


def test_a_batch_of_one_class() -> None:
    for label in (0, 1):
        labels = np.full(40, label)
        expected = binary(labels, sigmoid(LOGITS), 2.0, 0.25)
        assert float(focal(alpha=0.25)(labels, LOGITS)) == pytest.approx(expected, abs=1e-12)


def test_float32_is_close_to_float64() -> None:
    single = build("focal", Kind.LOSS)(CLASS_LABELS, CLASS_LOGITS.astype("float32"))
    assert single.dtype == tf.float32
    assert float(single) == pytest.approx(float(focal()(CLASS_LABELS, CLASS_LOGITS)), rel=1e-5)


# ── shapes ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("y", "outputs"), [((40,), (40,)), ((40,), (40, 1)), ((40, 1), (40,)), ((40, 1), (40, 1))])
def test_binary_labels_and_outputs_of_any_two_ranks(y: tuple[int, ...], outputs: tuple[int, ...]) -> None:
    value = focal()(LABELS.reshape(y), LOGITS.reshape(outputs))
    assert float(value) == pytest.approx(binary(LABELS, sigmoid(LOGITS), 2.0, None), abs=1e-12)


def test_labels_per_position() -> None:
    """Sequences or pixels: y (2, 20), outputs (2, 20, 4), one value a position."""
    loss = focal(reduction="none")
    values = loss(CLASS_LABELS.reshape(2, 20), CLASS_LOGITS.reshape(2, 20, 4))
    assert values.shape == (2, 20)
    flat = loss(CLASS_LABELS, CLASS_LOGITS)
    np.testing.assert_array_equal(np.ravel(values), flat)
    column = loss(CLASS_LABELS[:, None], CLASS_LOGITS)
    np.testing.assert_array_equal(column, flat)


def test_one_trace_takes_every_batch_size() -> None:
    loss, traces = focal(), []

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64), tf.TensorSpec([None, 4], tf.float64)])
    def value(y: Any, outputs: Any) -> Any:
        traces.append(1)
        return loss(y, outputs)

    for size in (1, 7, 40):
        np.testing.assert_allclose(
            value(CLASS_LABELS[:size], CLASS_LOGITS[:size]),
            categorical(CLASS_LABELS[:size], softmax(CLASS_LOGITS[:size]), 2.0, None),
        )
    assert len(traces) == 1


def test_it_compiles_to_one_xla_program() -> None:
    loss = focal()
    compiled = tf.function(loss, jit_compile=True)
    np.testing.assert_allclose(compiled(CLASS_LABELS, CLASS_LOGITS), loss(CLASS_LABELS, CLASS_LOGITS), rtol=1e-12)


def test_sample_weights_weigh() -> None:
    weights = GENERATOR.uniform(0, 1, 40)
    values = focal(reduction="none")(CLASS_LABELS, CLASS_LOGITS)
    weighted = focal()(CLASS_LABELS, CLASS_LOGITS, sample_weight=weights)
    np.testing.assert_allclose(weighted, np.mean(np.asarray(values) * weights))


# ── refusals and config ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("config", "message"),
    [({"gamma": -1}, "gamma must be 0 or more, not -1"), ({"alpha": [1.0, -0.5]}, "alpha must be 0 or more")],
)
def test_config_out_of_range_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(JobFailure, match=message) as refused:
        build({"component": "focal", "config": config}, Kind.LOSS)
    assert refused.value.location is not None
    assert (refused.value.location.component, bool(refused.value.location.line)) == ("focal", True)


@pytest.mark.parametrize(
    ("alpha", "labels", "outputs", "message"),
    [
        ([1.0, 2.0], CLASS_LABELS, CLASS_LOGITS, "alpha has 2 weights for 4 classes"),
        ([1.0, 2.0, 3.0], LABELS, LOGITS, "alpha has 3 weights for the 2 classes"),
        (1.5, LABELS, LOGITS, "alpha must be at most 1 for a binary output"),
    ],
)
def test_alpha_that_does_not_fit_the_outputs_is_refused(alpha: Any, labels: Any, outputs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        focal(alpha=alpha)(labels, outputs)


def test_weights_for_both_binary_classes() -> None:
    both = focal(alpha=[0.75, 0.25])(LABELS, LOGITS)
    assert float(both) == pytest.approx(binary(LABELS, sigmoid(LOGITS), 2.0, 0.25), abs=1e-12)


def test_it_comes_back_with_its_config() -> None:
    loss = focal(gamma=1.5, alpha=[0.1, 1.0, 2.0, 0.5], name="mine", reduction="sum")
    back = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert type(back) is registry.get(Kind.LOSS, "focal").target
    assert back.get_config() == loss.get_config()
    assert float(back(CLASS_LABELS, CLASS_LOGITS)) == float(loss(CLASS_LABELS, CLASS_LOGITS))
