"""What else `compile`, the process and the layers were given: it survives, becomes the job's own, or is refused."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tapeworks
from tapeworks.components.loading import load_installed
from tapeworks.components.registry import component
from tapeworks.errors import ComponentError
from tapeworks.spec.references import Kind
from tapeworks_workers.engine.factory.factory import build

load_installed()
DATA = {"source": "digits", "pipeline": [{"op": "batch", "batch_size": 32}]}


@pytest.fixture(autouse=True)
def policies() -> Iterator[None]:
    yield
    keras.config.set_dtype_policy("float32")
    keras.config.set_floatx("float32")


def model(*layers: Any) -> keras.Model:
    return keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(2, name="last")])


def spec_of(compiled: keras.Model, optimizer: Any = "sgd", loss: Any = "mse", **arguments: Any) -> dict[str, Any]:
    compiled.compile(optimizer, loss, **arguments)
    return json.loads(json.dumps(tapeworks.from_keras(compiled, data=DATA).document()))


def again(spec: dict[str, Any]) -> keras.Model:
    made: keras.Model = build(spec["models"]["model"], Kind.MODEL)
    return made


def test_none_reaches_the_class_where_another_value_is_the_default() -> None:
    assert (
        spec_of(model(), keras.optimizers.AdamW(weight_decay=0.1))["optimizers"]["model"]["config"]["weight_decay"]
        == 0.1
    )
    optimizer = spec_of(model(), keras.optimizers.Lion(weight_decay=None))["optimizers"]["model"]
    assert optimizer["config"].get("weight_decay") is None
    metric = keras.metrics.IoU(3, [0], sparse_y_true=False, axis=-1)
    assert spec_of(model(), metrics=[metric])["metrics"]["model"][0]["config"]["sparse_y_true"] is False
    r2 = keras.metrics.R2Score(class_aggregation=None)
    (found,) = spec_of(model(), metrics=[r2])["metrics"]["model"]
    assert found["config"]["class_aggregation"] is None
    assert build({"component": found["component"], "config": found["config"]}, Kind.METRIC).class_aggregation is None
    layer = build({"component": "keras/LSTM", "config": {"units": 2, "activation": None}}, Kind.LAYER)
    assert layer.activation is keras.activations.linear
    loss = spec_of(model(), loss=keras.losses.MeanSquaredError(reduction=None))["losses"]["model"]
    assert loss["config"]["reduction"] is None


def test_reduction_and_dtype_of_a_loss_and_metric_survive() -> None:
    loss = keras.losses.MeanSquaredError(reduction="sum", dtype="float64")
    metrics = [keras.metrics.MeanAbsoluteError(dtype="float64")]
    spec = spec_of(model(), loss=loss, metrics=metrics)
    assert spec["losses"]["model"]["config"] == {"name": "mean_squared_error", "reduction": "sum", "dtype": "float64"}
    assert spec["metrics"]["model"][0]["config"]["dtype"] == "float64"


def test_every_precision_becomes_the_jobs() -> None:
    for policy in ("mixed_bfloat16", "mixed_float16"):
        keras.config.set_dtype_policy(policy)
        spec = spec_of(model(keras.layers.Dense(3, dtype="float32", name="kept")), "adam")
        assert (spec["training"]["precision"], spec["optimizers"]["model"]["component"]) == (policy, "keras/Adam")
        built = again(spec)
        assert (built.get_layer("last").compute_dtype, built.get_layer("kept").compute_dtype) == (policy[6:], "float32")
    keras.config.set_dtype_policy("float32")
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    spec = spec_of(model(), loss=keras.losses.MeanSquaredError(), metrics=["mae"])
    assert spec["training"]["precision"] == "float64"
    assert "dtype" not in spec["losses"]["model"]["config"]


def test_loss_scaling_is_the_jobs_own() -> None:
    keras.config.set_dtype_policy("mixed_float16")
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.25))
    optimizer = spec_of(model(), scaled)["optimizers"]["model"]
    assert (optimizer["component"], optimizer["config"]["learning_rate"]) == ("keras/Adam", 0.25)
    with pytest.raises(ComponentError, match="initial_scale"):
        spec_of(model(), keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(), initial_scale=8.0))
    with pytest.raises(ComponentError, match="auto_scale_loss"):
        spec_of(model(), "adam", auto_scale_loss=False)
    keras.config.set_dtype_policy("float32")
    with pytest.raises(ComponentError, match="compile with its inner optimizer"):
        spec_of(model(), keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()))
    with pytest.raises(ComponentError, match="loss_scale_factor"):
        spec_of(model(), keras.optimizers.Adam(loss_scale_factor=4.0))


def test_a_precision_that_the_layers_do_not_have_is_refused() -> None:
    compiled = model()
    compiled.compile("adam", "mse")
    with pytest.raises(ComponentError, match=r"set_dtype_policy\('mixed_float16'\)"):
        tapeworks.from_keras(compiled, data=DATA, training={"precision": "mixed_float16"})
    keras.config.set_dtype_policy("float16")
    with pytest.raises(ComponentError, match="'float16'"):
        spec_of(model())


def test_how_steps_are_run_survives() -> None:
    assert spec_of(model(), run_eagerly=True)["training"]["execution"]["plan"] == "eager"
    execution = spec_of(model(), steps_per_execution=8, jit_compile=True)["training"]["execution"]
    assert execution == {"plan": "auto", "steps_per_call": 8}


def test_what_clips_and_averages_survives() -> None:
    for argument in ("clipnorm", "clipvalue", "global_clipnorm"):
        config = spec_of(model(), keras.optimizers.SGD(0.1, **{argument: 0.5}))["optimizers"]["model"]["config"]
        assert config[argument] == 0.5
    averaged = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=3)
    config = spec_of(model(), averaged)["optimizers"]["model"]["config"]
    assert (config["use_ema"], config["ema_momentum"], config["ema_overwrite_frequency"]) == (True, 0.5, 3)


def test_state_of_an_optimizer_that_no_config_holds_is_refused() -> None:
    optimizer = keras.optimizers.AdamW()
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    with pytest.raises(ComponentError, match="exclude_from_weight_decay"):
        spec_of(model(), optimizer)


def test_a_trained_model_is_told_that_weights_stay_behind() -> None:
    compiled = model()
    compiled.compile("sgd", "mse")
    compiled.fit(np.zeros((8, 4)), np.zeros((8, 2)), batch_size=4, verbose=0)
    with pytest.warns(UserWarning, match="trained for 2 steps"):
        tapeworks.from_keras(compiled, data=DATA)


# ── models ───────────────────────────────────────────────────────────────────────────────────────


def test_what_a_subclass_or_an_instance_overrides_is_not_dropped() -> None:
    class Doubled(keras.Sequential):
        def call(self, x: Any, training: bool = False) -> Any:
            return 2 * super().call(x, training=training)

    with pytest.raises(ComponentError, match=r"Doubled is a subclass of keras\.Sequential"):
        spec_of(Doubled([keras.Input((4,)), keras.layers.Dense(2)]))
    x = keras.Input((4,))

    class Functional(keras.Model):
        def train_step(self, data: Any) -> Any:
            return super().train_step(data)

    with pytest.raises(ComponentError, match=r"Functional is a subclass of keras\.Model"):
        spec_of(Functional(x, keras.layers.Dense(2)(x)))
    compiled = model()
    compiled.compute_loss = types.MethodType(lambda self, **kwargs: 0.0, compiled)
    with pytest.raises(ComponentError, match="compute_loss was assigned to the model instance"):
        spec_of(compiled)

    @keras.saving.register_keras_serializable("compiled")
    class Own(keras.Model):
        def compile(self, optimizer: Any, loss: Any, alpha: float = 1.0) -> None:
            super().compile(optimizer=optimizer, loss=loss)

        def call(self, x: Any) -> Any:
            return x

    with pytest.raises(ComponentError, match="overrides compile"):
        spec_of(Own(), alpha=2.0)


def test_code_in_a_config_is_refused_with_its_layer() -> None:
    with pytest.raises(ComponentError, match="the layer 'twice' is a Lambda"):
        spec_of(model(keras.layers.Lambda(lambda x: 2 * x, name="twice")))

    def own(x: Any) -> Any:
        return x

    with pytest.raises(ComponentError, match="the layer 'mine' holds the plain function 'own'"):
        spec_of(model(keras.layers.Dense(2, activation=own, name="mine")))

    class Plain(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x

    with pytest.raises(ComponentError, match="the layer 'plain' is or holds a Plain"):
        spec_of(model(Plain(name="plain")))


def test_arguments_that_keras_leaves_out_of_a_config_survive() -> None:
    x = keras.Input((6, 4))
    rnn = keras.layers.LSTM(2, use_cudnn=False, name="plain")
    inner = keras.Sequential([keras.Input((6, 4)), keras.layers.SimpleRNN(3, dropout=0.5, seed=7, name="seeded")])
    inner.compile("adam", "mse")  # not the one that is trained
    built = again(spec_of(keras.Model(x, keras.layers.Concatenate()([rnn(x), inner(x)]))))
    assert built.get_layer("plain").use_cudnn is False
    assert built.get_layer(inner.name).get_layer("seeded").cell.seed == 7


def test_what_layers_learned_by_adapt_survives() -> None:
    values = np.random.default_rng(2).normal(3, 2, (50, 4)).astype(np.float32)
    scaled = keras.layers.Normalization(name="scaled")
    scaled.adapt(values)
    bins = keras.layers.Discretization(num_bins=4, name="bins")
    bins.adapt(values)
    x, words = keras.Input((4,)), keras.Input((1,), dtype="string")
    lookup = keras.layers.StringLookup(output_mode="one_hot", name="lookup")
    lookup.adapt(np.array([["a"], ["b"], ["b"]]))
    compiled = keras.Model([x, words], [scaled(x), bins(x), lookup(words)])
    built = again(spec_of(compiled, loss=["mse", None, None]))
    inputs = [values[:5], np.array([["b"], ["a"], ["c"], ["b"], ["b"]])]
    inputs = [tf.constant(one) for one in inputs]
    for expected, found in zip(compiled(inputs), built(inputs), strict=True):
        np.testing.assert_allclose(expected, found, atol=1e-6)


# ── components ───────────────────────────────────────────────────────────────────────────────────


@component("compiled/Mixed", example={"inputs": tf.TensorSpec([None, 4], tf.float32)})
class Mixed(keras.Model):
    """Arguments of every form, some of them objects."""

    def __init__(
        self,
        heads: dict[str, int],
        sizes: tuple[int, int] = (2, 3),
        regularizer: keras.regularizers.Regularizer | None = None,
        blocks: list[keras.layers.Layer] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.blocks = blocks or []
        self.heads = {name: keras.layers.Dense(size, kernel_regularizer=regularizer) for name, size in heads.items()}
        self.sizes = sizes

    def call(self, x: Any) -> Any:
        for block in self.blocks:
            x = block(x)
        return {name: head(x) for name, head in self.heads.items()}


@component("compiled/scaled_error", kind="loss")
def scaled_error(y_true: Any, y_pred: Any, *, scale: float = 1.0) -> Any:
    """A loss that is a function."""
    return scale * keras.ops.mean((y_true - y_pred) ** 2, axis=-1)


@component("compiled/far", kind="metric")
def far(y_true: Any, y_pred: Any) -> Any:
    """A metric that is a function."""
    return keras.ops.mean(keras.ops.abs(y_true - y_pred) > 1, axis=-1)


def test_a_component_keeps_its_arguments_and_their_order() -> None:
    blocks = [keras.layers.Dense(4, kernel_initializer=keras.initializers.RandomNormal(0.1, 0.2, seed=3))]
    made = Mixed({"z": 1, "a": 2}, (5, 6), keras.regularizers.L1L2(0.1, 0.2), blocks, name="own")
    spec = spec_of(made, loss={"a": scaled_error, "z": "mse"}, metrics={"a": [far]})
    built = again(spec)
    assert (list(built.heads), built.sizes, built.name) == (["z", "a"], (5, 6), "own")
    assert built.heads["z"].kernel_regularizer.get_config() == {"l1": pytest.approx(0.1), "l2": pytest.approx(0.2)}
    assert built.blocks[0].kernel_initializer.get_config() == {"mean": 0.1, "stddev": 0.2, "seed": 3}
    assert spec["losses"]["model"]["outputs"]["a"]["component"] == "compiled/scaled_error"
    (metric,) = spec["metrics"]["model"]["outputs"]["a"]
    assert (metric["component"], metric["config"]) == ("compiled/far", {})


def test_a_frozen_lookup_is_taken_as_it_comes_back() -> None:
    """Keras' own `from_config` of a lookup forgets `trainable`, which means nothing where there are no weights."""
    words = keras.Input((), dtype="string")
    lookup = keras.layers.StringLookup(vocabulary=["a", "b"], output_mode="one_hot")
    frozen = keras.Model(words, keras.layers.Dense(2)(lookup(words)))
    frozen.trainable = False
    whole = keras.Model(frozen.inputs, keras.layers.Dense(1)(frozen.outputs[0]))
    whole.compile("sgd", "mse")
    config = tapeworks.from_keras(whole, data=DATA).document()["models"]["model"]["config"]["config"]["config"]
    trainable = {layer["class_name"]: layer["config"].get("trainable") for layer in config["layers"][:-1]}
    assert trainable["StringLookup"] is True
    assert trainable["Dense"] is False
