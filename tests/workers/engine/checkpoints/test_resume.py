"""Checkpoints: what a resumed training does is what the one that never stopped did, to the last bit."""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework.config import disable_op_determinism

from tapeworks.errors import JobFailure
from tapeworks_workers.engine import runtime
from tapeworks_workers.engine.checkpoints.files import CheckpointFiles, opened
from tapeworks_workers.engine.checkpoints.snapshot import Snapshot, read_values, write_values
from tapeworks_workers.engine.step.state import restore, snapshot
from tests.support.trainings import BATCH, SHUFFLE, Trained, job, mlp, numbers, prepared, trained
from tests.workers.engine.training.test_training import gan


@pytest.fixture
def deterministic() -> Iterator[None]:
    """What a runner sets for a deterministic job; a test process must take it back."""
    runtime.prepare(job(training={"deterministic": True}))
    yield
    disable_op_determinism()


def noisy(**changes: Any) -> Any:
    """Dropout, shuffle, random augmentation, validation, early stopping."""
    jitter = {"op": "map", "function": "lab/Jitter", "training_only": True}
    training = {"deterministic": True, "epochs": 3, "checkpoint": {"every_steps": 5, "every_seconds": None, "keep": 99}}
    training["early_stopping"] = {"monitor": "val_loss", "patience": 5}
    return job(
        data={"source": numbers(95), "validation": 0.2, "pipeline": [SHUFFLE, jitter, BATCH]},
        model=mlp(dropout=0.4),
        metrics=["keras/SparseCategoricalAccuracy"],
        training={**training, **changes.pop("training", {})},
        **changes,
    )


def assert_same(first: Trained, second: Trained) -> None:
    expected, found = first.values(), second.values()
    assert list(expected) == list(found)
    assert [name for name in expected if expected[name].tobytes() != found[name].tobytes()] == []
    assert first.training.counters == second.training.counters


@pytest.mark.slow
@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("at", [5, 8, 15])
def test_a_resumed_training_ends_with_the_same_bytes(tmp_path: Path, at: int) -> None:
    every = {"every_steps": at, "every_seconds": None, "keep": 99}
    spec = noisy(training={"checkpoint": every})
    whole = trained(spec, tmp_path / "whole")
    checkpoint = whole.checkpoints()[0]
    with opened(checkpoint) as (state, _):
        assert state.counters["step"] == at
    resumed = trained(spec, tmp_path / "resumed", resume=checkpoint)
    assert_same(whole, resumed)
    assert resumed.history("val_loss") == whole.history("val_loss")[-len(resumed.history("val_loss")) :]
    assert resumed.history("loss") == whole.history("loss")[-len(resumed.history("loss")) :]


@pytest.mark.usefixtures("deterministic")
def test_metrics_that_their_first_update_builds_go_on_within_an_epoch(tmp_path: Path) -> None:
    spec = job(
        data={"source": numbers(95, form="onehot"), "validation": 0.2, "pipeline": [BATCH]},
        loss={"component": "keras/CategoricalCrossentropy", "config": {"from_logits": True}},
        metrics=["keras/F1Score", "keras/R2Score"],
        training={"deterministic": True, "checkpoint": {"every_steps": 3, "every_seconds": None, "keep": 99}},
    )
    whole = trained(spec, tmp_path / "whole")
    resumed = trained(spec, tmp_path / "resumed", resume=whole.checkpoints()[0])
    assert whole.events("trace")[0]["count"] == 1
    for name in ("f1_score_0", "r2_score"):
        assert resumed.history(name) == whole.history(name)
    assert_same(whole, resumed)


@pytest.mark.slow
@pytest.mark.usefixtures("deterministic")
def test_a_custom_step_resumes_with_its_noise_and_its_own_variables(tmp_path: Path) -> None:
    spec = gan(epochs=2, deterministic=True, checkpoint={"every_steps": 7, "every_seconds": None, "keep": 99})
    whole = trained(spec, tmp_path / "whole")
    assert_same(whole, trained(spec, tmp_path / "resumed", resume=whole.checkpoints()[0]))


@pytest.mark.slow
def test_a_pipeline_that_cannot_be_saved_is_skipped_to(tmp_path: Path) -> None:
    every = {"every_steps": 7, "every_seconds": None, "keep": 99}
    spec = job(data={"source": numbers(95, "generator")}, training={"checkpoint": every})
    whole = trained(spec, tmp_path / "whole")
    assert len(whole.events("note")) == 1
    assert_same(whole, trained(spec, tmp_path / "resumed", resume=whole.checkpoints()[0]))


@pytest.mark.slow
def test_a_resumed_training_says_once_that_it_trains(tmp_path: Path) -> None:
    spec = noisy(training={"checkpoint": {"every_steps": 8, "every_seconds": None, "keep": 99}})
    first = trained(spec, tmp_path / "first")
    for one in (first, trained(spec, tmp_path / "resumed", resume=first.checkpoints()[1])):
        assert [record["phase"] for record in one.records("state")].count("training") == 1


@pytest.mark.slow
def test_a_finished_training_goes_straight_on(tmp_path: Path) -> None:
    whole = trained(noisy(), tmp_path / "whole")
    last = whole.checkpoints()[-1]
    again = trained(noisy(), tmp_path / "again", resume=last)
    assert again.training.counters.complete
    assert again.checkpoints() == []
    assert again.events("epoch") == []
    assert_same(whole, again)


