"""`tapeworks.from_keras`: what a compiled model says, built again by the engine."""

from __future__ import annotations

import json
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tapeworks
from examples import from_keras
from examples.serving import EXAMPLES
from tapeworks.components.loading import load_installed
from tapeworks.errors import ComponentError
from tapeworks.spec.parsing import parse_spec
from tapeworks.spec.references import Kind
from tapeworks_workers.engine.factory.factory import build
from tapeworks_workers.engine.step.assembly import assemble

load_installed()
DATA = {"source": "digits", "pipeline": [{"op": "batch", "batch_size": 32}]}


def classifier() -> keras.Model:
    layers = [
        keras.Input((64,)),
        keras.layers.Dense(16, "relu", kernel_regularizer="l2"),
        keras.layers.Dropout(0.2),
        keras.layers.Dense(10),
    ]
    return keras.Sequential(layers)


def two_outputs() -> keras.Model:
    a, b = keras.Input((4,), name="a"), keras.Input((2,), name="b")
    joined = keras.layers.Concatenate()([a, b])
    price = keras.layers.Dense(1, name="price")(joined)
    return keras.Model({"a": a, "b": b}, {"price": price, "group": keras.layers.Dense(3, name="group")(joined)})


def test_the_model_comes_back_as_it_was() -> None:
    model = classifier()
    model.compile("adam", "mse")
    spec = tapeworks.from_keras(model, data=DATA, epochs=3, name="moved over", training={"seed": 7})
    again = build(spec.models["model"], Kind.MODEL)
    assert [layer.get_config() for layer in again.layers] == [layer.get_config() for layer in model.layers]
    again.set_weights(model.get_weights())
    x = np.random.default_rng(0).random((5, 64), np.float32)
    np.testing.assert_array_equal(again(x, training=False), model(x, training=False))
    assert (spec.name, spec.training.epochs, spec.training.seed) == ("moved over", 3, 7)


def test_the_example_is_what_from_keras_writes() -> None:
    written = json.loads((EXAMPLES / "standard" / "functional.json").read_text())
    assert from_keras.document() == written
    assert parse_spec(written).document() == from_keras.spec().document()


def test_a_model_of_layers_can_be_assembled() -> None:
    model = classifier()
    model.compile("adam", "sparse_categorical_crossentropy")
    element = (tf.TensorSpec([None, 64], tf.float32), tf.TensorSpec([None], tf.int64))
    assembly = assemble(tapeworks.from_keras(model, data=DATA), element)
    assert assembly.models["model"](np.zeros((2, 64), np.float32)).shape == (2, 10)


def test_keras_own_accumulation_stays_the_optimizers() -> None:
    """The job's own counts updates in schedules and moving averages, where Keras counts batches."""
    model = classifier()
    model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=4), "sparse_categorical_crossentropy")
    spec = tapeworks.from_keras(model, data=DATA)
    assert spec.training.gradient_accumulation == 1
    assert spec.optimizers["model"].config["gradient_accumulation_steps"] == 4


def test_the_optimizer_comes_back_with_its_schedule() -> None:
    schedule = keras.optimizers.schedules.CosineDecay(0.01, 100, warmup_target=0.02, warmup_steps=10)
    model = classifier()
    model.compile(keras.optimizers.AdamW(schedule, clipnorm=1.0, beta_1=0.8), "mse")
    spec = tapeworks.from_keras(model, data=DATA)
    again = build(spec.optimizers["model"], Kind.OPTIMIZER)
    assert again.get_config() == model.optimizer.get_config()


