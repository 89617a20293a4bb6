"""Losses, their weights and metrics in every structure that `compile` takes: `from_keras` trains what `fit` does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tapeworks
from tapeworks.components.loading import load_installed
from tapeworks.errors import ComponentError
from tapeworks_workers.engine.step.assembly import assemble
from tapeworks_workers.engine.step.compiled_step import compile_train_step
from tests.support.tiers import some

load_installed()
pytestmark = pytest.mark.filterwarnings("ignore:Gradients do not exist")  # of outputs without a loss, in fit
DATA = {"source": "iris", "pipeline": [{"op": "batch", "batch_size": 16}]}
X = np.random.default_rng(3).standard_normal((64, 4)).astype(np.float32)
Y = X @ np.array([[1.0], [-2.0], [0.5], [3.0]], np.float32)
HUBER = keras.losses.Huber


def dense(name: str, width: int = 1, seed: int = 1) -> keras.layers.Layer:
    return keras.layers.Dense(width, kernel_initializer=keras.initializers.GlorotUniform(seed), name=name)


FORMS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "list": lambda a, b, c: [a, b],
    "tuple": lambda a, b, c: (a, b),
    "dict": lambda a, b, c: {"q": a, "p": b},
    "nest": lambda a, b, c: {"h": [a, b], "g": c},
    "single": lambda a, b, c: a,
    "one": lambda a, b, c: [a],
}


def model(form: str) -> keras.Model:
    x = keras.Input((4,), name="x")
    return keras.Model(x, FORMS[form](*(dense(name, seed=seed)(x) for seed, name in enumerate("abc", 1))))


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "a list": ("list", {"loss": ["mse", "mae"]}),
    "a list, weights, metrics": (
        "list",
        {"loss": ["mse", "mae"], "loss_weights": [1.0, 0.5], "metrics": [["mae"], ["mse", "mae"]]},
    ),
    "one loss": ("list", {"loss": "mse"}),
    "one loss, a weight": ("list", {"loss": "mse", "loss_weights": 0.5}),
    "a weight in a list": ("list", {"loss": "mse", "loss_weights": [0.5]}),
    "a loss for one": ("list", {"loss": [None, "mae"], "loss_weights": [0.1, 0.5]}),
    "a shorter list": ("list", {"loss": ["mse"]}),
    "several for one": ("list", {"loss": [["mse", HUBER(delta=0.3)], "mae"]}),
    "a dict for a list": (
        "list",
        {"loss": {"b": "mae", "a": "mse"}, "loss_weights": {"a": 2.0, "b": 0.5}, "metrics": {"b": "mse"}},
    ),
    "a tuple": ("tuple", {"loss": ("mse", HUBER(delta=0.2)), "loss_weights": (0.3, 2.0)}),
    "a list for a tuple": ("tuple", {"loss": ["mse", "mae"], "metrics": ["mae", "mse"]}),
    "a dict": ("dict", {"loss": {"p": "mae", "q": "mse"}, "loss_weights": {"q": 0.2, "p": 1.0}}),
    "a dict for one output": ("dict", {"loss": {"p": "mae"}, "metrics": {"p": ["mae"], "q": ["mae"]}}),
    "a list for a dict": ("dict", {"loss": ["mse", "mae"], "loss_weights": [0.2, 1.0], "metrics": ["mae", "mse"]}),
    "a nest": (
        "nest",
        {
            "loss": {"h": ["mse", "mae"], "g": HUBER(reduction="sum")},
            "loss_weights": {"h": [1.0, 0.5], "g": 0.01},
            "metrics": {"h": [["mae"], ["mse"]], "g": ["mae"]},
        },
    ),
    "a list for a nest": ("nest", {"loss": ["mse", "mae", "mse"], "loss_weights": [0.1, 0.2, 0.3]}),
    "one loss for a nest": ("nest", {"loss": "mse", "weighted_metrics": {"h": [["mae"], None], "g": None}}),
    "one output": ("single", {"loss": "mse", "metrics": ["mae"], "weighted_metrics": ["mae", "mse"]}),
    "one output, a weight": ("single", {"loss": "mse", "loss_weights": 0.25}),
    "one output, a list": ("single", {"loss": ["mse"], "loss_weights": [0.25], "metrics": [["mae", "mse"]]}),
    "one output, a dict": ("single", {"loss": {"a": "mse"}, "loss_weights": {"a": 0.25}, "metrics": {"a": "mae"}}),
    "one output in a list": ("one", {"loss": ["mse"], "metrics": ["mae", "mse"]}),
    "a class": (
        "list",
        {"loss": [keras.losses.MeanSquaredError, "MAE"], "metrics": [keras.metrics.MeanSquaredError, []]},
    ),
    "a function": (
        "list",
        {
            "loss": [keras.losses.mean_squared_error, keras.losses.huber],
            "metrics": [keras.metrics.mean_absolute_error, None],
        },
    ),
    "a sum": ("list", {"loss": keras.losses.MeanSquaredError(reduction="sum"), "loss_weights": 0.01}),
}
OFTEN = {"a list, weights, metrics", "one loss, a weight", "a dict for a list", "a nest", "several for one", "a sum"}


@pytest.mark.slow
@pytest.mark.parametrize("name", some(CASES, OFTEN.__contains__))
def test_the_job_trains_and_measures_what_fit_does(name: str) -> None:
    form, arguments = CASES[name]
    plain = model(form)
    plain.compile(keras.optimizers.SGD(0.01), **arguments)
    spec = tapeworks.from_keras(plain, data=DATA)
    y = FORMS[form](Y, 10 * Y, -Y)
    assembly = assemble(spec, keras.tree.map_structure(lambda t: tf.TensorSpec([None, t.shape[1]], t.dtype), (X, y)))
    step = compile_train_step(assembly)
    losses = []
    for at in range(0, 64, 16):
        scalars = step(keras.tree.map_structure(lambda t, at=at: tf.constant(t[at : at + 16]), (X, y)))
        losses.append(float(scalars["loss"]))
    history = plain.fit(X, y, batch_size=16, shuffle=False, verbose=0).history
    for ours, theirs in zip(assembly.models["model"].get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert np.mean(losses) == pytest.approx(history["loss"][-1], rel=1e-5)
    found = {metric.name: float(metric.metric.result()) for metric in assembly.all_metrics()}
    expected = {key: values[-1] for key, values in history.items() if key in found or not key.endswith("loss")}
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("form", "arguments", "match"),
    [
        ("list", {"loss": "mse", "loss_weights": [1.0, 0.5]}, "1 losses and 2 weights"),
        ("dict", {"loss": {"p": "mse", "q": "mae"}, "loss_weights": {"p": 0.3}}, "2 losses and 1 weights"),
        ("single", {"loss": ["mse", "mae"]}, "only the first"),
        ("list", {"loss": {"a": "mse"}}, r"\['a'\], the model's outputs are \['a', 'b'\]"),
        ("list", {"loss": ["mse", "mae", "mse"]}, "'2'"),
        ("dict", {"loss": {"r": "mse"}}, "'r'"),
        ("nest", {"loss": {"h": "mse", "g": "mse"}}, "'h'"),
        ("list", {"loss": "mse", "metrics": ["mae"]}, "an entry for each output"),
        ("list", {"loss": "mse", "metrics": {"c": ["mae"]}}, "match the outputs"),
        ("list", {"loss": ["mse", "ce"]}, "shape of the labels"),
        ("single", {"loss": "no_such_loss"}, "'no_such_loss' is not a loss"),
    ],
)
def test_what_fit_refuses_or_drops_is_refused(form: str, arguments: dict[str, Any], match: str) -> None:
    plain = model(form)
    plain.compile("sgd", **arguments)
    with pytest.raises(ComponentError, match=match):
        tapeworks.from_keras(plain, data=DATA)


ACCURACIES = {
    "sparse labels": (3, "mse", lambda: np.random.default_rng(1).integers(0, 3, 64)),
    "sparse labels in a column": (3, "mae", lambda: np.random.default_rng(1).integers(0, 3, (64, 1))),
    "one-hot labels": (3, "mse", lambda: np.eye(3)[np.random.default_rng(1).integers(0, 3, 64)]),
    "several labels": (3, "binary_crossentropy", lambda: np.random.default_rng(1).integers(0, 2, (64, 3))),
    "one label": (1, "mse", lambda: np.random.default_rng(1).integers(0, 2, (64, 1))),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sparse labels in a column", "one-hot labels", "several labels", "one label"])
def test_accuracy_is_chosen_as_compile_does(name: str) -> None:
    width, loss, labels = ACCURACIES[name]
    y = labels().astype(np.float32)
    x = keras.Input((4,), name="x")
    plain = keras.Model(x, dense("y", width)(x))
    plain.compile(keras.optimizers.SGD(0.0), loss, metrics=["accuracy"])
    spec = tapeworks.from_keras(plain, data=DATA)
    assembly = assemble(spec, (tf.TensorSpec([None, 4], tf.float32), tf.TensorSpec([None, *y.shape[1:]], tf.float32)))
    compile_train_step(assembly)((tf.constant(X), tf.constant(y)))
    (metric,) = assembly.all_metrics()
    expected = plain.fit(X, y, batch_size=64, shuffle=False, verbose=0).history["accuracy"][-1]
    assert (metric.name, float(metric.metric.result())) == ("accuracy", pytest.approx(expected))
