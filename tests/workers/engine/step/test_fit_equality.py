"""The built-in step trains what `keras.Model.fit` trains: nothing in the engine changes the mathematics."""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from examples.serving import DATA, EXAMPLES
from tapeworks.spec.parsing import parse_spec
from tapeworks.spec.references import Kind
from tests.support.job_files import build, set_data_roots
from tests.support.trainings import job, numbers, prepared


def regularized(dropout: float) -> dict[str, Any]:
    l2 = {"component": "keras/L2", "config": {"l2": 0.01}}
    layers = [
        {"component": "keras/Dense", "config": {"units": 8, "activation": "relu", "kernel_regularizer": l2}},
        {"component": "keras/ActivityRegularization", "config": {"l2": 0.01}},
        {"component": "keras/BatchNormalization", "config": {}},
        {"component": "keras/Dropout", "config": {"rate": dropout}},
        {"component": "keras/Dense", "config": {"units": 3}},
    ]
    return {"component": "sequential", "config": {"layers": layers}}


class Curve(keras.callbacks.Callback):
    """The loss after each batch, as `fit` tells it."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.losses.append(logs["loss"])


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_supervised_is_what_fit_does(tmp_path: Path, dropout: float) -> None:
    """54 steps of Adam with sample weights, regularizers, batch statistics and a short last batch."""
    accuracy = "keras/SparseCategoricalAccuracy"
    spec = job(
        data={"source": numbers(95, "weighted"), "validation": 0.1},
        model=regularized(dropout),
        metrics=[accuracy, {"component": accuracy, "config": {"name": "weighted"}, "weighted": True}],
        training={"epochs": 6, "seed": 5, "report_every_steps": 1},
    )
    ours = prepared(spec, tmp_path)
    model = keras.models.clone_model(ours.assembly.models["model"])
    for mine, theirs in zip(ours.assembly.models["model"].variables, model.variables, strict=True):
        theirs.assign(mine.numpy())
    named = keras.metrics.SparseCategoricalAccuracy
    model.compile(
        optimizer=build("keras/Adam", Kind.OPTIMIZER),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[named()],
        weighted_metrics=[named(name="weighted")],
    )
    assert ours.data.validation is not None
    curve = Curve()
    fitted = model.fit(
        ours.data.training.dataset(0),
        validation_data=ours.data.validation.dataset(0),
        epochs=6,
        shuffle=False,
        verbose=0,
        callbacks=[curve],
    ).history
    ours.training.train()
    assert ours.training.counters.step == len(curve.losses) == 54
    reported = {record["step"]: record["values"]["loss"] for record in ours.records("metric")}
    np.testing.assert_allclose([reported[step] for step in range(1, 55)], curve.losses, atol=1e-5)
    assert set(fitted) == set(ours.training.counters.logs)
    for name, values in fitted.items():
        np.testing.assert_allclose(ours.history(name), values, atol=1e-5, err_msg=name)
    for mine, theirs in zip(ours.assembly.models["model"].variables, model.variables, strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), atol=1e-5, err_msg=mine.path)


@pytest.mark.slow
def test_several_inputs_and_outputs_are_what_fit_does(tmp_path: Path) -> None:
    """Two epochs of an example: a loss, its weight and metrics for each output, one sample weight for all of them."""
    document = json.loads((EXAMPLES / "standard" / "several.json").read_text())
    set_data_roots([DATA])
    try:
        ours = prepared(parse_spec({**document, "training": {"epochs": 2, "seed": 5}}), tmp_path)
        model, validation = ours.assembly.models["model"], ours.data.validation
        assert validation is not None
        start = [value.numpy() for value in model.trainable_variables]
        ours.training.train()
        found = [value.numpy() for value in model.trainable_variables]
        for variable, value in zip(model.trainable_variables, start, strict=True):
            variable.assign(value)
        model.compile(
            optimizer=build(document["optimizer"], Kind.OPTIMIZER),
            loss={"rent": "mse", "gone": "binary_crossentropy"},
            loss_weights={"rent": 0.5, "gone": 1.0},
            metrics={"rent": [keras.metrics.MeanAbsoluteError()], "gone": [keras.metrics.AUC(name="auc")]},
            weighted_metrics={"rent": [keras.metrics.R2Score()]},
        )
        fitted: dict[str, list[float]] = {}
        for number in range(2):
            epoch = ours.data.training.dataset(number)
            history = model.fit(epoch, validation_data=validation.dataset(0), shuffle=False, verbose=0).history
            fitted = {name: [*fitted.get(name, []), *values] for name, values in history.items()}
    finally:
        set_data_roots([])
    names = ["loss", "rent_mean_absolute_error", "rent_r2_score", "gone_auc"]
    for name in [*names, *(f"val_{name}" for name in names)]:
        np.testing.assert_allclose(ours.history(name), fitted[name], rtol=1e-4, err_msg=name)
    for mine, theirs in zip(found, model.trainable_variables, strict=True):
        np.testing.assert_allclose(mine, theirs.numpy(), atol=1e-5, err_msg=theirs.path)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_seeded_initialisers_start_as_in_keras(tmp_path: Path, precision: str) -> None:
    names = ["HeNormal", "TruncatedNormal", "Orthogonal", "RandomNormal", "RandomUniform", "LecunUniform"]
    initializers = [{"component": f"keras/{name}", "config": {"seed": 7}} for name in names]
    layers = [{"component": "keras/Dense", "config": {"units": 4, "kernel_initializer": one}} for one in initializers]
    layers.append({"component": "keras/Dense", "config": {"units": 3}})
    spec = job(model={"component": "sequential", "config": {"layers": layers}}, training={"precision": precision})
    for layer, name in zip(prepared(spec, tmp_path).assembly.models["model"].layers, names, strict=False):
        expected = getattr(keras.initializers, name)(seed=7)(layer.kernel.shape, precision)
        np.testing.assert_array_equal(layer.kernel.numpy(), expected, err_msg=name)
