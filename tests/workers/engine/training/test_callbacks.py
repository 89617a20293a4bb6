"""Callbacks in jobs: when they are called, what they may do, what survives a resume, what they leave."""

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tapeworks.components.loading import load_components
from tapeworks.errors import JobFailure
from tests.support.paths import LAB, ROOT
from tests.support.trainings import BATCH, attempt, job, prepared, trained

load_components([LAB / "epoch_parts.py"])

VALIDATED = {"validation": 0.2, "pipeline": [{**BATCH, "batch_size": 16}]}


def diary(**config: Any) -> dict[str, Any]:
    return {"component": "lab/Diary", "config": config}


def does(method: str, *arguments: Any) -> dict[str, Any]:
    return {"component": "lab/Does", "config": {"method": method, "arguments": list(arguments)}}


def test_epochs_and_reports(tmp_path: Path) -> None:
    spec = job(data=VALIDATED, callbacks=[diary()], training={"epochs": 3, "report_every_steps": 2})
    trained(spec, tmp_path)
    folder = tmp_path / "artifacts" / "diary"
    assert [(folder / f"epoch-{epoch}.txt").read_text() for epoch in (1, 2, 3)] == ["['loss', 'val_loss']"] * 3
    reports = (folder / "reports.txt").read_text().splitlines()
    assert reports == [f"{step} ['loss']" for step in (2, 4, 7, 9, 12, 14)]


@pytest.mark.slow
def test_a_callback_ends_the_training_well(tmp_path: Path) -> None:
    spec = job(callbacks=[diary(stop_at=2)], training={"epochs": 9})
    result = trained(spec, tmp_path / "first")
    assert [event["epoch"] for event in result.events("epoch")] == [1, 2]
    assert "A callback ended the training after epoch 2: it is enough" in str(result.events("note"))
    assert result.records("facts")[-1]["progress"]["total_steps"] == 20
    again = prepared(spec, tmp_path / "second", resume=result.checkpoints()[-1])
    again.training.train()
    assert again.events("epoch") == []


@pytest.mark.slow
def test_what_it_remembers_survives_a_resume(tmp_path: Path) -> None:
    spec = job(callbacks=[diary(), diary()], training={"epochs": 3, "checkpoint": {"every_steps": 5, "keep": 9}})
    first = trained(spec, tmp_path / "first")
    (after_15,) = (path for path in first.checkpoints() if "step-000000015" in path.name)
    again = trained(spec, tmp_path / "second", resume=after_15)
    assert again.training.counters.callbacks == [{"epochs": [1, 2, 3]}] * 2
    with pytest.raises(JobFailure, match=r"callbacks/0, 'lab/Diary': state\(\) must give a dict that JSON can hold"):
        trained(job(callbacks=[diary(remembers="a set")]), tmp_path / "third")


@pytest.mark.slow
def test_an_image_each_epoch_is_published_whatever_the_outcome(tmp_path: Path) -> None:
    frames = attempt(job(callbacks=["lab/Artist"], training={"epochs": 3}, export=None), tmp_path / "well")
    names = [f"artifacts/weights/epoch-{epoch:03d}.png" for epoch in (1, 2, 3)]
    assert (frames[-1]["outcome"], frames[-1]["files"]) == ("succeeded", names)
    image = (tmp_path / "well" / names[0]).read_bytes()
    assert image[:8] == bytes([0x89, *b"PNG", 13, 10, 26, 10])
    assert struct.unpack(">II", image[16:24]) == (8, 4)  # width, height: the weights of (4, 8)
    assert tf.io.decode_png(image).shape == (4, 8, 1)
    frames = attempt(job(callbacks=["lab/Artist", does("nothing")], training={"epochs": 3}), tmp_path / "badly")
    assert (frames[-1]["failure"]["code"], frames[-1]["files"]) == ("component_error", names[:1])
    assert "callbacks/1, 'lab/Does': AttributeError" in frames[-1]["failure"]["message"]


UNSAFE = [
    "/etc/passwd",
    "../outside",
    "a/../b",
    "a//b",
    "",
    ".hidden",
    "a b",
    "blackbox.tar",
    "model.tar.gz",
    "x" * 501,
]


