"""Recall at k, calibration error and confusion matrix against scikit-learn and loops, however the split is batched."""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import sklearn.metrics
import tensorflow as tf

from tapeworks.components.registry import registry
from tapeworks.errors import JobFailure
from tapeworks.schemas.jobs import ComponentEntry
from tapeworks.spec.references import Kind
from tapeworks_workers.engine.admission.admission import admit
from tapeworks_workers.engine.factory.factory import build
from tapeworks_workers.engine.step.metrics import as_floats, scalars

GENERATOR = np.random.default_rng(1)
LABELS = GENERATOR.integers(0, 4, 101)
LOGITS = GENERATOR.normal(0, 2, (101, 4))
TAGS = GENERATOR.integers(0, 2, (101, 4)) * (GENERATOR.uniform(size=(101, 1)) > 0.2)
WEIGHTS = GENERATOR.uniform(0.1, 1, 101)
SIZES = [101, 20, 1]
"""Batches of one split: the whole, five and a short last one, one example each."""
CASES: list[tuple[str, dict[str, Any]]] = [
    ("recall_at_k", {"k": 2}),
    ("expected_calibration_error", {"bins": 7}),
    ("confusion_matrix", {"classes": 4}),
    ("macro_f_beta", {"classes": 4}),
]
each = pytest.mark.parametrize(("component", "config"), CASES)


def part(component: str, **config: Any) -> Any:
    return build({"component": component, "config": {"dtype": "float64", **config}}, Kind.METRIC)


def fed(metric: Any, y: Any, outputs: Any, weights: Any = None, *, size: int = 20) -> dict[str, float]:
    """The values of a split, as the engine names them."""
    for start in range(0, len(y), size):
        at = slice(start, start + size)
        metric.update_state(y[at], outputs[at], sample_weight=None if weights is None else weights[at])
    return as_floats(scalars("value", metric.result()))


def softmax(z: Any) -> Any:
    return np.exp(z) / np.exp(z).sum(-1, keepdims=True)


# ── all of them ──────────────────────────────────────────────────────────────────────────────────


@each
def test_each_epoch_starts_anew(component: str, config: dict[str, Any]) -> None:
    metric = part(component, **config)
    first = fed(metric, LABELS[:50], LOGITS[:50])
    metric.reset_state()
    assert all(float(np.abs(one).max()) == 0 for one in metric.variables)
    assert set(as_floats(scalars("value", metric.result())).values()) == {0.0}, "an empty split is 0, not NaN"
    second = fed(metric, LABELS[50:], LOGITS[50:])
    assert second == fed(part(component, **config), LABELS[50:], LOGITS[50:]) != first


@each
def test_one_trace_takes_every_batch_and_epoch(component: str, config: dict[str, Any]) -> None:
    metric, traces = part(component, **config), []

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64), tf.TensorSpec([None, 4], tf.float32)])
    def update(y: Any, outputs: Any) -> None:
        traces.append(1)
        metric.update_state(y, outputs)

    expected = fed(part(component, **config), LABELS, LOGITS.astype("float32"))
    for _ in range(2):
        for start in range(0, 101, 20):
            update(LABELS[start : start + 20], LOGITS[start : start + 20].astype("float32"))
        assert as_floats(scalars("value", metric.result())) == pytest.approx(expected, abs=1e-12)
        metric.reset_state()
    assert len(traces) == 1


@each
def test_it_comes_back_with_its_config(component: str, config: dict[str, Any]) -> None:
    metric = part(component, **config, name="mine")
    written = json.loads(json.dumps(keras.saving.serialize_keras_object(metric)))
    back = keras.saving.deserialize_keras_object(written)
    assert type(back) is registry.get(Kind.METRIC, component).target
    assert back.get_config() == metric.get_config()
    assert back.get_config().items() >= {**config, "name": "mine"}.items()
    assert {one.dtype for one in back.variables} == {"float64"}
    assert fed(back, LABELS, LOGITS) == fed(metric, LABELS, LOGITS)


@each
def test_it_is_admitted(component: str, config: dict[str, Any]) -> None:
    entry = admit(registry.get(Kind.METRIC, component))
    assert isinstance(entry, ComponentEntry), entry
    assert entry.warnings == []


