"""Jobs that go on from earlier ones: weights, everything, a pretrained base or teacher."""

import json
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tapeworks.components.loading import load_components
from tapeworks.errors import JobFailure
from tapeworks.spec.parsing import parse_spec
from tapeworks_workers.engine.checkpoints.snapshot import read_values
from tapeworks_workers.engine.export.packaging import seal
from tapeworks_workers.engine.models.initial_state import InitialState
from tapeworks_workers.engine.step.assembly import assemble
from tapeworks_workers.engine.step.compiled_step import compile_train_step
from tests.support.job_files import job_inputs
from tests.support.paths import ROOT
from tests.support.trainings import attempt, job, mlp, numbers
from tests.workers.engine.conftest import exported

EXAMPLES = ROOT / "examples"
ELEMENT = (tf.TensorSpec([None, 4]), tf.TensorSpec([None], tf.int64))
BATCHES = [(np.random.default_rng(0).normal(size=(6, 4)).astype("float32"), np.array([0, 1, 2, 0, 1, 2]))]


def dense(units: int, name: str) -> dict[str, Any]:
    return {"component": "keras/Dense", "config": {"units": units, "name": name}}


def stacked(*layers: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return {"component": "sequential", "config": {"layers": list(layers), "name": "net"}, **keys}


class Earlier:
    """A finished job: its bundle as the agent leaves it, and its last checkpoint."""

    def __init__(self, folder: Path, spec: Any) -> None:
        self.frames = attempt(spec, folder)
        assert self.frames[-1]["outcome"] == "succeeded", self.frames[-1]
        self.bundle = seal(folder / "bundle", {}).bundle
        self.checkpoint = folder / [f for f in self.frames if f["type"] == "checkpoint"][-1]["path"]
        self.state = read_values(folder / "bundle" / "training_state")

    def values(self) -> dict[str, np.ndarray]:
        return {name.partition("/")[2].partition("/")[2].partition("/")[2]: value
                for name, value in self.state.values.items() if name.startswith("models/")}  # fmt: skip

    def given(self, folder: Path, kind: str = "bundle") -> list[dict[str, Any]]:
        """The start frame's inputs, in an attempt's folder."""
        (folder / "inputs").mkdir(parents=True, exist_ok=True)
        name = {"bundle": "inputs/0.tar.gz", "checkpoint": "inputs/0.tar"}[kind]
        shutil.copyfile(self.bundle if kind == "bundle" else self.checkpoint, folder / name)
        return [{"from": "job_1", "kind": kind, "path": name}]


@pytest.fixture(scope="module")
def earlier(acme: Path, tmp_path_factory: pytest.TempPathFactory) -> Earlier:
    spec = job(model=stacked(dense(5, "base"), dense(3, "head")), data={"source": numbers(60)})
    return Earlier(tmp_path_factory.mktemp("earlier"), spec)


def weights(model: keras.Model) -> dict[str, np.ndarray]:
    return {weight.path: weight.numpy() for weight in model.weights}


def started(spec: Any, earlier: Earlier, folder: Path, kind: str = "bundle") -> Any:
    start = InitialState(inputs=job_inputs(earlier.given(folder, kind), folder))
    return assemble(spec, ELEMENT, start=start)


# ── weights ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bundle", "checkpoint"])
@pytest.mark.parametrize("place", ["model", "training"])
def test_weights_are_those_of_the_earlier_job(earlier: Earlier, tmp_path: Path, kind: str, place: str) -> None:
    model = stacked(dense(5, "base"), dense(3, "head"))
    if place == "model":
        spec = job(model={**model, "initial_state": {"from": "job_1"}})
    else:
        spec = job(model=model, training={"initial_state": {"from": "job_1"}})
    assembly = started(spec, earlier, tmp_path, kind)
    found = weights(assembly.models["model"])
    assert len(found) == 4
    for path, value in found.items():
        np.testing.assert_array_equal(value, earlier.values()[path])
    assert int(assembly.run.step) == 0
    (taken,) = assembly.taken
    assert (taken.weights, taken.renamed, taken.left) == (4, {}, {})


def test_layers_that_fit_are_taken_and_the_others_told(earlier: Earlier, tmp_path: Path) -> None:
    model = stacked(dense(5, "base"), dense(7, "head"))
    state = {"from": "job_1"}
    with pytest.raises(JobFailure, match=r"'net/head/kernel' is \[5, 3\] there, \[5, 7\] here") as refused:
        started(job(model={**model, "initial_state": state}), earlier, tmp_path)
    assert refused.value.code == "invalid_spec"
    by_layer = started(job(model={**model, "initial_state": {**state, "layers": ["base"]}}), earlier, tmp_path)
    fitting = started(job(model={**model, "initial_state": {**state, "strict": False}}), earlier, tmp_path)
    for assembly in (by_layer, fitting):
        np.testing.assert_array_equal(
            assembly.models["model"].get_layer("base").kernel.numpy(), earlier.values()["net/base/kernel"]
        )
    assert by_layer.taken[0].left == {}
    assert "net/head/kernel is [5, 3] there, [5, 7] here, net/head/bias is [3] there" in fitting.taken[0].message


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"from": "job_1", "role": "critic"}, "'job_1' has no role 'critic'; it has model"),
        ({"from": "job_1", "layers": ["bas"]}, "'bas' matches no layer; there are: base, head"),
        ({"from": "job_2"}, "'job_2' is not an input of this attempt"),
    ],
)
def test_a_wrong_initial_state_is_told(earlier: Earlier, tmp_path: Path, state: Any, message: str) -> None:
    model = stacked(dense(5, "base"), dense(3, "head"), initial_state=state)
    with pytest.raises(JobFailure, match=message):
        started(job(model=model), earlier, tmp_path)


