"""Models without code: what they compute, how they come back, what they refuse to revive."""

import copy
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tapeworks.components.registry import registry
from tapeworks.errors import FailureCode, JobFailure
from tapeworks.spec.references import Kind
from tapeworks_workers.engine.factory.factory import build

X = np.random.default_rng(0).normal(size=(5, 8, 8, 1)).astype("float32")


def model(component: str, **config: Any) -> Any:
    return build({"component": component, "config": config}, Kind.MODEL, pointer="/models/model")


def layer(name: str, **config: Any) -> dict[str, Any]:
    return {"component": f"keras/{name}", "config": config}


def test_mlp_has_the_layers_it_says(tmp_path: Path) -> None:
    mlp = model(
        "mlp", hidden=[16, 4], outputs=3, activation="gelu", dropout=0.25, kernel_regularizer=layer("L2", l2=0.5)
    )
    logits = mlp(X)
    assert logits.shape == (5, 3)
    assert [type(one).__name__ for one in mlp.layers] == ["Flatten", "Dense", "Dropout", "Dense", "Dropout", "Dense"]
    dense = [one for one in mlp.layers if isinstance(one, keras.layers.Dense)]
    assert [one.activation.__name__ for one in dense] == ["gelu", "gelu", "linear"], "it emits logits"
    assert [one.rate for one in mlp.layers if isinstance(one, keras.layers.Dropout)] == [0.25, 0.25]
    expected = 0.5 * sum(float(tf.reduce_sum(one.kernel.value**2)) for one in dense)
    np.testing.assert_allclose(tf.add_n(mlp.losses), expected, rtol=1e-5)
    mlp.save(tmp_path / "m.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "m.keras")(X), logits)


def test_mlp_without_hidden_layers_is_linear() -> None:
    linear = model("mlp", hidden=[], outputs=2)
    linear(X)
    assert [one.shape for one in linear.weights] == [(64, 2), (2,)]


def test_convnet_halves_the_image_at_each_convolution(tmp_path: Path) -> None:
    network = model("convnet", filters=[4, 8], hidden=[16], outputs=3, dropout=0.5, batch_normalization=True)
    logits = network(X)
    assert logits.shape == (5, 3)
    assert network.get_layer("pooling_2").output.shape == (5, 2, 2, 8)
    assert network.get_layer("convolution_1").use_bias is False, "the normalization has one"
    network.save(tmp_path / "m.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "m.keras")(X), logits)


def test_sequential_takes_layers_in_order_and_models_among_them() -> None:
    mlp = {"component": "mlp", "config": {"hidden": [4], "outputs": 3}}
    network = model("sequential", layers=[layer("Flatten"), layer("Rescaling", scale=2.0), mlp], name="net")
    assert network.name == "net"
    assert network(X).shape == (5, 3)
    with pytest.raises(JobFailure, match="layers is empty"):
        model("sequential", layers=[])


# ── graph ────────────────────────────────────────────────────────────────────────────────────────


def test_a_layer_of_a_node_is_a_layer_though_another_kind_has_the_name() -> None:
    from tapeworks_service.catalogue.config_validation import kind_in_schema

    schema = registry.get(Kind.MODEL, "graph").config_schema
    assert kind_in_schema(schema, "nodes") is Kind.LAYER, "what POST asks"
    nodes = [{"name": "same", "layer": layer("Identity"), "from": "x"}]
    network = model("graph", nodes=nodes, outputs="same", inputs={"x": {"shape": [2], "dtype": "int32"}})
    assert isinstance(network.get_layer("same"), keras.layers.Identity)
    assert network.inputs[0].dtype == "int32"


def test_a_graph_inside_another_model_needs_its_inputs() -> None:
    nodes = [{"name": "out", "layer": layer("Dense", units=2), "from": "x"}]
    inner = {"component": "graph", "config": {"nodes": nodes, "outputs": "out"}}
    with pytest.raises(JobFailure, match="a graph inside another model needs its inputs"):
        model("sequential", layers=[inner])
    inner["config"]["inputs"] = {"x": {"shape": [3]}}
    assert model("sequential", layers=[inner])(np.ones((1, 3), "float32")).shape == (1, 2)


# ── functional ───────────────────────────────────────────────────────────────────────────────────


def two_inputs() -> keras.Model:
    left, right = keras.Input([4], name="left"), keras.Input([4], name="right")
    shared = keras.layers.Dense(3, kernel_regularizer="l2", name="shared")
    merged = shared(left) + shared(right) * 2.0
    outputs = {"sum": keras.layers.Dense(2, name="sum")(merged), "max": keras.ops.max(merged, axis=-1)}
    return keras.Model({"left": left, "right": right}, outputs, name="two")


INPUTS = {"left": np.ones((2, 4), "float32"), "right": np.full((2, 4), 3.0, "float32")}


@pytest.mark.parametrize("written", ["get_config", "to_json"])
def test_functional_is_the_model_that_wrote_the_config(written: str) -> None:
    original = two_inputs()
    config = original.get_config() if written == "get_config" else json.loads(original.to_json())
    config = json.loads(json.dumps(config))
    before = copy.deepcopy(config)
    network = model("functional", config=config)
    assert config == before, "Keras changes the config it is given"
    network.set_weights(original.get_weights())
    expected = original(INPUTS)
    np.testing.assert_array_equal(network(INPUTS)["sum"], expected["sum"])
    np.testing.assert_array_equal(network(INPUTS)["max"], expected["max"])
    assert [one.name for one in network.layers] == [one.name for one in original.layers]


def test_functional_with_a_registered_component_and_a_sequential_model() -> None:
    gated = build({"component": "gated_residual", "config": {"units": 3}}, Kind.LAYER)
    original = keras.Sequential([keras.Input([4]), keras.layers.Dense(4), gated])
    network = model("functional", config=json.loads(json.dumps(original.get_config())))
    network.set_weights(original.get_weights())
    np.testing.assert_array_equal(network(INPUTS["left"]), original(INPUTS["left"]))


def test_functional_names_layers_whose_config_does_not() -> None:
    config = json.loads(json.dumps(two_inputs().get_config()))
    for one in config["layers"]:
        one["config"].pop("name", None)
    assert "shared" in [one.name for one in model("functional", config=config).layers]


def changed(**inner: Any) -> dict[str, Any]:
    """A functional config whose dense layer is another class."""
    config = json.loads(json.dumps(keras.Sequential([keras.Input([4]), keras.layers.Dense(2)]).get_config()))
    config["layers"][-1].update(inner)
    return {"name": config["name"], "layers": config["layers"]}


@pytest.mark.parametrize(
    "inner",
    [
        {"class_name": "Lambda"},
        {"class_name": "TFSMLayer", "config": {"filepath": "/somewhere"}},
        {"class_name": "Dense", "module": None},
        {"class_name": "system", "module": "os"},
        {"class_name": "Popen", "module": "subprocess", "registered_name": "Popen"},
        {"class_name": "get_file", "module": "keras.utils"},
        {"class_name": "load_model", "module": "keras.models"},
        {"class_name": "__lambda__", "config": {"value": "x"}},
        {"class_name": "function", "config": "system", "module": "os"},
        {"class_name": "Map", "module": "keras.src.ops.core"},
        {"class_name": "backend", "module": "keras.src.ops.numpy"},
        {"class_name": ["Dense"], "module": "keras.layers"},
        {"config": {"units": 2, "activation": {"class_name": "Lambda", "module": "keras.layers", "config": {}}}},
        {"config": {"units": 2, "deep": [[{"class_name": "eval", "module": "builtins", "config": "1"}]]}},
        {"class_name": "StringLookup", "config": {"vocabulary": "/etc/passwd"}},
        {"class_name": "Dense", "registered_name": "nobody>Dense", "module": "nobody"},
    ],
)
def test_functional_revives_no_class_that_could_run_code(inner: dict[str, Any]) -> None:
    with pytest.raises(JobFailure, match=r"config\.layers\[1\]") as refused:
        model("functional", config=changed(**inner))
    assert refused.value.code is FailureCode.COMPONENT_ERROR


def test_functional_refuses_what_is_no_model() -> None:
    with pytest.raises(JobFailure, match="config has no list 'layers'"):
        model("functional", config={"units": 3})
    dense = keras.saving.serialize_keras_object(keras.layers.Dense(2))
    with pytest.raises(JobFailure, match="of a Dense, not of a functional or sequential model"):
        model("functional", config=json.loads(json.dumps(dense)))