def test_a_compiled_model_comes_back_with_them_and_goes_on(tmp_path: Path) -> None:
    """Plain Keras evaluates and fits with them, a dict's values under their own names."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, metrics=[build({"component": c, "config": k}, Kind.METRIC) for c, k in CASES])
    x, before = LOGITS.astype("float32"), {}
    model.fit(x, LABELS, batch_size=32, verbose=0)
    before = model.evaluate(x, LABELS, batch_size=32, verbose=0, return_dict=True)
    model.save(tmp_path / "m.keras")
    back = keras.models.load_model(tmp_path / "m.keras")
    after = back.evaluate(x, LABELS, batch_size=32, verbose=0, return_dict=True)
    assert after == pytest.approx(before, abs=1e-6)
    assert after["recall_at_k"] == pytest.approx(
        sklearn.metrics.top_k_accuracy_score(LABELS, back(x), k=2, labels=range(4)), abs=1e-6
    )
    history = back.fit(x, LABELS, batch_size=32, verbose=0).history
    assert {"recall_at_k", "expected_calibration_error", "true_0_predicted_3"} <= set(history)


# ── recall_at_k ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_recall_of_one_class_each_is_top_k_accuracy(size: int, weights: Any, k: int) -> None:
    expected = sklearn.metrics.top_k_accuracy_score(LABELS, LOGITS, k=k, sample_weight=weights) if k < 4 else 1.0
    for y in (LABELS, LABELS[:, None]):
        assert fed(part("recall_at_k", k=k), y, LOGITS, weights, size=size) == pytest.approx({"value": expected})


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_recall_of_several_classes_leaves_out_examples_without(size: int, weights: Any) -> None:
    above, below = 0.0, 0.0
    for tags, scores, weight in zip(TAGS, LOGITS, np.ones(101) if weights is None else weights, strict=True):
        if tags.any():
            above += weight * sum(tags[i] for i in np.argsort(-scores)[:2]) / tags.sum()
            below += weight
    assert 0 < below < (101 if weights is None else weights.sum())
    assert fed(part("recall_at_k", k=2), TAGS, LOGITS, weights, size=size) == pytest.approx({"value": above / below})
    empty = fed(part("recall_at_k", k=2), np.zeros_like(TAGS), LOGITS)
    assert empty == {"value": 0.0}


# ── expected_calibration_error ───────────────────────────────────────────────────────────────────


def calibration(correct: Any, confidence: Any, weights: Any, bins: int) -> float:
    """Equation 3 of Guo et al. as a loop over bins."""
    error = 0.0
    for m in range(1, bins + 1):
        inside = (confidence > (m - 1) / bins) & (confidence <= m / bins)
        if inside.any():
            w = weights[inside]
            error += w.sum() * abs(np.average(correct[inside], weights=w) - np.average(confidence[inside], weights=w))
    return float(error / weights.sum())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_is_the_papers(size: int, weights: Any, bins: int) -> None:
    p, w = softmax(LOGITS), np.ones(101) if weights is None else weights
    expected = {"value": calibration(p.argmax(-1) == LABELS, p.max(-1), w, bins)}
    metric = part("expected_calibration_error", bins=bins)
    assert fed(metric, LABELS, LOGITS, weights, size=size) == pytest.approx(expected, abs=1e-9)
    metric = part("expected_calibration_error", bins=bins, from_logits=False)
    for y in (LABELS[:, None], np.eye(4)[LABELS]):
        metric.reset_state()
        assert fed(metric, y, p, weights, size=size) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("size", SIZES)
def test_calibration_of_two_classes(size: int) -> None:
    p, y = 1 / (1 + np.exp(-LOGITS[:, 0])), LABELS % 2
    expected = {"value": calibration((p > 0.5) == y, np.maximum(p, 1 - p), np.ones(101), 10)}
    for labels, outputs in ((y, LOGITS[:, 0]), (y, LOGITS[:, :1]), (y[:, None], LOGITS[:, :1])):
        metric = part("expected_calibration_error", bins=10)
        assert fed(metric, labels, outputs, size=size) == pytest.approx(expected, abs=1e-9)
    rows = np.stack([np.zeros(101), LOGITS[:, 0]], axis=-1)
    assert fed(part("expected_calibration_error", bins=10), y, rows) == pytest.approx(expected, abs=1e-9)


def test_calibration_of_sure_predictions() -> None:
    logits, y = np.array([[1e30, 0.0], [0.0, 1e30], [1e30, 0.0], [0.0, 1e30]], "float32"), np.array([0, 1, 0, 0])
    assert fed(part("expected_calibration_error"), y, logits) == pytest.approx({"value": 0.25})
    assert fed(part("expected_calibration_error"), y[:2], logits[:2]) == {"value": 0.0}


# ── confusion_matrix ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_confusion_is_scikit_learns(size: int, weights: Any) -> None:
    counts = sklearn.metrics.confusion_matrix(LABELS, LOGITS.argmax(-1), sample_weight=weights)
    expected = {f"value_true_{i}_predicted_{j}": counts[i, j] for i in range(4) for j in range(4)}
    for y in (LABELS, LABELS[:, None], np.eye(4)[LABELS], LABELS.astype("int8"), LABELS.astype("uint8")):
        assert fed(part("confusion_matrix", classes=4), y, LOGITS, weights, size=size) == pytest.approx(expected)


def test_confusion_leaves_out_labels_of_no_class() -> None:
    found = fed(part("confusion_matrix", classes=4), np.where(LABELS == 0, -1, LABELS), LOGITS)
    assert sum(found.values()) == (LABELS > 0).sum()
    beyond = fed(part("confusion_matrix", classes=4), np.where(LABELS == 3, 4, LABELS), LOGITS)
    assert sum(beyond.values()) == (LABELS < 3).sum()


def test_confusion_of_positions() -> None:
    """Pixels: y (5, 4, 5), outputs (5, 4, 5, 4)."""
    y, outputs = LABELS[:100], LOGITS[:100]
    flat = fed(part("confusion_matrix", classes=4), y, outputs)
    pixels = fed(part("confusion_matrix", classes=4), y.reshape(5, 4, 5), outputs.reshape(5, 4, 5, 4))
    assert pixels == flat


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("component", "config", "message"),
    [
        ("recall_at_k", {"k": 0}, "k must be 1 or more, not 0"),
        ("expected_calibration_error", {"bins": 0}, "bins must be 1 or more, not 0"),
        ("confusion_matrix", {"classes": 1}, "classes must be 2 … 64, not 1"),
        ("confusion_matrix", {"classes": 1000}, "classes must be 2 … 64, not 1000"),
    ],
)
def test_config_out_of_range_is_refused(component: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(JobFailure, match=message):
        part(component, **config)


def test_outputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="k of 5 needs scores"):
        part("recall_at_k", k=5).update_state(LABELS, LOGITS)
    with pytest.raises(ValueError, match=r"needs outputs of shape \(…, 3\)"):
        part("confusion_matrix", classes=3).update_state(LABELS, LOGITS)