# ── everything ───────────────────────────────────────────────────────────────────────────────────


def epochs_of(frames: list[dict[str, Any]]) -> list[tuple[int, int]]:
    records = [f["record"] for f in frames if f["type"] == "record" and f["record"]["record"] == "event"]
    return [(r["data"]["epoch"], r["data"]["step"]) for r in records if r["type"] == "epoch"]


@pytest.mark.parametrize("kind", ["bundle", "checkpoint"])
def test_all_goes_on_with_optimizer_and_counters_on_other_data(earlier: Earlier, tmp_path: Path, kind: str) -> None:
    model = stacked(dense(5, "base"), dense(3, "head"))
    again = {"epochs": 4, "initial_state": {"from": "job_1", "restore": "all"}}
    spec = job(model=model, data={"source": numbers(30)}, training=again, metrics=["keras/SparseCategoricalAccuracy"])
    frames = attempt(spec, tmp_path, inputs=earlier.given(tmp_path, kind))
    assert frames[-1]["outcome"] == "succeeded", frames[-1]
    assert epochs_of(earlier.frames) == [(1, 6), (2, 12)]
    assert epochs_of(frames) == [(3, 15), (4, 18)], "epochs of three batches, counted on from the earlier job's"
    state = read_values(tmp_path / "bundle" / "training_state")
    iterations = next(name for name in state.values if name.startswith("optimizers/") and "iteration" in name)
    assert int(state.values[iterations]) == 18


@pytest.mark.slow
def test_parts_of_a_users_own_go_on_as_if_training_had_not_stopped(acme: Path, tmp_path: Path) -> None:
    """Optimizer, schedule, constraint, regularizer and initializer of the example: 1 epoch and 1 more are 2."""
    load_components([EXAMPLES / "optimizers" / "acme_optimizers.py"])
    spec = json.loads((EXAMPLES / "optimizers" / "own.json").read_text())
    spec["data"]["pipeline"].append({"op": "take", "count": 8})
    (tmp_path / "second").mkdir()
    (tmp_path / "whole").mkdir()
    first = Earlier(tmp_path, parse_spec({**spec, "training": {"epochs": 1}}))
    more = {"epochs": 2, "initial_state": {"from": "job_1", "restore": "all"}}
    given = first.given(tmp_path / "second")
    frames = attempt(parse_spec({**spec, "training": more}), tmp_path / "second", inputs=given)
    assert epochs_of(frames) == [(2, 16)]
    whole = Earlier(tmp_path / "whole", parse_spec({**spec, "training": {"epochs": 2}}))
    found = read_values(tmp_path / "second" / "bundle" / "training_state").values
    averages = [name for name in found if "average" in name]
    assert len(averages) == 4
    assert found.keys() == whole.state.values.keys()
    for name in [*averages, *(name for name in found if name.startswith("models/"))]:
        assert not np.array_equal(found[name], first.state.values[name]), name
        np.testing.assert_allclose(found[name], whole.state.values[name], atol=1e-6, err_msg=name)


