"""A whole attempt, frame by frame."""

import json
from pathlib import Path
from typing import Any

import pytest

from tapeworks.schemas.jobs import State
from tests.support.trainings import BATCH, SHUFFLE, attempt, job, mlp, numbers

DIGITS = {
    "data": {"source": "digits", "validation": 0.2, "test": 0.1, "pipeline": [SHUFFLE, {**BATCH, "batch_size": 32}]},
    "model": mlp(10, hidden=[64], dropout=0.1),
    "loss": {"component": "focal", "config": {"gamma": 2.0}},
    "metrics": ["keras/SparseCategoricalAccuracy"],
    "training": {"epochs": 3, "checkpoint": {"every_steps": 30, "every_seconds": None}},
}


def records(frames: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [frame["record"] for frame in frames if frame["type"] == "record" and frame["record"]["record"] == kind]


def events(frames: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [record["data"] for record in records(frames, "event") if record["type"] == kind]


@pytest.mark.slow
def test_from_the_lease_to_the_finish(tmp_path: Path) -> None:
    frames = attempt(job(**DIGITS), tmp_path)
    finish = frames[-1]
    assert finish["outcome"] == "succeeded", finish["failure"]
    order = list(State)
    states = [order.index(State(record["state"])) for record in records(frames, "state")]
    assert states == sorted(states)
    assert [r["state"] for r in records(frames, "state")][-2:] == ["exporting", "verifying"]
    assert [frame["type"] for frame in frames if "id" in frame] == ["certify"]
    assert {"loss", "val_loss", "test_loss", "test_sparse_categorical_accuracy"} <= finish["metrics"].keys()
    assert finish["metrics"]["test_sparse_categorical_accuracy"] > 0.7
    assert [event["count"] for event in events(frames, "trace")] == [1, 1]
    assert events(frames, "rewound") == []
    assert (tmp_path / "bundle" / "models" / "model.keras").is_file()
    steps = [frame["step"] for frame in frames if frame["type"] == "checkpoint"]
    assert steps == [30, 60, 90, 120]
    (lineage,) = [facts["lineage"] for facts in records(frames, "facts") if "lineage" in facts]
    assert lineage["sources"]["training"]["files"]
    json.dumps(frames, allow_nan=False)


@pytest.mark.slow
def test_a_second_attempt_goes_on_from_a_checkpoint_that_loads(tmp_path: Path) -> None:
    spec = job(training={"epochs": 3, "checkpoint": {"every_steps": 12, "keep": 9}}, export=None)
    first, second = tmp_path / "first", tmp_path / "second"
    frames = attempt(spec, first)
    assert (frames[-1]["outcome"], frames[-1]["result"]) == ("succeeded", None)
    written = [frame for frame in frames if frame["type"] == "checkpoint"]
    broken = first / "broken.tar"
    broken.write_bytes(b"no tar")
    resume = [{"path": str(path)} for path in (broken, first / written[1]["path"], first / written[0]["path"])]
    frames = attempt(spec, second, attempt=2, resume=resume)
    assert frames[-1]["outcome"] == "succeeded"
    assert events(frames, "rewound") == [{"step": 24}]
    assert [told["code"] for told in events(frames, "diagnostic")] == ["checkpoint_corrupt"]
    assert [event["epoch"] for event in events(frames, "epoch")] == [3]


@pytest.mark.slow
def test_a_completed_training_is_only_exported(tmp_path: Path) -> None:
    spec = job(data={"test": 0.2})
    first = attempt(spec, tmp_path / "first")
    last = next(frame for frame in reversed(first) if frame["type"] == "checkpoint")
    again = attempt(spec, tmp_path / "second", attempt=2, resume=[{"path": str(tmp_path / "first" / last["path"])}])
    assert events(again, "epoch") == []
    assert again[-1]["outcome"] == "succeeded"
    assert again[-1]["metrics"] == first[-1]["metrics"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "code", "phase"),
    [
        ({"model": mlp(2)}, "invalid_data", "training"),
        ({"data": {"source": numbers(0)}}, "invalid_data", "building"),
        (
            {"step": {"component": "lab/Mistaken", "config": {"mistake": "numpy_in_graph"}}},
            "numpy_in_graph",
            "compiling",
        ),
        ({"training": {"epochs": 100_000}}, "timeout", "training"),
    ],
)
def test_a_failure_is_finished_with_its_code(tmp_path: Path, changes: dict[str, Any], code: str, phase: str) -> None:
    finish = attempt(job(**changes), tmp_path, timeout_seconds=1.0 if code == "timeout" else None)[-1]
    assert finish["outcome"] == "failed"
    assert (finish["failure"]["code"], finish["failure"]["phase"]) == (code, phase)
    assert finish["failure"]["hint"]
    assert finish["result"] is None


def test_a_start_frame_of_another_version_is_finished_with_a_failure(tmp_path: Path) -> None:
    (finish,) = attempt({"data": {}, "a_field_of_tomorrow": 1}, tmp_path)
    assert (finish["type"], finish["outcome"], finish["failure"]["phase"]) == ("finish", "failed", "starting")
    assert "a_field_of_tomorrow" in finish["failure"]["message"]


def test_evaluate_only(tmp_path: Path) -> None:
    frames = attempt(job(data={"validation": 0.2, "test": 0.2}, training={"epochs": 0}, export=None), tmp_path)
    assert frames[-1]["outcome"] == "succeeded"
    assert frames[-1]["metrics"].keys() == {"val_loss", "test_loss"}
