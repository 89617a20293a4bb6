"""Built-in callbacks: the learning rate against Keras' own, event files as TensorBoard reads them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tapeworks.spec.references import Kind
from tapeworks_workers.engine.factory.factory import build

LOSSES = [1.0, 0.9, 0.95, 0.9, 0.899, 0.9, 0.91, 0.2, 0.3, float("nan"), 0.3, 0.3, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]


class Rates:
    """`run` as far as the learning rate goes: those of real optimizers."""

    def __init__(self, *names: str) -> None:
        self.optimizers = {name: keras.optimizers.SGD(0.5) for name in names}
        self.training_step = SimpleNamespace(optimizers=dict.fromkeys(names, ("model",)))

    def direction(self, monitor: str, mode: str) -> str:
        return "min" if mode == "auto" else mode

    def learning_rate(self, optimizer: str, value: float | None = None) -> float:
        if value is not None:
            self.optimizers[optimizer].learning_rate = value
        return float(self.optimizers[optimizer].learning_rate)


def reducing(**config: Any) -> Any:
    callback = build({"component": "reduce_learning_rate", "config": config}, Kind.CALLBACK)
    callback.build(Rates())
    return callback


@pytest.mark.parametrize(
    "config",
    [
        {"patience": 2, "factor": 0.5},
        {"patience": 1, "factor": 0.1, "cooldown": 2, "min_lr": 0.01},
        {"patience": 0, "factor": 0.5, "min_delta": 0.05},
        {"patience": 2, "factor": 0.5, "mode": "max"},
    ],
)
def test_it_reduces_as_keras_does(config: dict[str, Any]) -> None:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.5), "mse")
    theirs = keras.callbacks.ReduceLROnPlateau(**{"mode": "min", **config})
    theirs.set_model(model)
    theirs.on_train_begin()
    run, ours = Rates("model"), reducing(**config)
    for epoch, loss in enumerate(LOSSES, 1):
        theirs.on_epoch_end(epoch - 1, {"val_loss": loss})
        ours.on_epoch_end(epoch, {"val_loss": loss}, run)
        assert run.learning_rate("model") == float(model.optimizer.learning_rate), epoch


def test_its_state_goes_on() -> None:
    whole, first = Rates("model"), Rates("model")
    one, before = reducing(patience=3, cooldown=1), reducing(patience=3, cooldown=1)
    for epoch, loss in enumerate(LOSSES, 1):
        if epoch == 6:
            after = reducing(patience=3, cooldown=1)
            after.load(before.state())
            before = after
        one.on_epoch_end(epoch, {"val_loss": loss}, whole)
        before.on_epoch_end(epoch, {"val_loss": loss}, first)
        assert first.learning_rate("model") == whole.learning_rate("model")
    assert whole.learning_rate("model") < 0.5


def test_which_optimizers_and_what_is_missing() -> None:
    for optimizer, expected in ((None, [0.25, 0.25]), ("critic", [0.5, 0.25])):
        run = Rates("actor", "critic")
        callback = reducing(patience=1, factor=0.5, optimizer=optimizer, monitor="val_accuracy", mode="max")
        for accuracy in (0.5, 0.6, 0.55):
            callback.on_epoch_end(1, {"val_accuracy": accuracy}, run)
        assert [run.learning_rate(name) for name in ("actor", "critic")] == expected
    with pytest.raises(ValueError, match="monitor is 'val_loss', which is not reported; there are: loss"):
        reducing().on_epoch_end(1, {"loss": 1.0}, run)


def test_event_files_hold_scalars_and_histograms(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="out")])
    run = SimpleNamespace(models={"model": model}, artifact=lambda path: tmp_path / path)
    callback = build({"component": "tensorboard", "config": {"histograms": 2, "bins": 10}}, Kind.CALLBACK)
    callback.on_report(5, {"loss": 0.75}, run)
    callback.on_epoch_end(1, {"loss": 0.5}, run)
    callback.on_epoch_end(2, {"loss": 0.25, "val_loss": 0.5}, run)
    (file,) = (tmp_path / "tensorboard").iterdir()
    read = {}
    for record in tf.data.TFRecordDataset(str(file)):
        event = tf.compat.v1.Event.FromString(record.numpy())
        for value in event.summary.value:
            read[value.tag, event.step] = (value.metadata.plugin_data.plugin_name, tf.make_ndarray(value.tensor))
    scalars = {key: float(value) for key, (plugin, value) in read.items() if plugin == "scalars"}
    assert scalars == {
        ("report/loss", 5): 0.75, ("epoch/loss", 1): 0.5, ("epoch/loss", 2): 0.25, ("epoch/val_loss", 2): 0.5,
    }  # fmt: skip
    histograms = {key: value for key, (plugin, value) in read.items() if plugin == "histograms"}
    assert histograms.keys() == {(f"model/{variable.path}", 2) for variable in model.weights}
    kernel = histograms[f"model/{model.weights[0].path}", 2]
    counts, edges = np.histogram(model.weights[0].numpy().astype("float64"), bins=10)
    np.testing.assert_array_equal(kernel[:, 2], counts)
    np.testing.assert_allclose(kernel[:, 0], edges[:-1])