@pytest.mark.parametrize(
    ("loss", "component", "config"),
    [
        ("mse", "keras/MeanSquaredError", {}),
        ("sparse_categorical_crossentropy", "keras/SparseCategoricalCrossentropy", {}),
        ("kld", "keras/KLDivergence", {}),
        (keras.losses.Huber(delta=0.5), "keras/Huber", {"delta": 0.5, "name": "huber_loss"}),
        (keras.losses.mean_absolute_error, "keras/MeanAbsoluteError", {}),
    ],
)
def test_losses_by_name_class_and_function(loss: Any, component: str, config: dict[str, Any]) -> None:
    model = classifier()
    model.compile("sgd", loss)
    [found] = tapeworks.from_keras(model, data=DATA).losses.values()
    assert (found.component, found.config) == (component, config)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("loss", "width", "component"),
    [
        ("sparse_categorical_crossentropy", 10, "keras/SparseCategoricalAccuracy"),
        ("categorical_crossentropy", 10, "keras/CategoricalAccuracy"),
        ("binary_crossentropy", 1, "keras/BinaryAccuracy"),
    ],
)
def test_accuracy_means_what_the_loss_says(loss: str, width: int, component: str) -> None:
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(width)])
    model.compile("sgd", loss, metrics=["accuracy"], weighted_metrics=["mae"])
    accuracy, error = tapeworks.from_keras(model, data=DATA).document()["metrics"]["model"]
    assert (accuracy["component"], accuracy["config"]) == (component, {"name": "accuracy"})
    assert (error["component"], error["weighted"]) == ("keras/MeanAbsoluteError", True)


def test_each_output_keeps_its_loss_weight_and_metrics() -> None:
    model = two_outputs()
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        "adam",
        {"price": "mse", "group": cross_entropy},
        loss_weights={"price": 0.3, "group": 1.0},
        metrics={"price": ["mae"], "group": ["acc", keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2")]},
    )
    spec = tapeworks.from_keras(model, data=DATA).document()
    losses, metrics = spec["losses"]["model"]["outputs"], spec["metrics"]["model"]["outputs"]
    assert (losses["price"]["weight"], losses["group"]["weight"]) == (0.3, 1.0)
    assert losses["group"]["config"]["from_logits"] is True
    assert [item["component"] for item in metrics["group"]] == [
        "keras/SparseCategoricalAccuracy",
        "keras/SparseTopKCategoricalAccuracy",
    ]
    assert metrics["group"][1]["config"] == {"k": 2, "name": "top2"}


def test_what_cannot_be_named_is_refused_with_the_remedy() -> None:
    model = classifier()
    with pytest.raises(ComponentError, match="not compiled"):
        tapeworks.from_keras(model, data=DATA)

    def own_loss(y: Any, p: Any) -> Any:
        return keras.ops.mean(p)

    model.compile("adam", own_loss)
    with pytest.raises(ComponentError, match="put @tapeworks"):
        tapeworks.from_keras(model, data=DATA)

    class Own(keras.Model):
        def call(self, x: Any) -> Any:
            return x

    own = Own()
    own.compile("adam", "mse")
    with pytest.raises(ComponentError, match="functional API"):
        tapeworks.from_keras(own, data=DATA)


def test_accuracy_follows_its_output_through_a_list_of_losses() -> None:
    a = keras.Input((4,))
    model = keras.Model(a, [keras.layers.Dense(1, name="p")(a), keras.layers.Dense(3, name="q")(a)])
    model.compile("adam", ["mse", "sparse_categorical_crossentropy"], metrics=[["mae"], ["accuracy"]])
    metrics = tapeworks.from_keras(model, data=DATA).document()["metrics"]["model"]["outputs"]
    assert [item["component"] for item in metrics["p"]] == ["keras/MeanAbsoluteError"]
    assert [item["component"] for item in metrics["q"]] == ["keras/SparseCategoricalAccuracy"]


@pytest.mark.parametrize("structure", ["list", "dict"])
def test_all_metrics_are_for_the_one_output(structure: str) -> None:
    """As in `compile`, also where the one output is in a list or a dict."""
    x = keras.Input((4,))
    y = keras.layers.Dense(1, name="price")(x)
    model = keras.Model(x, [y] if structure == "list" else {"price": y})
    model.compile("adam", "mse", metrics=["mae", keras.metrics.RootMeanSquaredError()], weighted_metrics=["mse"])
    spec = tapeworks.from_keras(model, data=DATA)
    found = spec.document()["metrics"]["model"]
    names = ["keras/MeanAbsoluteError", "keras/RootMeanSquaredError", "keras/MeanSquaredError"]
    assert [metric["component"] for metric in found] == names
    assert [metric["weighted"] for metric in found] == [False, False, True]