def test_nothing_left_to_do_and_another_model_are_told(earlier: Earlier, tmp_path: Path) -> None:
    all_of_it = {"epochs": 2, "initial_state": {"from": "job_1", "restore": "all"}}
    model = stacked(dense(5, "base"), dense(3, "head"))
    (tmp_path / "a").mkdir()
    finish = attempt(job(model=model, training=all_of_it), tmp_path / "a", inputs=earlier.given(tmp_path / "a"))[-1]
    assert finish["failure"]["code"] == "invalid_spec"
    assert "has done 2, so 2 leave no training steps" in finish["failure"]["message"]
    (tmp_path / "b").mkdir()
    spec = job(model=mlp(), training={**all_of_it, "epochs": 3})
    finish = attempt(spec, tmp_path / "b", inputs=earlier.given(tmp_path / "b"))[-1]
    assert finish["failure"]["code"] == "invalid_spec"
    assert "does not match the state of this job" in finish["failure"]["message"]


def test_a_job_with_a_checkpoint_of_its_own_goes_on_from_that(earlier: Earlier, tmp_path: Path) -> None:
    model = stacked(dense(5, "base"), dense(3, "head"), initial_state={"from": "job_1"})
    spec = job(model=model, training={"epochs": 3, "checkpoint": {"every_steps": 10, "every_seconds": None, "keep": 9}})
    first = attempt(spec, tmp_path / "first", inputs=earlier.given(tmp_path / "first"))
    records = [f["record"] for f in first if f["type"] == "record"]
    (taken,) = [one["data"] for one in records if one.get("type") == "initial_state"]
    assert taken["layers"] == {"net/base": "net/base", "net/head": "net/head"}
    written = next(f["path"] for f in first if f["type"] == "checkpoint")
    second = attempt(
        spec, tmp_path / "second", attempt=2, inputs=[], resume=[{"path": str(tmp_path / "first" / written)}]
    )  # fmt: skip
    assert second[-1]["outcome"] == "succeeded", second[-1]
    assert second[-1]["metrics"] == first[-1]["metrics"]


def test_an_adapted_layer_resumes_with_what_it_learned(acme: Path, tmp_path: Path) -> None:
    normalized = {"component": "keras/Normalization", "config": {"name": "scaled"}}
    model = stacked(normalized, dense(3, "head"), adapt=[{"layer": "scaled"}])
    checkpoint = {"every_steps": 5, "every_seconds": None, "keep": 9}
    spec = job(model=model, training={"checkpoint": checkpoint})
    first = attempt(spec, tmp_path / "first")
    written = next(f["path"] for f in first if f["type"] == "checkpoint")
    second = attempt(spec, tmp_path / "second", attempt=2, resume=[{"path": str(tmp_path / "first" / written)}])
    assert (first[-1]["failure"], second[-1]["failure"]) == (None, None)
    assert second[-1]["metrics"] == first[-1]["metrics"]
    states = [read_values(tmp_path / name / "bundle" / "training_state").values for name in ("first", "second")]
    mean = next(name for name in states[0] if name.endswith("scaled/mean"))
    assert np.abs(states[0][mean]).max() > 0
    np.testing.assert_array_equal(states[0][mean], states[1][mean])


# ── pretrained ───────────────────────────────────────────────────────────────────────────────────


