"""A step that is not finite: the job stops there, and its black box replays it."""

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tapeworks.cli.main import app
from tapeworks.components.loading import load_components
from tapeworks.errors import JobFailure
from tapeworks_workers.engine.checkpoints.snapshot import read_values
from tests.support.paths import LAB
from tests.support.trainings import SHUFFLE, Trained, attempt, job, prepared, trained

PARTS = LAB / "epoch_parts.py"
load_components([PARTS])

BATCH = {"op": "batch", "batch_size": 8}
"""13 batches of 100 elements, the last one short: step 137 is the seventh of epoch 11."""


def diverging(at: int = 137, **changes: Any) -> Any:
    step = {"component": "lab/LogOfNegative", "config": {"at": at}}
    training = {"epochs": 20, "deterministic": True, "seed": 5, **changes.pop("training", {})}
    data = {"pipeline": [SHUFFLE, BATCH]}
    return job(data=data, step=step, loss=None, training=training, **changes)


def box(folder: Path, into: Path) -> dict[str, Any]:
    with tarfile.open(folder / "artifacts" / "blackbox.tar") as archive:
        archive.extractall(into, filter="data")
    return json.loads((into / "black_box.json").read_text())


@pytest.fixture(scope="module")
def blown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, JobFailure]:
    """The job that meets a NaN at step 137."""
    result = prepared(diverging(), tmp_path_factory.mktemp("blown"))
    with pytest.raises(JobFailure) as caught:
        result.training.train()
    return result, caught.value


def test_the_job_stops_at_the_step(blown: tuple[Trained, JobFailure]) -> None:
    result, failure = blown
    assert failure.code == "non_finite"
    assert failure.message.startswith("not finite at step 137: loss is nan. Its batch and the state before it are in")
    assert result.training.counters.step == 137
    assert result.records("facts")[-1]["progress"]["step"] == 137


def test_the_box_holds_the_state_and_the_batch_before_it(blown: tuple[Trained, JobFailure], tmp_path: Path) -> None:
    document = box(blown[0].folder, tmp_path)
    assert (document["step"], document["epoch"], document["reproduced"]) == (137, 11, True)
    before = read_values(tmp_path / "training_state")
    assert before.values["run/step"] == 136
    # An untroubled job that ends there has the same bytes, and takes the same batch next.
    same = trained(diverging(training={"epochs": None, "max_steps": 136}), tmp_path / "same")
    values = same.values()
    assert values.keys() == before.values.keys()
    unequal = [name for name in values if not np.array_equal(values[name], before.values[name])]
    assert unequal == []
    wanted = next(iter(same.data.training.dataset(10).skip(6)))
    with np.load(tmp_path / "batch.npz") as stored:
        np.testing.assert_array_equal(stored["0"], wanted[0])
        np.testing.assert_array_equal(stored["1"], wanted[1])
    assert document["gradient_norms"].keys() == {f"model/{variable.path}" for variable in same.assembly.owned["model"]}
    assert set(document["gradient_norms"].values()) == {"nan"}
    assert (tmp_path / "components" / "epoch_parts.py").read_text() == PARTS.read_text()


@pytest.mark.slow
def test_replay_names_the_operation_and_the_line(blown: tuple[Trained, JobFailure]) -> None:
    file = str(blown[0].folder / "artifacts" / "blackbox.tar")
    done = CliRunner().invoke(app, ["replay", file, "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["reproduced"]
    assert report["scalars"] == {"loss": "nan"}
    found = report["found"]
    assert found["operation"] == "Log"
    line = next(number for number, text in enumerate(PARTS.read_text().splitlines(), 1) if "tf.math.log(" in text)
    assert (found["location"]["file"], found["location"]["line"]) == ("components/epoch_parts.py", line)
    assert found["location"]["component"] == "lab/LogOfNegative"
    assert "tf.math.log(left)" in found["location"]["code"]


def test_what_is_no_black_box(tmp_path: Path) -> None:
    (tmp_path / "text.tar").write_text("nothing")
    with tarfile.open(tmp_path / "other.tar", "w") as archive:
        archive.add(tmp_path / "text.tar", "text")
    for file in ("text.tar", "other.tar"):
        assert CliRunner().invoke(app, ["replay", str(tmp_path / file)]).exit_code == 8
    assert CliRunner().invoke(app, ["replay", str(tmp_path / "missing.tar")]).exit_code == 2


@pytest.mark.slow
@pytest.mark.parametrize(("plan", "at", "epoch"), [("steps", 28, 3), ("eager", 28, 3), ("eager", 2, 1)])
def test_other_plans_and_epochs_across_passes(tmp_path: Path, plan: str, at: int, epoch: int) -> None:
    execution = {"plan": plan, "steps_per_call": 5}
    training = {"steps_per_epoch": 10, "execution": execution}
    with pytest.raises(JobFailure, match=f"not finite at step {at}: loss is nan"):
        trained(diverging(at, training=training), tmp_path)
    document = box(tmp_path, tmp_path / "box")
    assert (document["step"], document["epoch"], document["reproduced"]) == (at, epoch, True)


@pytest.mark.slow
def test_a_gradient_alone(tmp_path: Path) -> None:
    step = {"component": "lab/Diverging", "config": {"at": 3, "what": "gradient"}}
    with pytest.raises(JobFailure, match="not finite at step 3"):
        trained(job(step=step, loss=None, training={"max_steps": 3, "epochs": None}), tmp_path)
    assert set(box(tmp_path, tmp_path / "box")["gradient_norms"].values()) == {"nan"}


@pytest.mark.slow
def test_a_resumed_job_records_too_and_the_finish_lists_the_box(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    saved = trained(diverging(training={"checkpoint": {"every_steps": 9}, "epochs": None, "max_steps": 25}), first)
    at_18 = next(path for path in saved.checkpoints() if "18-" in path.name)
    spec = diverging(24, training={"checkpoint": {"every_steps": 9}, "epochs": None, "max_steps": 25})
    frames = attempt(spec, second, attempt=2, resume=[{"path": str(at_18)}])
    finish = frames[-1]
    assert finish["failure"]["code"] == "non_finite"
    assert "step 24" in finish["failure"]["message"]
    assert finish["files"] == ["artifacts/blackbox.tar"]
    assert box(second, tmp_path / "box")["reproduced"]