@pytest.mark.slow
def test_paths_that_are_no_artifacts(tmp_path: Path) -> None:
    run = prepared(job(), tmp_path).assembly.run
    for path in UNSAFE:
        with pytest.raises(JobFailure) as caught:
            run.artifact(path)
        assert caught.value.code == "component_error"
    assert not (tmp_path / "artifacts").exists()


def test_files_have_a_limit(tmp_path: Path) -> None:
    fills = {"component": "lab/Fills", "config": {"size": 400}}
    spec = job(callbacks=[fills], training={"epochs": 5}, limits={"max_artifact_bytes": 1000}, export=None)
    frames = attempt(spec, tmp_path)
    assert frames[-1]["failure"]["code"] == "storage_full"
    assert not frames[-1]["failure"]["retryable"]
    assert frames[-1]["files"] == ["artifacts/1.bin", "artifacts/2.bin"]
    told = [f["record"]["data"] for f in frames if f["type"] == "record" and f["record"].get("type") == "diagnostic"]
    assert "leaves no room for 3.bin" in told[-1]["message"]


@pytest.mark.slow
def test_the_learning_rate(tmp_path: Path) -> None:
    result = trained(job(callbacks=[does("learning_rate", "model", 0.25)]), tmp_path / "set")
    assert result.assembly.run.learning_rate("model") == 0.25
    assert [note["message"] for note in result.events("note")] == [
        "lab/Does set the learning rate of optimizer 'model' from 0.001 to 0.25 after epoch 1."
    ]
    again = prepared(job(), tmp_path / "again", resume=None)
    assert again.assembly.run.learning_rate("model") == pytest.approx(0.001)
    schedule = {"component": "warmup_cosine", "config": {"peak": 0.1, "warmup_steps": 5, "decay_steps": 5}}
    scheduled = {"component": "keras/Adam", "config": {"learning_rate": schedule}}
    with pytest.raises(JobFailure, match="optimizer 'model', whose spec has a schedule") as caught:
        trained(job(optimizer=scheduled, callbacks=[does("learning_rate", "model", 0.25)]), tmp_path / "refused")
    assert caught.value.code == "invalid_spec"
    read = trained(job(optimizer=scheduled, training={"max_steps": 5, "epochs": None}), tmp_path / "read")
    assert read.assembly.run.learning_rate("model") == pytest.approx(0.1)
    for bad in (-1.0, float("nan")):
        with pytest.raises(JobFailure, match="cannot be a learning rate"):
            read.assembly.run.learning_rate("model", bad)


def test_a_step_may_not(tmp_path: Path) -> None:
    with pytest.raises(JobFailure, match=r"run.artifact is for evaluators and callbacks"):
        prepared(job(step="lab/Reaching", loss=None), tmp_path)


@pytest.mark.slow
def test_metrics_are_those_of_the_weights_that_are_exported(tmp_path: Path) -> None:
    # Without a good learning rate val_loss rises: the first epoch is the best.
    optimizer = {"component": "keras/SGD", "config": {"learning_rate": 3.0}}
    stopping = {"monitor": "val_loss", "patience": 2, "restore_best": True}
    training = {"epochs": 9, "early_stopping": stopping, "deterministic": True}
    frames = attempt(job(data=VALIDATED, optimizer=optimizer, training=training), tmp_path)
    finish = frames[-1]
    assert finish["outcome"] == "succeeded", finish["failure"]
    epochs = [f["record"]["data"] for f in frames if f["type"] == "record" and f["record"].get("type") == "epoch"]
    losses = [epoch["logs"]["val_loss"] for epoch in epochs]
    best = int(np.argmin(losses))
    assert best < len(losses) - 1
    assert finish["metrics"] == epochs[best]["logs"]
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    assert manifest["metrics"] == epochs[best]["logs"]


@pytest.mark.thorough
def test_memory_is_flat_over_many_epochs() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "memory.py"), "--steps", "2000", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    measured = json.loads(done.stdout.splitlines()[-1])
    assert measured["steps"] > 1900
    assert measured["growth_mb"] < 15, measured