def test_a_pretrained_base_under_a_new_head(earlier: Earlier, tmp_path: Path, verify: Any) -> None:
    base = {"component": "pretrained", "config": {"from": "job_1", "until": "base", "trainable": False}}
    assembly = started(job(model=stacked(base, dense(2, "new"))), earlier, tmp_path)
    model = assembly.models["model"]
    assert len(model.trainable_variables) == 2
    kernel = earlier.values()["net/base/kernel"]
    np.testing.assert_array_equal(model.weights[0].numpy(), kernel)
    step = compile_train_step(assembly)
    step((BATCHES[0][0], BATCHES[0][1] % 2))
    np.testing.assert_array_equal(model.weights[0].numpy(), kernel)
    draft = exported(assembly, tmp_path / "bundle", data=[(BATCHES[0][0], BATCHES[0][1] % 2)])
    for verifier in ("reload", "certify"):
        answer = verify(verifier, draft.folder)
        assert answer["ok"], answer


def test_a_frozen_teacher_beside_its_student(earlier: Earlier, tmp_path: Path, verify: Any) -> None:
    models = {"target": {"component": "pretrained", "config": {"from": "job_1"}}, "online": mlp()}
    spec = job(
        model=None, models=models, optimizer=None, optimizers={"online": "keras/SGD"}, loss=None, step="lab/Target"
    )
    assembly = started(spec, earlier, tmp_path)
    teacher = assembly.models["target"]
    before = weights(teacher)
    compile_train_step(assembly)(BATCHES[0])
    for path, value in weights(teacher).items():
        np.testing.assert_array_equal(value, before[path])
    draft = exported(assembly, tmp_path / "bundle", data=BATCHES)
    assert draft.models == ["online"]
    answer = verify("certify", draft.folder)
    assert answer["ok"], answer


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"role": "critic"}, "'job_1' has no model 'critic'; its .keras models are: model"),
        ({"until": "bas"}, "until: 'bas' is not a layer of the model; its layers are base, head"),
    ],
)
def test_a_part_that_is_not_there_is_told(earlier: Earlier, tmp_path: Path, config: Any, message: str) -> None:
    with pytest.raises(JobFailure, match=message):
        started(job(model={"component": "pretrained", "config": {"from": "job_1", **config}}), earlier, tmp_path)


@pytest.mark.parametrize("damage", ["lambda", "path", "bomb", "not a zip"])
def test_a_model_file_that_could_do_harm_is_not_loaded(earlier: Earlier, tmp_path: Path, damage: str) -> None:
    with tarfile.open(earlier.bundle) as archive:
        archive.extractall(tmp_path / "content", filter="data")
    file = tmp_path / "content" / "models" / "model.keras"
    with zipfile.ZipFile(file) as original:
        entries = {name: original.read(name) for name in original.namelist()}
    if damage == "lambda":
        config = json.loads(entries["config.json"])
        code = {"class_name": "__lambda__", "config": {"value": "4wEAAAA"}}
        config["config"]["layers"][1] = {"class_name": "Lambda", "module": "keras.layers", "config": {"function": code}}
        entries["config.json"] = json.dumps(config).encode()
    elif damage == "path":
        entries["assets/../../evil"] = b"x"
    elif damage == "bomb":
        entries["assets/zeros"] = bytes(100 << 20)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as changed:
        for name, content in entries.items():
            changed.writestr(name, content)
    if damage == "not a zip":
        file.write_bytes(b"pickle")
    (tmp_path / "inputs").mkdir()
    with tarfile.open(tmp_path / "inputs" / "0.tar.gz", "w:gz") as packed:
        packed.add(tmp_path / "content", arcname=".")
    spec = job(model={"component": "pretrained", "config": {"from": "job_1"}})
    start = InitialState(inputs=job_inputs([{"from": "job_1", "kind": "bundle", "path": "inputs/0.tar.gz"}], tmp_path))
    with pytest.raises(JobFailure, match="is refused") as refused:
        assemble(spec, ELEMENT, start=start)
    assert refused.value.code == "invalid_data"
