"""Labels for which a loss is not defined, and NaN that only an evaluated split holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tapeworks import Source, component
from tapeworks.errors import FailureCode, JobFailure
from tests.support.trainings import Trained, job, mlp, trained

LABELS: dict[str, Any] = {}


@component("domains/Labels")
class Labels(Source):
    """Thirty rows of two numbers with the labels of a test."""

    def __init__(self, name: str) -> None:
        self.name = name

    def dataset(self) -> tf.data.Dataset:
        x = np.random.default_rng(0).normal(size=(30, 2)).astype("float32")
        return tf.data.Dataset.from_tensor_slices((x, *LABELS[self.name]))


@component("domains/Positive")
class Positive(keras.losses.Loss):
    """A component that says for which y it is defined."""

    label_domain = (0.0, float("inf"))

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return keras.ops.mean(keras.ops.square(keras.ops.log(y_true + 1.0) - y_pred), axis=-1)


def run(tmp_path: Path, loss: Any, labels: Any, *weights: Any, **model: Any) -> Trained:
    LABELS["own"] = (np.asarray(labels), *weights)
    source = {"component": "domains/Labels", "config": {"name": "own"}}
    return trained(job(data={"source": source}, loss=loss, model=mlp(model.pop("outputs", 1)), **model), tmp_path)


def column(*values: float) -> np.ndarray:
    return np.resize(np.array(values, "float32"), (30, 1))


BINARY = {"component": "keras/BinaryCrossentropy", "config": {"from_logits": True}}
FOCAL = {"component": "focal", "config": {}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "labels", "value"),
    [
        (BINARY, column(1, 2), "2"),
        (BINARY, column(-1, 1), "-1"),
        (BINARY, np.resize([1, 2], 30), "2"),
        ({**BINARY, "component": "keras/BinaryFocalCrossentropy"}, column(1, 2), "2"),
        (FOCAL, column(-1, 1), "-1"),
        ("domains/Positive", column(3, -2), "-2"),
    ],
)
def test_a_label_for_which_the_loss_is_not_defined(tmp_path: Path, loss: Any, labels: Any, value: str) -> None:
    with pytest.raises(JobFailure) as caught:
        run(tmp_path, loss, labels)
    assert caught.value.code is FailureCode.INVALID_DATA
    assert f"the data holds {value}" in caught.value.message


@pytest.mark.parametrize(
    ("loss", "labels", "outputs"),
    [
        ("keras/MeanSquaredLogarithmicError", column(3, -1), 1),
        ("keras/Hinge", column(1, 2), 1),
        (
            {"component": "keras/CategoricalCrossentropy", "config": {"from_logits": True}},
            np.tile([[0.0, 2.0]], (30, 1)),
            2,
        ),
    ],
)
def test_what_may_be_meant_is_a_diagnostic(tmp_path: Path, loss: Any, labels: Any, outputs: int) -> None:
    done = run(tmp_path, loss, labels, outputs=outputs)
    assert [event["code"] for event in done.events("diagnostic")].count("invalid_data") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "labels", "outputs"),
    [
        (BINARY, column(0, 0.25, 1), 1),
        (FOCAL, np.resize([0, 1, 2], 30), 3),
        ("keras/MeanSquaredError", column(-7, 7), 1),
        ("keras/Hinge", column(-1, 1), 1),
    ],
)
def test_labels_that_are_right_are_taken_without_a_word(tmp_path: Path, loss: Any, labels: Any, outputs: int) -> None:
    done = run(tmp_path, loss, labels, outputs=outputs)
    assert "invalid_data" not in [event["code"] for event in done.events("diagnostic")]


def test_labels_without_weight_may_be_anything(tmp_path: Path) -> None:
    weights = (column(0, 1)[:, 0],)
    run(tmp_path / "taken", BINARY, column(-1, 1), *weights)
    with pytest.raises(JobFailure, match="the data holds -1"):
        run(tmp_path / "refused", BINARY, column(1, -1), *weights)


def test_nan_in_validation_alone_is_reported_with_its_field(tmp_path: Path) -> None:
    labels = column(1.0, 2.0)
    labels[27] = np.nan
    LABELS["own"] = (labels,)
    source = {"component": "domains/Labels", "config": {"name": "own"}}
    data = {"source": source, "validation": {"fraction": 0.2, "split": "tail"}}
    done = trained(job(data=data, loss="keras/MeanSquaredError", model=mlp(1)), tmp_path)
    (note,) = (event for event in done.events("diagnostic") if event["code"] == "non_finite")
    assert "not finite in the validation split" in note["message"]
    assert "in y (batch 1)" in note["message"]
    assert all(np.isnan(done.history("val_loss")))
