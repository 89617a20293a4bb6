"""The built-in step trains what `keras.Model.fit` trains: nothing in the engine changes the mathematics."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tapeworks.references import Kind
from tapeworks_workers.engine.building import build
from tests.workers.engine.trainings import job, numbers, prepared


def regularized(dropout: float) -> dict[str, Any]:
    l2 = {"component": "keras/L2", "config": {"l2": 0.01}}
    layers = [
        {"component": "keras/Dense", "config": {"units": 8, "activation": "relu", "kernel_regularizer": l2}},
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


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_supervised_is_what_fit_does(tmp_path: Path, dropout: float) -> None:
    """54 steps of Adam with sample weights, a regularizer, batch statistics and a short last batch."""
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
