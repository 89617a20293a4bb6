"""How models start: graphs, layers that adapt, frozen layers, copies. Real data, and Keras beside it."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tapeworks.errors import JobFailure
from tapeworks.spec.parsing import parse_spec
from tapeworks.spec.references import Kind
from tapeworks_workers.engine.checkpoints.snapshot import read_values
from tapeworks_workers.engine.export.packaging import seal
from tapeworks_workers.engine.factory.factory import build
from tapeworks_workers.engine.models.initial_state import InitialState
from tapeworks_workers.engine.models.layer_paths import layers_by_path
from tapeworks_workers.engine.step.assembly import Assembly, assemble
from tapeworks_workers.engine.step.compiled_step import compile_train_step
from tapeworks_workers.engine.step.state import restore, snapshot
from tests.support import trainings  # noqa: F401  # registers lab_parts
from tests.support.job_files import job_inputs
from tests.workers.engine.conftest import exported

WORDS = np.array([b"red green", b"red blue", b"red red red", b"green", b"blue blue green red", b"red"])
HEIGHTS = np.array([[150.0], [160.0], [170.0], [180.0], [190.0], [200.0]], np.float32)
LABELS = np.array([0, 1, 0, 1, 0, 1])
NAMED = (
    {"words": tf.TensorSpec([None], tf.string), "height": tf.TensorSpec([None, 1])},
    tf.TensorSpec([None], tf.int64),
)
CROSS_ENTROPY = {"component": "keras/SparseCategoricalCrossentropy", "config": {"from_logits": True}}


def layer(component: str, /, **config: Any) -> dict[str, Any]:
    return {"component": f"keras/{component}", "config": config}


def job(model: dict[str, Any], **changes: Any) -> Any:
    data = {"source": "iris", "pipeline": [{"op": "batch", "batch_size": 3}]}
    parts = {"data": data, "model": model, "optimizer": "keras/SGD", "loss": CROSS_ENTROPY, **changes}
    return parse_spec({name: part for name, part in parts.items() if part is not None})


def named_batches() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(({"words": WORDS, "height": HEIGHTS}, LABELS)).batch(3)


def texts_and_numbers(**changes: Any) -> dict[str, Any]:
    """A graph over raw strings and raw numbers."""
    nodes = [
        {"name": "tokens", "layer": layer("TextVectorization", output_mode="multi_hot"), "from": "words"},
        {"name": "scaled", "layer": layer("Normalization"), "from": "height"},
        {"name": "both", "layer": layer("Concatenate"), "from": ["tokens", "scaled"]},
        {"name": "logits", "layer": layer("Dense", units=2), "from": "both"},
    ]
    adapt = [{"layer": "tokens"}, {"layer": "scaled"}]
    return {"component": "graph", "config": {"nodes": nodes, "outputs": "logits"}, "adapt": adapt, **changes}


def assembled(spec: Any, element: Any, data: tf.data.Dataset, **options: Any) -> Assembly:
    return assemble(spec, element, datasets={"training": data}, **options)


# ── adapt ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_layers_of_a_graph_learn_from_the_training_data_and_the_bundle_takes_raw_input(
    acme: Path, tmp_path: Path, verify: Any
) -> None:
    assembly = assembled(job(texts_and_numbers()), NAMED, named_batches())
    model = assembly.models["model"]
    beside = keras.layers.TextVectorization(output_mode="multi_hot")
    beside.adapt(WORDS)
    assert model.get_layer("tokens").get_vocabulary() == beside.get_vocabulary() == ["[UNK]", "red", "green", "blue"]
    np.testing.assert_allclose(model.get_layer("scaled")(HEIGHTS), (HEIGHTS - 175) / HEIGHTS.std(), rtol=1e-5)
    assert model.get_layer("logits").kernel.shape == (5, 2), "the depth of the vocabulary and the height"

    step = compile_train_step(assembly)
    for batch in named_batches():
        step(batch)
    batches = list(named_batches().as_numpy_iterator())
    draft = exported(assembly, tmp_path / "bundle", data=batches)
    state = read_values(draft.folder / "training_state")
    assert state.values["outside/model/tokens/assets/vocabulary.txt"].tobytes() == b"[UNK]\nred\ngreen\nblue"
    for verifier in ("reload", "certify"):
        answer = verify(verifier, draft.folder)
        assert answer["ok"], answer
    again = keras.models.load_model(draft.folder / "models" / "model.keras")
    assert type(again).__name__ == "Functional"
    x = {"words": tf.constant([b"red", b"unheard"]), "height": tf.constant([[150.0], [200.0]])}
    np.testing.assert_array_equal(again(x), model(x))
    served = tf.saved_model.load(str(draft.folder / "saved_model/model/1")).signatures["serving_default"]
    np.testing.assert_allclose(served(**x)["output_0"], model(x), rtol=1e-6)


def test_what_was_learned_is_restored_and_not_learned_again() -> None:
    first = assembled(job(texts_and_numbers()), NAMED, named_batches())
    state = snapshot(first, {})
    other = tf.data.Dataset.from_tensor_slices(({"words": [b"other"], "height": [[1.0]]}, [0])).batch(1)
    start = InitialState(lambda: other, restored=state.values)
    second = assembled(job(texts_and_numbers()), NAMED, other, start=start)
    restore(second, state)
    x = {"words": tf.constant(WORDS), "height": tf.constant(HEIGHTS)}
    np.testing.assert_array_equal(second.models["model"](x), first.models["model"](x))
    third = assembled(job(texts_and_numbers()), NAMED, other)
    with pytest.raises(JobFailure, match="outside/model/tokens"):
        restore(third, state)


def test_an_initial_state_brings_its_vocabulary_and_a_layer_under_adapt_keeps_its_own(
    acme: Path, tmp_path: Path
) -> None:
    first = assembled(job(texts_and_numbers()), NAMED, named_batches())
    draft = exported(first, tmp_path / "bundle", data=list(named_batches().as_numpy_iterator()))
    archive = seal(draft.folder, {}).bundle
    inputs = [{"from": "job_1", "kind": "bundle", "path": archive.name}]
    words = np.array([b"red green", b"green", b"green", b"red yellow"])
    other = tf.data.Dataset.from_tensor_slices(({"words": words, "height": HEIGHTS[:4]}, LABELS[:4])).batch(2)

    def started(adapt: list[dict[str, str]], **state: Any) -> keras.Model:
        model = texts_and_numbers(adapt=adapt, initial_state={"from": "job_1", **state})
        start = InitialState(lambda: other, inputs=job_inputs(inputs, tmp_path))
        return assembled(job(model), NAMED, other, start=start).models["model"]

    x = {"words": tf.constant(WORDS), "height": tf.constant(HEIGHTS)}
    np.testing.assert_array_equal(started([])(x), first.models["model"](x))
    mixed = started([{"layer": "scaled"}])
    assert mixed.get_layer("tokens").get_vocabulary() == ["[UNK]", "red", "green", "blue"]
    np.testing.assert_allclose(mixed.get_layer("scaled").adapt_mean, [165.0])
    with pytest.raises(JobFailure, match=r"'tokens' \(TextVectorization\) is not adapted"):
        started([{"layer": "scaled"}], layers=["logits"])


@pytest.mark.slow
@pytest.mark.parametrize("form", ["sequential", "nested", "functional", "subclassed"])
def test_a_layer_sees_what_the_part_before_it_gives(acme: Path, form: str) -> None:
    x = np.random.default_rng(0).normal(3.0, 2.0, (8, 4)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((x, np.zeros(8, np.int64))).batch(4)
    element = (tf.TensorSpec([None, 4]), tf.TensorSpec([None], tf.int64))
    inner = [layer("Rescaling", scale=10.0), layer("Normalization", name="norm")]
    path = "norm"
    match form:
        case "sequential":
            model = {"component": "sequential", "config": {"layers": [*inner, layer("Dense", units=2)]}}
        case "nested":
            nested = {"component": "sequential", "config": {"layers": inner, "name": "front"}}
            model = {"component": "sequential", "config": {"layers": [nested, layer("Dense", units=2)]}}
            path = "front/norm"
        case "functional":
            inputs = keras.Input([4])
            outputs = keras.layers.Normalization(name="norm")(keras.layers.Rescaling(10.0)(inputs))
            keras_model = keras.Model(inputs, keras.layers.Dense(2)(outputs))
            model = {"component": "functional", "config": {"config": _plain(keras_model.get_config())}}
        case "subclassed":
            model = {"component": "lab/Scaled", "config": {}}
    spec = job({**model, "adapt": [{"layer": "norm", "take": 1}]})
    assembly = assembled(spec, element, data)
    found = dict(layers_by_path(assembly.models["model"]))[path]
    np.testing.assert_allclose(found.adapt_mean, 10 * x[:4].mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(found.adapt_variance, 100 * x[:4].var(axis=0), rtol=1e-3)
    np.testing.assert_allclose(found(10 * x[:4]).numpy().std(axis=0), 1.0, rtol=1e-3)
    state = snapshot(assembly, {})
    restored = assembled(spec, element, data.take(0), start=InitialState(restored=state.values))
    restore(restored, state)
    np.testing.assert_array_equal(restored.models["model"](x), assembly.models["model"](x))


def _plain(config: Any) -> Any:
    import json

    return json.loads(json.dumps(config))


def test_discretization_and_integer_lookup_learn_too(acme: Path, tmp_path: Path, verify: Any) -> None:
    nodes = [
        {"name": "bins", "layer": layer("Discretization", num_bins=3, output_mode="one_hot"), "from": "height"},
        {"name": "ids", "layer": layer("IntegerLookup", output_mode="one_hot"), "from": "id"},
        {"name": "both", "layer": layer("Concatenate"), "from": ["bins", "ids"]},
        {"name": "logits", "layer": layer("Dense", units=2), "from": "both"},
    ]
    adapt = [{"layer": "bins"}, {"layer": "ids"}]
    model = {"component": "graph", "config": {"nodes": nodes, "outputs": "logits"}, "adapt": adapt}
    x = {"height": HEIGHTS, "id": np.array([[7], [7], [9], [9], [9], [5]])}
    data = tf.data.Dataset.from_tensor_slices((x, LABELS)).batch(3)
    element = ({"height": tf.TensorSpec([None, 1]), "id": tf.TensorSpec([None, 1], tf.int64)}, NAMED[1])
    assembly = assembled(job(model), element, data)
    assert assembly.models["model"].get_layer("ids").get_vocabulary() == [-1, 9, 7, 5]
    assert len(assembly.models["model"].get_layer("bins").bin_boundaries) == 2
    draft = exported(assembly, tmp_path / "bundle", data=list(data.as_numpy_iterator()))
    for verifier in ("reload", "certify"):
        answer = verify(verifier, draft.folder)
        assert answer["ok"], answer


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapt": [{"layer": "tokens"}]}, "'scaled' .Normalization. is not adapted"),
        ({"adapt": [{"layer": "scaled"}]}, "'tokens' .TextVectorization. is not adapted"),
        ({"adapt": [{"layer": "token"}]}, "those that adapt: tokens, scaled"),
        (
            {"adapt": [{"layer": "tokens"}, {"layer": "scaled"}, {"layer": "logits"}]},
            "'logits' .* has no adapt method",
        ),
    ],
)
def test_what_cannot_learn_or_did_not_is_refused(acme: Path, changes: Any, message: str) -> None:
    with pytest.raises(JobFailure, match=message) as refused:
        assembled(job(texts_and_numbers(**changes)), NAMED, named_batches())
    assert refused.value.code == "invalid_spec"


# ── graph ────────────────────────────────────────────────────────────────────────────────────────

ELEMENT = (tf.TensorSpec([None, 4]), tf.TensorSpec([None], tf.int64))


def node(name: str, source: Any, made: Any = None) -> dict[str, Any]:
    return {"name": name, "layer": made or layer("Dense", units=3), "from": source}


def test_a_graph_is_the_functional_model_that_it_says() -> None:
    nodes = [
        node("first", "left"),
        node("second", "right", "first"),
        node("attention", {"query": "first", "value": "second"}, layer("MultiHeadAttention", num_heads=2, key_dim=2)),
        node("joined", ["attention", "second"], layer("Add")),
    ]
    inputs = {"left": {"shape": [5, 4]}, "right": {"shape": [5, 4], "dtype": "float32"}}
    outputs = {"sum": "joined", "raw": "first"}
    config = {"inputs": inputs, "nodes": nodes, "outputs": outputs, "name": "net"}
    model = build({"component": "graph", "config": config}, Kind.MODEL)
    assert (model.name, [one.name for one in model.layers]) == (
        "net", ["left", "right", "first", "attention", "joined"]
    )  # fmt: skip
    x = {name: np.random.default_rng(1).normal(size=(2, 5, 4)).astype("float32") for name in inputs}
    dense = model.get_layer("first")
    left, right = dense(x["left"]), dense(x["right"])
    expected = model.get_layer("attention")(query=left, value=right) + right
    np.testing.assert_allclose(model(x)["sum"], expected, rtol=1e-6)
    np.testing.assert_allclose(model(x)["raw"], left, rtol=1e-6)


def test_losses_and_metrics_by_output_and_the_reload(acme: Path, tmp_path: Path, verify: Any) -> None:
    nodes = [node("hidden", "x"), node("kind", "hidden"), node("size", "hidden", layer("Dense", units=1))]
    model = {"component": "graph", "config": {"nodes": nodes, "outputs": {"kind": "kind", "size": "size"}}}
    losses = {"outputs": {"kind": {**CROSS_ENTROPY, "weight": 2.0}, "size": "keras/MeanSquaredError"}}
    metrics = {"outputs": {"kind": ["keras/SparseCategoricalAccuracy"]}}
    rng = np.random.default_rng(0)
    y = {"kind": LABELS, "size": HEIGHTS}
    data = tf.data.Dataset.from_tensor_slices((rng.normal(size=(6, 4)).astype("float32"), y)).batch(3)
    element = (ELEMENT[0], {"kind": tf.TensorSpec([None], tf.int64), "size": tf.TensorSpec([None, 1])})
    assembly = assembled(job(model, loss=losses, metrics=metrics), element, data)
    step = compile_train_step(assembly)
    for batch in data:
        step(batch)
    draft = exported(assembly, tmp_path / "bundle", data=list(data.as_numpy_iterator()))
    answer = verify("reload", draft.folder)
    assert answer["ok"], answer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("nodes", "outputs", "message"),
    [
        ([node("a", "b"), node("b", "x")], "b", "the node 'a' takes 'b', which is not before it"),
        ([node("a", "x", "z")], "a", "the node 'a' shares the layer of 'z'"),
        ([node("a", "x"), node("a", "x")], "a", "the node 'a': the name is already in use"),
        ([node("a", "x")], "z", "outputs names 'z', which is not a node; the nodes are a"),
        ([node("a", {"bogus": "x"})], "a", "the node 'a': TypeError"),
        ([node("a", ["x", "y"], layer("Add"))], "a", r"takes the inputs \['x', 'y'\]; the element's x is one tensor"),
        ([{"name": "a", "layer": layer("Dense", units=1), "of": "x"}], "a", "it takes name, layer and from"),
        ([], "a", "nodes is empty"),
    ],
)
def test_a_wrong_graph_names_the_node(nodes: Any, outputs: Any, message: str) -> None:
    spec = job({"component": "graph", "config": {"nodes": nodes, "outputs": outputs}})
    with pytest.raises(JobFailure, match=message):
        assemble(spec, ELEMENT)


# ── freeze, copies ───────────────────────────────────────────────────────────────────────────────


def _trained_on(assembly: Assembly, steps: int = 3) -> None:
    rng = np.random.default_rng(0)
    step = compile_train_step(assembly)
    for _ in range(steps):
        step((rng.normal(size=(6, 4)).astype("float32"), LABELS))


def frozen_base(freeze: list[str]) -> dict[str, Any]:
    base = [layer("Dense", units=4, name="deep"), layer("BatchNormalization", name="norm")]
    layers = [
        {"component": "sequential", "config": {"layers": base, "name": "base"}},
        layer("Dense", units=2, name="head"),
    ]
    return {"component": "sequential", "config": {"layers": layers}, "freeze": freeze}


def test_frozen_layers_end_as_they_began_and_stay_frozen_in_the_file(acme: Path, tmp_path: Path, verify: Any) -> None:
    assembly = assemble(job(frozen_base(["base/*"])), ELEMENT)
    model = assembly.models["model"]
    before = {v.path: v.numpy() for v in model.weights}
    _trained_on(assembly)
    changed = {v.path for v in model.weights if v.numpy().tobytes() != before[v.path].tobytes()}
    assert changed == {v.path for v in model.get_layer("head").weights}, "the moving averages of norm stand too"
    draft = exported(assembly, tmp_path / "bundle", data=[(np.ones((6, 4), np.float32), LABELS)])
    for verifier in ("reload", "certify"):
        answer = verify(verifier, draft.folder)
        assert answer["ok"], answer
    again = keras.models.load_model(draft.folder / "models" / "model.keras")
    assert [v.path.split("/")[-2:] for v in again.trainable_variables] == [["head", "kernel"], ["head", "bias"]]


def test_a_glob_that_matches_nothing_names_the_layers() -> None:
    with pytest.raises(JobFailure, match="'deep' matches no layer; there are: base, base/deep, base/norm, head"):
        assemble(job(frozen_base(["head", "deep"])), ELEMENT)


def test_a_copy_starts_as_its_origin() -> None:
    spec = job(
        None, models={"target": {"copy_of": "online"}, "online": frozen_base([])}, optimizer=None,
        optimizers={"online": "keras/SGD"}, loss=None, step="lab/Target",
    )  # fmt: skip
    assembly = assemble(spec, ELEMENT)
    online, target = assembly.models["online"], assembly.models["target"]
    assert [v.numpy().tobytes() for v in online.weights] == [v.numpy().tobytes() for v in target.weights]
    _trained_on(assembly)
    assert online.weights[0].numpy().tobytes() != target.weights[0].numpy().tobytes()


def test_losses_of_layers_and_regularizers_reach_the_total() -> None:
    l2 = {"component": "keras/L2", "config": {"l2": 0.5}}
    activity = {"component": "keras/ActivityRegularization", "config": {"l1": 0.25}}
    dense = layer("Dense", units=2, kernel_regularizer=l2)
    assembly = assemble(job({"component": "sequential", "config": {"layers": [dense, activity]}}), ELEMENT)
    kernel = assembly.models["model"].layers[0].kernel
    assert kernel.shape == (4, 2), "built on the first shape"
    x, y = np.random.default_rng(0).normal(size=(6, 4)).astype("float32"), LABELS
    logits = x @ kernel.numpy()
    cross_entropy = keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)
    added = 0.5 * (kernel.numpy() ** 2).sum() + 0.25 * np.abs(logits).sum() / len(x)
    expected = float(np.mean(cross_entropy)) + added
    np.testing.assert_allclose(compile_train_step(assembly)((x, y))["loss"], expected, rtol=1e-5)
