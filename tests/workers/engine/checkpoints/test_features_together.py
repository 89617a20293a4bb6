"""Parts of a job that were each tested alone, in one job: what one keeps must reach the other's checkpoint and box."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tapeworks.cli.main import app
from tapeworks.components.loading import load_components
from tapeworks.spec.job_spec import JobSpec
from tapeworks_workers.engine.checkpoints.files import opened
from tapeworks_workers.engine.checkpoints.snapshot import Snapshot
from tests.support.paths import LAB
from tests.support.trainings import SHUFFLE, attempt, job, numbers, trained

load_components([LAB / "epoch_parts.py"])

ADAM_EMA = {"component": "keras/Adam", "config": {"use_ema": True, "ema_momentum": 0.5}}


def layer(component: str, /, **config: Any) -> dict[str, Any]:
    return {"component": f"keras/{component}", "config": config}


def raw_text(**changes: Any) -> JobSpec:
    """Raw words and heights through layers that adapt, dropout, shuffle: 6 batches of at most 8, 5 of them full."""
    nodes = [
        {"name": "tokens", "layer": layer("TextVectorization", output_mode="multi_hot"), "from": "words"},
        {"name": "scaled", "layer": layer("Normalization"), "from": "height"},
        {"name": "both", "layer": layer("Concatenate"), "from": ["tokens", "scaled"]},
        {"name": "dropped", "layer": layer("Dropout", rate=0.3), "from": "both"},
        {"name": "logits", "layer": layer("Dense", units=3), "from": "dropped"},
    ]
    adapt = [{"layer": "tokens"}, {"layer": "scaled"}]
    model = {"component": "graph", "config": {"nodes": nodes, "outputs": "logits"}, "adapt": adapt}
    pipeline = [SHUFFLE, {"op": "batch", "batch_size": 8}]
    data = {"source": "lab/Described", "pipeline": pipeline, **changes.pop("data", {})}
    return job(data=data, model=model, **changes)


def checkpoints(frames: list[dict[str, Any]]) -> dict[int, str]:
    """Step → path of the last checkpoint there."""
    return {frame["step"]: frame["path"] for frame in frames if frame["type"] == "checkpoint"}


def read(path: Path) -> Snapshot:
    with opened(path) as (state, _):
        return state


@pytest.mark.slow
def test_all_that_has_state_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    """In the middle of an epoch and of the calls that are averaged, in float16, with averages and callbacks."""
    spec = raw_text(
        optimizer=ADAM_EMA,
        metrics=["keras/SparseCategoricalAccuracy"],
        gradients=[{"component": "gradient_norm"}, {"component": "noise", "config": {"eta": 0.01}}],
        callbacks=[
            "lab/Diary",
            {"component": "reduce_learning_rate", "config": {"monitor": "loss", "patience": 1, "min_delta": 10.0}},
        ],
        training={
            "epochs": 3, "deterministic": True, "precision": "mixed_float16", "gradient_accumulation": 4,
            "early_stopping": {"monitor": "loss", "patience": 9, "restore_best": True},
            "checkpoint": {"every_steps": 5, "every_seconds": None, "keep": 99},
        },
        export=None,
    )  # fmt: skip
    whole = attempt(spec, tmp_path / "whole")
    assert whole[-1]["outcome"] == "succeeded", whole[-1]
    saved = checkpoints(whole)
    middle = read(tmp_path / "whole" / saved[10])
    assert middle.counters["step_in_epoch"] == 4
    assert middle.values["run/accumulated/model/calls"] == 2
    assert middle.counters["callbacks"][0] == {"epochs": [1]}
    assert any(name.startswith("outside/model/tokens/") for name in middle.values)

    (tmp_path / "again").mkdir()
    (tmp_path / "whole" / saved[10]).rename(tmp_path / "again" / "resume.tar")
    again = attempt(spec, tmp_path / "again", attempt=2, resume=[{"path": "resume.tar"}])
    assert again[-1]["outcome"] == "succeeded", again[-1]
    expected = read(tmp_path / "whole" / saved[18])
    found = read(tmp_path / "again" / checkpoints(again)[18])
    assert found.counters == expected.counters
    assert list(found.values) == list(expected.values)
    assert [name for name, value in expected.values.items() if value.tobytes() != found.values[name].tobytes()] == []


@pytest.mark.slow
def test_a_black_box_of_layers_that_learned_replays(tmp_path: Path) -> None:
    sgd = {"component": "keras/SGD", "config": {"learning_rate": 1e38}}
    finish = attempt(raw_text(optimizer=sgd, training={"epochs": 9}), tmp_path)[-1]
    assert finish["failure"]["code"] == "non_finite"
    assert finish["files"] == ["artifacts/blackbox.tar"], finish["failure"]["message"]
    done = CliRunner().invoke(app, ["replay", str(tmp_path / "artifacts" / "blackbox.tar"), "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["reproduced"]
    assert report["found"]["location"]["component"] == "supervised"


@pytest.mark.slow
def test_a_validation_that_is_not_finite_leaves_a_bundle_that_is_certified(tmp_path: Path, verify: Any) -> None:
    """In half precision, with gradients that no step has used, and words and heights that the model learned."""
    source = {"component": "lab/Described", "config": {"last": "nan"}}
    data = {"source": source, "validation": {"fraction": 0.2, "split": "tail"}}
    best = {"monitor": "val_loss"}
    training = {"precision": "mixed_float16", "gradient_accumulation": 5, "checkpoint": {"best": best}}
    frames = attempt(raw_text(data=data, training=training), tmp_path)
    assert frames[-1]["outcome"] == "succeeded", frames[-1]["failure"]
    assert frames[-1]["metrics"]["val_loss"] == "NaN"
    for name in ("manifest.json", "training_state/state.json"):
        document = json.loads((tmp_path / "bundle" / name).read_text(), parse_constant=pytest.fail)
        assert document["counters"]["logs"]["val_loss"] == "NaN"
    for verifier in ("reload", "certify"):
        answer = verify(verifier, tmp_path / "bundle")
        assert answer["ok"], answer
    again = attempt(
        raw_text(data=data, training=training), tmp_path / "again", attempt=2,
        resume=[{"path": str(tmp_path / list(checkpoints(frames).values())[-1])}],
    )  # fmt: skip
    assert again[-1]["outcome"] == "succeeded", again[-1]["failure"]
    assert again[-1]["metrics"] == frames[-1]["metrics"]


@pytest.mark.parametrize("training", [{"epochs": 0}, {"epochs": 1, "gradient_accumulation": 100}])
def test_averages_of_an_optimizer_that_took_no_step_are_not_put_in_place(
    tmp_path: Path, training: dict[str, Any]
) -> None:
    data = {"source": numbers(40), "validation": 0.2}
    result = trained(job(data=data, optimizer=ADAM_EMA, training=training), tmp_path)
    kernels = [value for name, value in result.values().items() if name.startswith("models/") and "kernel" in name]
    assert kernels
    assert all(np.any(kernel) for kernel in kernels)
