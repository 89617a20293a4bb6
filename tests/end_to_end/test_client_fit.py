"""`client.fit` against `model.fit`: the same data, weights and order give the same curves and weights."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import polars as pl
import pytest

from tapeworks.errors import ComponentError
from tests.support.serving import Served

RANDOM = np.random.default_rng(7)
X = RANDOM.normal(size=(90, 4)).astype("float32")
Y = (X[:, 0] + X[:, 1] > 0).astype("int64") + (X[:, 2] > 1)


def classifier() -> keras.Model:
    keras.utils.set_random_seed(3)
    normalization = keras.layers.Normalization()
    normalization.adapt(X)
    layers = [keras.Input((4,)), normalization, keras.layers.Dense(8, "relu"), keras.layers.Dense(3, "softmax")]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def same(ours: Any, theirs: Any, mine: keras.Model, other: keras.Model) -> None:
    assert set(ours.history) == set(theirs.history)
    for name, values in theirs.history.items():
        np.testing.assert_allclose(ours.history[name], values, rtol=2e-5, atol=2e-6, err_msg=name)
    for a, b in zip(mine.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        {"class_weight": {0: 1.0, 1: 3.0}, "validation_split": 0.23, "batch_size": 16},
        {"sample_weight": np.linspace(0, 2, 90), "validation_data": (pl.DataFrame(X[:20]), pd.Series(Y[:20]))},
    ],
    ids=["class weights", "sample weights"],
)
def test_a_fit_by_the_service_is_what_fit_does(served: Served, arguments: dict[str, Any]) -> None:
    mine, other = classifier(), classifier()
    given = {"epochs": 3, "shuffle": False, "verbose": 0, **arguments}
    here = {key: (X[:20], Y[:20]) if key == "validation_data" else value for key, value in given.items()}
    theirs = other.fit(X, Y, **here)
    ours = served.client.fit(mine, pd.DataFrame(X), Y, **given)
    same(ours, theirs, mine, other)
    assert ours.epoch == theirs.epoch
    assert int(mine.optimizer.iterations) == int(other.optimizer.iterations)


def two_outputs() -> keras.Model:
    keras.utils.set_random_seed(4)
    left, right = keras.Input((2,), name="left"), keras.Input((2,), name="right")
    joined = keras.layers.Concatenate()([left, right])
    price = keras.layers.Dense(1, name="price")(joined)
    model = keras.Model([left, right], [price, keras.layers.Dense(3, "softmax", name="group")(joined)])
    loss = ["mse", keras.losses.SparseCategoricalCrossentropy(reduction="sum")]
    model.compile(keras.optimizers.SGD(0.001), loss, loss_weights=[0.3, 2.0], metrics=None, weighted_metrics=None)
    return model


@pytest.mark.slow
def test_lists_of_arrays_and_weights_of_losses(served: Served) -> None:
    mine, other = two_outputs(), two_outputs()
    data: tuple[Any, Any] = ([X[:, :2], X[:, 2:]], [X[:, :1] * 2, Y])
    theirs = other.fit(*data, epochs=2, shuffle=False, verbose=0)
    ours = served.client.fit(mine, *data, epochs=2, shuffle=False, verbose=0)
    same(ours, theirs, mine, other)


@pytest.mark.slow
def test_callbacks_leave_their_files_and_the_weights_of_the_best_epoch(served: Served, tmp_path: Path) -> None:
    mine, other = classifier(), classifier()

    def callbacks(folder: Path) -> list[keras.callbacks.Callback]:
        folder.mkdir()
        return [
            keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True),
            keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * (3.0 if epoch == 2 else 1.0)),
            keras.callbacks.ModelCheckpoint(str(folder / "best.keras"), monitor="val_loss", save_best_only=True),
        ]

    validation = (X[:30], (Y[:30] + 1) % 3)  # gets worse, the better the training is fitted
    given: dict[str, Any] = {"epochs": 6, "shuffle": False, "verbose": 0, "validation_data": validation}
    theirs = other.fit(X, Y, callbacks=callbacks(tmp_path / "fit"), **given)
    of_job = callbacks(tmp_path / "job")
    of_job.append(keras.callbacks.CSVLogger(str(tmp_path / "job" / "log.csv")))
    of_job.append(keras.callbacks.TensorBoard(str(tmp_path / "job" / "logs"), write_graph=False))
    ours = served.client.fit(mine, X, Y, callbacks=of_job, **given)
    theirs.history.pop("learning_rate", None)
    same(ours, theirs, mine, other)
    saved = [keras.models.load_model(tmp_path / where / "best.keras") for where in ("job", "fit")]
    for a, b in zip(*(model.get_weights() for model in saved), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)
    assert len((tmp_path / "job" / "log.csv").read_text().splitlines()) == len(ours.epoch) + 1
    assert any((tmp_path / "job" / "logs").iterdir())


def test_everything_without_a_counterpart_is_listed_and_nothing_is_sent(served: Served) -> None:
    class Own(keras.callbacks.Callback):
        """A callback of the script."""

    before = {one.id for one in served.client.datasets.list()}
    stop = keras.callbacks.EarlyStopping(baseline=0.3)
    with pytest.raises(ComponentError) as caught:
        served.client.fit(classifier(), X, Y, callbacks=[Own(), stop], validation_freq=2, initial_epoch=1)
    for part in ("4 parts", "the callback Own", "baseline", "validation_freq", "initial_epoch"):
        assert part in str(caught.value)
    assert {one.id for one in served.client.datasets.list()} == before
