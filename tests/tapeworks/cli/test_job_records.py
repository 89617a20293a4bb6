"""`show`, `metrics`, `events`, `artifacts` and `compare`, of jobs that a worker reported by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.hand_worker import HandWorker, spec
from tests.tapeworks.cli.conftest import Tapeworks

HOSTILE = "\x1b]0;owned\x07\x9b2J\rfake\nline\u202e"
VERIFIED = {
    "reload": {
        "tolerance": 1e-5,
        "models": {"model": {"keras": {"outputs": {"elements": 1280, "bit_equal": True}, "weights": 4}}},
    },
    "certify": {"step": {"values": 99, "max_abs_difference": 2e-7}},
}


def harmless(shown: str) -> bool:
    return not any(character in shown for character in "\x1b\x07\x9b\r\u202e")


@pytest.fixture(scope="module")
def trained(hand: HandWorker) -> str:
    """A job that succeeded, with metrics of two kinds, a model and two files."""
    job = hand.submit(spec(name="trained", labels={"run": "a"}, training={"epochs": 2}))["id"]
    lease = hand.lease()
    lease.state("running", "training")
    for step in range(1, 31):
        lease.records({"record": "metric", "step": step, "values": {"loss": 1 / step}})
    lease.records(
        {"record": "metric", "step": 30, "values": {"val_loss": "NaN"}},
        {"record": "event", "type": "epoch", "data": {"epoch": 1, "step": 30, "logs": {"loss": 0.5}}},
        {"record": "facts", "progress": {"step": 30, "total_steps": 30, "epoch": 2},
         "lineage": {"device": {"kind": "gpu", "names": ["NVIDIA H200"]}}},
    )  # fmt: skip
    files = [lease.upload(f"files/{name}", name.encode()) for name in ("matrix.json", "notes.txt")]
    bundle = lease.upload("bundle.tar.gz", b"weights")
    published = {"bundle": bundle, "formats": ["keras"], "verified": VERIFIED}
    assert lease.finish("succeeded", published=published, files=files).status_code == 200
    return job


@pytest.fixture(scope="module")
def hostile(hand: HandWorker) -> str:
    """A failed job of which every text steers a terminal."""
    job = hand.submit(spec(name=HOSTILE, labels={HOSTILE: HOSTILE}))["id"]
    lease = hand.lease()
    lease.state("running")
    lease.records(
        {"record": "metric", "step": 1, "values": {HOSTILE: 1.0, "loss": 2.0}},
        {"record": "event", "type": HOSTILE[:60], "data": {HOSTILE: HOSTILE}},
        {"record": "log", "stream": "stdout", "text": HOSTILE},
        {"record": "facts", "diagnostics": {HOSTILE: HOSTILE}},
        {"record": "facts", "lineage": {"device": {"kind": "gpu", "names": [HOSTILE]}}},
    )  # fmt: skip
    prose = HOSTILE.replace("\n", "")  # a message may have several lines
    failure = {"code": "internal", "message": prose, "hint": prose, "traceback_tail": prose,
               "location": {"file": prose, "line": 3, "component": prose}}  # fmt: skip
    assert lease.finish("failed", failure=failure).status_code == 200
    return job


def words(text: str) -> str:
    return " ".join(text.split())


def test_show_says_what_became_of_a_job(tapeworks: Tapeworks, trained: str) -> None:
    shown = words(tapeworks("show", "trained").stdout)
    for part in (
        "trained succeeded", f"id {trained}", "labels run=a", "duration ", "progress step 30/30 epoch 2/2",
        "worker hand on NVIDIA H200", "val_loss nan", "loss 0.03333",
        "The model model was loaded as keras in a fresh process: outputs of 1280 values, equal bit by bit; 4 weight",
        "gave the same state as the original: 99 values, at most 2e-07 apart.", f"tapeworks download {trained}",
    ):  # fmt: skip
        assert part in shown, part
    assert json.loads(tapeworks("show", trained, "--json").stdout)["id"] == trained


def test_show_prints_a_failure_with_place_and_hint(tapeworks: Tapeworks, hand: HandWorker) -> None:
    job = hand.submit(spec(name="fails"))["id"]
    failure = {"code": "non_finite", "message": "the loss is NaN", "location": {"file": "acme.py", "line": 3}}
    hand.lease().finish("failed", failure=failure)
    shown = tapeworks("show", job).stdout
    assert "error: non_finite: the loss is NaN" in shown
    assert "at acme.py:3" in shown
    assert hand.job(job)["failure"]["hint"] in shown


def test_metrics_as_table_csv_and_curve(tapeworks: Tapeworks, trained: str) -> None:
    header, *rows = tapeworks("metrics", trained).stdout.splitlines()
    assert header.split() == ["STEP", "loss", "val_loss"]
    assert 2 < len(rows) <= 21
    assert rows[-1].split() == ["30", "0.03333", "nan"]
    assert len(tapeworks("metrics", trained, "--points", "5", "--name", "loss").stdout.splitlines()) == 6

    every = list(csv.DictReader(tapeworks("metrics", trained, "--csv").stdout.splitlines()))
    assert [int(row["step"]) for row in every] == list(range(1, 31))
    assert [float(row["loss"]) for row in every] == [1 / step for step in range(1, 31)]
    assert [row["val_loss"] for row in every] == [""] * 29 + ["nan"]

    plotted = tapeworks("metrics", trained, "--plot", "--name", "loss").stdout.splitlines()
    assert plotted[0] == "loss  last 0.03333  steps 1 to 30"
    assert plotted[1].split() == ["1", "█"]
    assert plotted[-1].split()[0] == "0.03333"
    series = json.loads(tapeworks("metrics", trained, "--json").stdout)
    assert {one["name"]: len(one["points"]) for one in series} == {"loss": 30, "val_loss": 1}
    assert "it has: loss, val_loss" in tapeworks("metrics", trained, "--name", "lss", expect=2).stderr
    tapeworks("metrics", trained, "--csv", "--plot", expect=2)


def test_events_are_lines(tapeworks: Tapeworks, trained: str) -> None:
    lines = tapeworks("events", trained).stdout.splitlines()
    assert lines[0].split()[1:] == ["0", "state", "state=queued"]
    (epoch,) = tapeworks("events", trained, "--type", "epoch", "--follow").stdout.splitlines()
    assert epoch.endswith('1  epoch  epoch=1 step=30 logs={"loss": 0.5}')
    objects = [json.loads(line) for line in tapeworks("events", trained, "--json").stdout.splitlines()]
    assert [one["seq"] for one in objects] == list(range(1, len(lines) + 1))


def test_artifacts_are_listed_and_downloaded(tapeworks: Tapeworks, trained: str, tmp_path: Path) -> None:
    listed = tapeworks("artifacts", trained).stdout
    assert "files/matrix.json" in listed
    assert tapeworks("artifacts", trained, "matrix.json", "-o", str(tmp_path)).stdout == f"{tmp_path / 'matrix.json'}\n"
    assert (tmp_path / "matrix.json").read_text() == "matrix.json"
    told = json.loads(tapeworks("artifacts", trained, "files/notes.txt", "-o", str(tmp_path / "n"), "--json").stdout)
    assert (told["artifact"], told["bytes"]) == ("files/notes.txt", 9)
    assert "not_found" in tapeworks("artifacts", trained, "nothing.png", expect=5).stderr
    tapeworks("artifacts", trained, "notes.txt", "-o", str(tmp_path / "no" / "folder"), expect=2)


def test_jobs_are_compared_by_what_differs(tapeworks: Tapeworks, hand: HandWorker, trained: str) -> None:
    other = hand.submit(spec(name="wider", model={"component": "mlp", "config": {"hidden": [64, 64], "outputs": 10}}))[
        "id"
    ]
    rows = {line.split()[0]: line.split()[1:] for line in tapeworks("compare", "trained", other).stdout.splitlines()}
    assert rows["id"] == [trained, other]
    assert rows["models.model.config.hidden"] == ["[64]", "[64,", "64]"]
    assert rows["training.epochs"] == ["2", "5"]
    assert rows["loss"] == ["0.03333"]
    assert not {"name", "labels.run", "seed"} & set(rows)
    told: dict[str, Any] = json.loads(tapeworks("compare", trained, other, "--json").stdout)
    assert told["jobs"] == [trained, other]
    assert told["parameters"]["training.epochs"] == [2, 5]
    assert told["metrics"]["val_loss"] == ["NaN", None]
    assert "do not differ" in tapeworks("compare", trained, trained).stdout
    tapeworks("compare", trained, expect=2)


@pytest.mark.parametrize("command", [
    ["show"], ["metrics"], ["metrics", "--csv"], ["metrics", "--plot"], ["events"], ["logs"], ["artifacts"],
    ["compare"], ["watch"], ["jobs"],
], ids=" ".join)  # fmt: skip
def test_no_text_of_a_job_reaches_the_terminal_raw(tapeworks: Tapeworks, hostile: str, command: list[str]) -> None:
    ids = {"compare": [hostile, hostile], "jobs": []}.get(command[0], [hostile])
    for options in [[], [] if "--csv" in command or "--plot" in command else ["--json"]]:
        done = tapeworks(command[0], *ids, *command[1:], *options, expect=1 if command[0] == "watch" else 0)
        assert harmless(done.stdout + done.stderr), repr(done.stdout)
        if command[0] != "logs":  # a log is lines as they were printed
            assert not any(line.lstrip().startswith("line") for line in done.stdout.splitlines()), done.stdout