@pytest.mark.slow
def test_restored_best_weights_survive_a_resume(tmp_path: Path) -> None:
    sgd = {"component": "keras/SGD", "config": {"learning_rate": 3.0}}
    stopping = {"monitor": "val_loss", "patience": 3}
    spec = noisy(optimizer=sgd, training={"epochs": 30, "early_stopping": stopping})
    whole = trained(spec, tmp_path / "whole")
    later = next(path for path in whole.checkpoints() if _step(path) > 8)
    assert_same(whole, trained(spec, tmp_path / "resumed", resume=later))


@pytest.mark.slow
@pytest.mark.usefixtures("deterministic")
def test_a_best_checkpoint_holds_the_verdict_on_its_epoch(tmp_path: Path) -> None:
    sgd = {"component": "keras/SGD", "config": {"learning_rate": 0.1}}
    training = {
        "epochs": 30,
        "early_stopping": {"monitor": "val_loss", "mode": "max", "patience": 2},  # falls, so the first is best
        "checkpoint": {"every_seconds": None, "keep": 99, "best": {"monitor": "val_loss"}},
    }
    spec = noisy(optimizer=sgd, training=training)
    whole = trained(spec, tmp_path / "whole")
    assert len(whole.events("epoch")) == 3
    best = [path for path in whole.checkpoints() if "best" in path.name]
    assert [_step(path) for path in best] == [8, 16, 24]
    for checkpoint in best:
        again = trained(spec, tmp_path / checkpoint.stem, resume=checkpoint)
        assert_same(whole, again)
        assert len(again.events("epoch")) == 3 - _step(checkpoint) // 8


def _step(path: Path) -> int:
    return int(path.name.split("-")[1].split(".")[0])


def test_best_checkpoints_are_marked_and_kept(tmp_path: Path) -> None:
    best = {"monitor": "loss", "mode": "max"}  # the first epoch
    checkpoint = {"every_steps": 4, "every_seconds": None, "keep": 2, "best": best}
    result = trained(job(training={"checkpoint": checkpoint, "epochs": 3}), tmp_path)
    announced = [frame for frame in result.frames if frame["type"] == "checkpoint"]
    assert [frame["step"] for frame in announced if frame["best"]] == [10]
    assert all("loss" in frame["metrics"] for frame in announced if frame["epoch"])
    assert [path.exists() for path in result.checkpoints()].count(True) == 3
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.startswith(".")) == []


def test_values_come_back_as_they_were(tmp_path: Path) -> None:
    values = {
        "a/b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "scalar": np.array(3, np.int64),
        "half": np.asarray(tf.constant([1.5, -2.0], tf.bfloat16)),
        "flag": np.array([True, False]),
        "empty": np.zeros((0, 2), np.float64),
    }
    for name in ("one", "two"):
        write_values(Snapshot(values, {"step": 3}), tmp_path / name)
    back = read_values(tmp_path / "one")
    assert back.counters == {"step": 3}
    for name, value in values.items():
        assert (back.values[name].dtype, back.values[name].shape) == (value.dtype, value.shape)
        assert back.values[name].tobytes() == value.tobytes()
    assert (tmp_path / "one" / "values.npz").read_bytes() == (tmp_path / "two" / "values.npz").read_bytes()


@pytest.mark.parametrize("damage", ["missing", "unknown", "shape", "dtype"])
def test_a_snapshot_of_another_job_is_refused_whole(tmp_path: Path, damage: str) -> None:
    parts = prepared(job(), tmp_path).assembly
    state = snapshot(parts, {})
    before = {name: variable.numpy() for name, variable in parts.variables().items()}
    name = next(name for name in state.values if name.endswith("kernel"))
    for value in state.values.values():
        value += 1  # what must not get in
    if damage == "missing":
        del state.values[name]
    elif damage == "unknown":
        state.values["models/critic/0/kernel"] = np.zeros(2)
    elif damage == "shape":
        state.values[name] = state.values[name][:-1]
    else:
        state.values[name] = state.values[name].astype(np.float64)
    with pytest.raises(JobFailure, match="critic" if damage == "unknown" else name) as caught:
        restore(parts, state)
    assert caught.value.code == "checkpoint_corrupt"
    for key, variable in parts.variables().items():
        np.testing.assert_array_equal(variable.numpy(), before[key])


@pytest.mark.parametrize("damage", ["cut", "empty", "no values"])
def test_a_damaged_file_is_checkpoint_corrupt(tmp_path: Path, damage: str) -> None:
    files = CheckpointFiles(tmp_path, keep=1)
    state = Snapshot({"a": np.zeros(10_000)}, {})
    path = tmp_path / files.begin(state, step=1, best=False, extra=lambda folder: None)()
    match damage:
        case "cut":
            path.write_bytes(path.read_bytes()[:20_000])
        case "empty":
            path.write_bytes(b"")
        case "no values":
            with tarfile.open(path, "w"):
                pass
    with pytest.raises(JobFailure) as caught, opened(path):
        pass
    assert caught.value.code == "checkpoint_corrupt"
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_batch_size_one_steps(tmp_path: Path) -> None:
    spec = job(data={"source": numbers(7), "pipeline": [{**BATCH, "batch_size": 1}]}, training={"epochs": 1})
    assert trained(spec, tmp_path).training.counters.step == 7
