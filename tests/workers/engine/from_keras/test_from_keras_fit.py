"""What `fit` takes beside the model: callbacks, class weights, splits and data, as parts of a spec."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

import tapeworks
from tapeworks.components.loading import load_installed
from tapeworks.errors import ComponentError, SpecInvalid
from tapeworks.keras.fit_data import fit_arrays, split_tail, with_class_weight
from tapeworks.keras.unsupported import Unsupported
from tapeworks.keras.weights import assign, initial_bundle

load_installed()
DATA = {"source": "digits", "pipeline": [{"op": "batch", "batch_size": 32}]}
X, Y = np.arange(20.0).reshape(10, 2), np.arange(10) % 3


def model(*layers: keras.Layer, rate: Any = 0.5) -> keras.Model:
    made = keras.Sequential([keras.Input((64,)), *layers, keras.layers.Dense(10)])
    made.compile(keras.optimizers.SGD(rate), "sparse_categorical_crossentropy")
    return made


def arrays(x: Any, y: Any = None, weight: Any = None) -> Any:
    problems = Unsupported()
    found = fit_arrays(x, y, weight, inputs=("a", "b"), outputs=("c", "d"), problems=problems)
    problems.check()
    return found


def test_callbacks_become_parts_of_the_spec() -> None:
    callbacks = [
        keras.callbacks.EarlyStopping("val_loss", min_delta=0.1, patience=4, mode="min", restore_best_weights=False),
        keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=2, min_lr=0.01),
        keras.callbacks.ModelCheckpoint("best.keras", monitor="val_loss", save_best_only=True),
        {"component": "tensorboard", "config": {"histograms": 0}},
    ]
    weights = {0: 1.0, 2: 3.0}
    spec = tapeworks.from_keras(model(), data=DATA, callbacks=callbacks, class_weight=weights, validation_split=0.2)
    stopping = spec.training.early_stopping
    assert stopping is not None
    assert (stopping.monitor, stopping.min_delta, stopping.patience, stopping.restore_best) == (
        "val_loss",
        0.1,
        4,
        False,
    )
    assert [one.component for one in spec.callbacks] == ["reduce_learning_rate", "tensorboard"]
    assert spec.callbacks[0].config["factor"] == 0.5
    assert spec.training.checkpoint is not None
    assert spec.training.checkpoint.best is not None
    document = spec.document()["data"]
    assert document["validation"] | {"fraction": 0.2, "split": "tail"} == document["validation"]
    assert document["pipeline"][0]["function"]["config"] == {"weights": [1.0, 1.0, 3.0]}


def test_a_scheduler_becomes_its_values_at_the_first_step_of_each_epoch() -> None:
    halved = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2 if epoch == 2 else rate)
    training = {"steps_per_epoch": 5}
    spec = tapeworks.from_keras(model(), data=DATA, epochs=4, callbacks=[halved], training=training)
    rate = spec.optimizers["model"].config["learning_rate"]
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(**rate["config"])
    assert [float(schedule(step)) for step in (0, 5, 9, 10, 19)] == [0.5, 0.5, 0.5, 0.25, 0.25]


def test_one_error_lists_every_part_without_a_counterpart() -> None:
    class Own(keras.callbacks.Callback):
        """A callback of a script."""

    class Scaled(keras.layers.Layer):
        """A layer of a script."""

    parts = [Scaled(), keras.layers.Lambda(lambda x: x, name="twice")]
    callbacks = [Own(), keras.callbacks.EarlyStopping(start_from_epoch=3), keras.callbacks.TerminateOnNaN()]
    with pytest.raises(ComponentError) as caught:
        tapeworks.from_keras(model(*parts), data=DATA, callbacks=callbacks)
    for part in ("5 parts", "Scaled", "'twice' is a Lambda", "Own", "start_from_epoch", "TerminateOnNaN"):
        assert part in str(caught.value)


def test_arguments_that_are_none_and_a_wrong_field() -> None:
    spec = tapeworks.from_keras(model(), data=DATA, callbacks=None, class_weight=None, training=None, name=None)
    assert spec.name is None
    with pytest.raises(SpecInvalid, match="priority"):
        tapeworks.from_keras(model(), data=DATA, priority="high")


def test_data_of_a_fit_as_named_arrays() -> None:
    assert arrays(pd.DataFrame(X), pd.Series(Y)).config == {"features": "x", "labels": "y"}
    assert arrays([X, X], {"c": Y}).config == {"features": ["a", "b"], "labels": ["c"]}
    assert arrays(X.tolist(), Y.tolist()).arrays["x"].shape == (10, 2)
    assert arrays(pd.Series(["p", "q"])).arrays["x"].dtype.kind == "U"
    assert arrays(X, Y).content() == arrays(X.copy(), Y.copy()).content()
    first, last = split_tail(arrays(X, Y), 0.25)
    assert (first.size, last.size) == (7, 3)


def test_equal_weights_are_one_upload_and_come_back() -> None:
    one, other = model(keras.layers.BatchNormalization()), model(keras.layers.BatchNormalization())
    assert initial_bundle(one) == initial_bundle(one)
    assert initial_bundle(one) != initial_bundle(other)
    assign(one, other)
    assert all(np.array_equal(a, b) for a, b in zip(one.get_weights(), other.get_weights(), strict=True))


def test_an_adapted_vectorization_keeps_its_vocabulary() -> None:
    layer = keras.layers.TextVectorization(max_tokens=20, output_sequence_length=3)
    layer.adapt(["a red fox", "a blue bird"])
    inputs = keras.Input((), dtype="string")
    made = keras.Model(
        inputs, keras.layers.Dense(1)(keras.layers.Flatten()(keras.layers.Embedding(20, 2)(layer(inputs))))
    )
    made.compile("sgd", "mse")
    document = tapeworks.from_keras(made, data=DATA).models["model"].config["config"]
    (found,) = (one for one in document["config"]["layers"] if one["class_name"] == "TextVectorization")
    assert found["config"]["vocabulary"] == layer.get_vocabulary(include_special_tokens=False)


def test_class_weights_are_those_of_keras() -> None:
    problems = Unsupported()
    expected = keras.src.trainers.data_adapters.data_adapter_utils.class_weight_to_sample_weights(Y, {1: 4.0})
    for labels in (Y, Y[:, None], keras.utils.to_categorical(Y)):
        found = with_class_weight(arrays(X, labels), {1: 4.0}, problems)
        np.testing.assert_array_equal(found.arrays["sample_weight"], expected)
    problems.check()


def test_a_dataset_that_is_the_same_in_each_pass_is_read_once() -> None:
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).map(lambda x, y: (x * 2, y)).batch(4).prefetch(1)
    found = arrays(dataset)
    np.testing.assert_array_equal(found.arrays["x"], X * 2)
    assert (found.batch_size, found.shuffled) == (4, False)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (lambda one: one.map(lambda x: x + tf.random.uniform([], dtype=x.dtype)).batch(2), "random operations"),
        (lambda one: one.repeat().batch(2), "Repeat"),
        (lambda one: one, "without a batch"),
    ],
)
def test_a_dataset_that_cannot_be_rebuilt_says_why(dataset: Any, message: str) -> None:
    with pytest.raises(ComponentError, match=message):
        arrays(dataset(tf.data.Dataset.from_tensor_slices(X)))


@pytest.mark.parametrize(
    ("x", "y", "weight", "message"),
    [
        (X, Y[:4], None, "differ in their number"),
        ({"c": X}, {"c": Y}, None, "given twice"),
        (X, [Y, Y], [Y, Y], "one array for all outputs"),
        (pd.DataFrame({"a": ["x"], "b": [1.0]}), None, None, "its own name in a dict"),
        ((row for row in X), None, None, "runs in this process only"),
        (np.array(["2020-01-01"], "datetime64[D]"), None, None, "convert it to numbers"),
    ],
)
def test_data_that_no_job_can_read_is_refused_with_the_remedy(x: Any, y: Any, weight: Any, message: str) -> None:
    with pytest.raises(ComponentError, match=message):
        arrays(x, y, weight)
