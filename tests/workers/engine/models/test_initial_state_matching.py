"""Weights of an earlier job go to the layers that they belong to, whatever numbers Keras gave the layers."""

import tarfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tapeworks import TrainingStep, component
from tapeworks.errors import JobFailure
from tapeworks_workers.engine.checkpoints.snapshot import write_values
from tapeworks_workers.engine.models.initial_state import InitialState
from tapeworks_workers.engine.step.assembly import Assembly, assemble
from tapeworks_workers.engine.step.state import snapshot
from tests.support.job_files import job_inputs
from tests.support.trainings import job

ELEMENT = (tf.TensorSpec([None, 4]), tf.TensorSpec([None], tf.int64))


@component("matching/Two")
class Two(TrainingStep):
    """Two models over the same data: the layers of the second are numbered after those of the first."""

    models = ("first", "second")
    optimizers = {"both": ("first", "second")}  # noqa: RUF012

    def train_step(self, batch: Any, run: Any) -> dict[str, Any]:
        with tf.GradientTape() as tape:
            outputs = [run.models[role](batch[0], training=True) for role in self.models]
            loss = tf.add_n([tf.reduce_mean(one**2) for one in outputs])
        run.minimize("both", loss, tape)
        return {"loss": loss}


@component("matching/Block")
class Block(keras.layers.Layer):
    """Two layers without names, the second without a bias in every other block."""

    def __init__(self, units: int = 4, bias: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units, self.bias = units, bias
        self.inner = keras.layers.Dense(units)
        self.outer = keras.layers.Dense(units, use_bias=bias)

    def build(self, shape: Any) -> None:
        self.inner.build(shape)
        self.outer.build((*shape[:-1], self.units))

    def call(self, x: Any) -> Any:
        return self.outer(self.inner(x))


def dense(units: int, name: str | None = None, **config: Any) -> dict[str, Any]:
    return {"component": "keras/Dense", "config": {"units": units, **({"name": name} if name else {}), **config}}


def block(**config: Any) -> dict[str, Any]:
    return {"component": "matching/Block", "config": config}


def stacked(*layers: dict[str, Any], name: str | None = None, **keys: Any) -> dict[str, Any]:
    named = {"name": name} if name else {}
    return {"component": "sequential", "config": {"layers": list(layers), **named}, **keys}


def earlier(model: dict[str, Any], folder: Path, role: str = "model", **parts: Any) -> tuple[InitialState, keras.Model]:
    """What a job with this model left, and the model; no two values are alike."""
    assembly = assemble(job(model=model, **parts), ELEMENT)
    made = assembly.models[role]
    rng = np.random.default_rng(0)
    for weight in made.weights:
        weight.assign(rng.uniform(0.1, 1.0, weight.shape))
    return given(assembly, folder), made


def given(assembly: Assembly, folder: Path) -> InitialState:
    """The state of a job as the agent gives it to a later attempt."""
    write_values(snapshot(assembly, {}), folder / "state")
    with tarfile.open(folder / "state.tar", "w") as archive:
        for file in sorted((folder / "state").iterdir()):
            archive.add(file, arcname=file.name)
    return InitialState(inputs=job_inputs([{"from": "job_1", "kind": "checkpoint", "path": "state.tar"}], folder))


def second(model: dict[str, Any], start: InitialState, **state: Any) -> Assembly:
    """A job whose second role begins with the earlier model, its layers numbered after those of the first role."""
    models = {
        "first": stacked(dense(4), dense(1)),
        "second": {**model, "initial_state": {"from": "job_1", "role": "model", **state}},
    }
    step = {"component": "matching/Two", "config": {}}
    spec = job(model=None, models=models, step=step, optimizer=None, optimizers={"both": "keras/SGD"}, loss=None)
    return assemble(spec, ELEMENT, start=start)


def alike(found: keras.Model, expected: keras.Model, count: int | None = None) -> None:
    """The first `count` weights are equal, in order; by default all."""
    if count is None:
        assert len(found.weights) == len(expected.weights)
    for mine, other in list(zip(found.get_weights(), expected.get_weights(), strict=False))[:count]:
        np.testing.assert_array_equal(mine, other)


FIVE = [dense(4), dense(4), dense(4), dense(4), dense(1)]


@pytest.mark.slow
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("name", ["net", None])
def test_numbers_of_keras_are_no_identity(tmp_path: Path, strict: bool, name: str | None) -> None:
    """`dense_2` of the earlier job is its third layer, of this one the first of its second role."""
    start, origin = earlier(stacked(*FIVE, name="net"), tmp_path)
    assembly = second(stacked(*FIVE, name=name), start, strict=strict)
    model = assembly.models["second"]
    assert model.layers[0].name == "dense_2"
    alike(model, origin)
    (taken,) = assembly.taken
    assert (taken.weights, taken.left) == (10, {})
    root = model.name
    assert taken.layers == {f"{root}/dense_{2 + i}": "net/dense" + (f"_{i}" if i else "") for i in range(5)}
    assert f"{root}/dense_2 from net/dense" in taken.message


def test_a_shorter_model_takes_the_first_layers(tmp_path: Path) -> None:
    start, origin = earlier(stacked(*[dense(4)] * 5, name="net"), tmp_path)
    alike(second(stacked(*[dense(4)] * 3, name="net"), start).models["second"], origin, 6)


def test_more_than_ten_weights_keep_their_order(tmp_path: Path) -> None:
    """In a state on disk `…/10/…` comes before `…/2/…`."""
    start, origin = earlier(stacked(*[dense(4)] * 12), tmp_path)
    alike(second(stacked(*[dense(4)] * 12), start).models["second"], origin)


def test_layers_without_bias_and_inside_blocks_are_not_mixed_up(tmp_path: Path) -> None:
    parts = [block(bias=False), dense(4), block(), dense(4, use_bias=False), dense(4), block()]
    start, origin = earlier(stacked(*parts), tmp_path)
    alike(second(stacked(*parts, name="other"), start).models["second"], origin)


@pytest.mark.slow
def test_a_new_head_of_another_width_is_left(tmp_path: Path) -> None:
    start, origin = earlier(stacked(*FIVE), tmp_path)
    wider = stacked(*FIVE[:4], dense(7))
    with pytest.raises(JobFailure, match=r"dense_6/kernel' is \[4, 1\] there .as .*dense_4/kernel'., \[4, 7\] here"):
        second(wider, start)
    assembly = second(wider, start, strict=False)
    alike(assembly.models["second"], origin, 8)
    (taken,) = assembly.taken
    assert [path.partition("/")[2] for path in taken.left] == ["dense_6/kernel", "dense_6/bias"]
    by_layer = second(wider, start, layers=["dense_[2-5]"])
    alike(by_layer.models["second"], origin, 8)


def test_names_of_an_author_match_the_same_name_only(tmp_path: Path) -> None:
    start, origin = earlier(stacked(dense(4, "hidden_1"), dense(4, "hidden_2"), dense(1)), tmp_path)
    swapped = second(stacked(dense(4, "hidden_2"), dense(4, "hidden_1"), dense(1)), start).models["second"]
    for name in ("hidden_1", "hidden_2"):
        np.testing.assert_array_equal(swapped.get_layer(name).kernel, origin.get_layer(name).kernel)
    with pytest.raises(JobFailure, match=r"hidden_3/kernel' has no counterpart there"):
        second(stacked(dense(4, "hidden_2"), dense(4, "hidden_3"), dense(1)), start)


def test_names_that_hold_an_invented_name(tmp_path: Path) -> None:
    """`forward_lstm_1` in `bidirectional_1`, `named_1_dense` in `named_1`, cells, attention, normalisation."""
    lstm = {"component": "keras/LSTM", "config": {"units": 2, "return_sequences": True}}
    parts = [
        {"component": "keras/Reshape", "config": {"target_shape": [2, 2]}},
        {"component": "keras/Bidirectional", "config": {"layer": lstm}},
        {"component": "keras/Bidirectional", "config": {"layer": lstm}},
        {"component": "keras/LayerNormalization", "config": {}},
        {"component": "matching/Named", "config": {}},
        {"component": "matching/Named", "config": {}},
        {"component": "keras/Flatten", "config": {}},
        dense(4),
    ]
    start, origin = earlier(stacked(*parts), tmp_path)
    models = {
        "first": stacked(*parts[:-1]),
        "second": stacked(*parts, initial_state={"from": "job_1", "role": "model"}),
    }
    step = {"component": "matching/Two", "config": {}}
    spec = job(model=None, models=models, step=step, optimizer=None, optimizers={"both": "keras/SGD"}, loss=None)
    model = assemble(spec, ELEMENT, start=start).models["second"]
    paths = [weight.path.partition("/")[2] for weight in model.weights]
    assert paths[0].startswith("bidirectional_2/forward_lstm_2/")
    assert any(path.startswith("named_2/named_2_dense/") for path in paths), paths
    alike(model, origin)


@component("matching/Named")
class Named(keras.layers.Layer):
    """Names its inner layer after itself."""

    def build(self, shape: Any) -> None:
        self.inner = keras.layers.Dense(shape[-1], name=f"{self.name}_dense")
        self.inner.build(shape)

    def call(self, x: Any) -> Any:
        return self.inner(x)


# ── what is not clear ────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_a_layer_that_could_be_several_is_refused_and_the_hint_decides(tmp_path: Path) -> None:
    """Two layers fit any of the four before; the last fits the fifth, so the place does not decide."""
    start, origin = earlier(stacked(*FIVE), tmp_path)
    shorter = stacked(dense(4), dense(4), dense(1))
    for strict in (True, False):
        with pytest.raises(JobFailure, match="5 layers 'dense' there and 3 here, and more than one") as refused:
            second(shorter, start, strict=strict)
    assert '"order"' in str(refused.value.hint)
    ordered = second(shorter, start, strict=False, match="order").models["second"]
    alike(ordered, origin, 4)


@pytest.mark.slow
def test_names_that_an_author_copied_from_keras_and_their_order_must_agree(tmp_path: Path) -> None:
    start, origin = earlier(stacked(dense(4, "dense"), dense(4, "dense_1"), name="net"), tmp_path)
    swapped = stacked(dense(4, "dense_1"), dense(4, "dense"), name="net")
    with pytest.raises(JobFailure, match=r"'dense_1' is 'dense_1' there by its name and 'dense' by its place"):
        job_of(swapped, start)
    by_name = job_of(swapped, start, match="names").models["model"]
    for name in ("dense", "dense_1"):
        np.testing.assert_array_equal(by_name.get_layer(name).kernel, origin.get_layer(name).kernel)
    alike(job_of(swapped, start, match="order").models["model"], origin)


def test_a_name_that_keras_numbered_is_reported_with_its_layer() -> None:
    """A user who counts in one model means its third layer: it is the first."""
    models = {"first": stacked(dense(4), dense(1)), "second": stacked(*FIVE, freeze=["dense_2", "*_3"])}
    step = {"component": "matching/Two", "config": {}}
    spec = job(model=None, models=models, step=step, optimizer=None, optimizers={"both": "keras/SGD"}, loss=None)
    notes = assemble(spec, ELEMENT).notes()
    assert [note.message.partition(":")[0] for note in notes] == [f"/models/second/freeze/{i}" for i in (0, 1)]
    assert "'dense_2' is layer 1 of 5 of role 'second' (Dense, weights [4, 4], [4])" in notes[0].message
    named = stacked(dense(4, "dense_2"), dense(1, "out"), freeze=["dense_2"])
    assert assemble(job(model=named), ELEMENT).notes() == []


def job_of(model: dict[str, Any], start: InitialState, **state: Any) -> Assembly:
    return assemble(job(model={**model, "initial_state": {"from": "job_1", **state}}), ELEMENT, start=start)


# ── what layers know outside their weights ───────────────────────────────────────────────────────


@component("matching/Words")
class Words(keras.Model):
    """Each lookup, without a name of its own, sees one column."""

    def __init__(self, columns: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.lookups = [keras.layers.StringLookup() for _ in range(columns)]
        self.out = keras.layers.Dense(2)

    def call(self, x: Any) -> Any:
        indices = [one(x[:, i : i + 1]) for i, one in enumerate(self.lookups)]
        return self.out(keras.ops.cast(keras.ops.concatenate(indices, axis=-1), "float32"))


def test_a_vocabulary_goes_to_the_lookup_that_it_belongs_to(tmp_path: Path) -> None:
    words = (tf.TensorSpec([None, 3], tf.string), tf.TensorSpec([None], tf.int64))
    data = tf.data.Dataset.from_tensors(([["a", "b", "d"], ["a", "c", "d"]], [0, 1]))
    numbers = ["", "_1", "_2"]
    model = {"component": "matching/Words", "config": {}}
    adapts = [{"layer": f"string_lookup{number}"} for number in numbers]
    first = assemble(job(model={**model, "adapt": adapts}), words, datasets={"training": data})
    learned = [one.get_vocabulary() for one in first.models["model"].lookups]
    start = given(first, tmp_path)
    models = {
        "first": {**model, "config": {"columns": 1}, "adapt": adapts[:1]},
        "second": {**model, "initial_state": {"from": "job_1", "role": "model"}},
    }
    step = {"component": "matching/Two", "config": {}}
    spec = job(model=None, models=models, step=step, optimizer=None, optimizers={"both": "keras/SGD"}, loss=None)
    start.training = lambda: data
    found = assemble(spec, words, start=start).models["second"]
    assert [one.name for one in found.lookups] == [f"string_lookup_{i}" for i in (1, 2, 3)]
    assert [one.get_vocabulary() for one in found.lookups] == learned
    assert len({tuple(one) for one in learned}) == 3


def test_a_normalisation_that_the_earlier_job_lacks_is_refused(tmp_path: Path) -> None:
    start, _ = earlier(stacked(dense(4), dense(1)), tmp_path)
    scaled = stacked({"component": "keras/Normalization", "config": {}}, dense(4), dense(1))
    with pytest.raises(JobFailure, match=r"the layer 'normalization' .Normalization. is not adapted"):
        job_of(scaled, start, strict=False)
