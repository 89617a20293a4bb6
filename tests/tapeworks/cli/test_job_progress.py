"""How a job looks while it runs."""

import io
import json
from typing import Any

import pytest
from rich.console import Console

from tapeworks.cli.console import out, table
from tapeworks.cli.jobs import progress as job_progress
from tapeworks.schemas.jobs import Job
from tests.support import service_answers as answers


def job(state: str, **fields: Any) -> Job:
    return Job.model_validate_json(json.dumps(answers.job(state, **fields)))


RUNNING = {
    "phase": "training",
    "attempt": 1,
    "progress": {"step": 50, "total_steps": 200, "epoch": 1, "epochs": 4, "eta_seconds": 95.0},
    "metrics": {"loss": 0.51239, "val_loss": "NaN"},
}


def shown(console: Console, *jobs: Job) -> str:
    with job_progress.display(console, [1.0, 0.8]) as show:
        for one in jobs:
            show(one)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_without_a_terminal_a_change_is_a_line() -> None:
    running = job("running", **RUNNING)
    console = Console(file=io.StringIO(), soft_wrap=True)
    lines = shown(console, job("queued"), running, running, job("succeeded", **RUNNING)).splitlines()
    assert lines == [
        "job_1  queued",
        "job_1  running  training  step 50/200  epoch 1/4  ETA about 1:40  loss=0.5124  val_loss=nan",
        "job_1  succeeded  training  step 50/200  epoch 1/4  loss=0.5124  val_loss=nan",
    ]


def test_a_terminal_shows_bar_eta_metrics_and_curve() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    text = shown(console, job("running", **RUNNING))
    for part in ("running", "step 50/200", "epoch 1/4", "ETA about 1:40", "loss 0.5124", "loss █", "━"):
        assert part in text


def test_a_failure_is_told_with_its_hint() -> None:
    failure = {"code": "non_finite", "message": "the loss is NaN at step 3", "hint": "Lower it."}
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    text = shown(console, job("failed", failure=failure))
    assert "non_finite: the loss is NaN at step 3" in text
    assert "Lower it." in text


def test_a_queued_job_that_fits_nowhere_says_why() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    assert "no GPU" in shown(console, job("queued", unschedulable={"reason": "no GPU"}))
    plain = Console(file=io.StringIO(), soft_wrap=True)
    lines = shown(plain, job("queued"), job("queued", unschedulable={"reason": "no GPU"})).splitlines()
    assert lines == ["job_1  queued", "job_1  queued  waits: no GPU"]


def test_a_table_in_a_pipe_keeps_its_rows_whole(capsys: pytest.CaptureFixture[str]) -> None:
    rows = table("ID", "NAME", "STATE")
    rows.add_row("job_01a20a779b387031a9aaefb13284bb3f", "a name of many words " * 5, "succeeded")
    out().print(rows)
    _, row = capsys.readouterr().out.splitlines()
    assert row.split()[0] == "job_01a20a779b387031a9aaefb13284bb3f"
    assert row.split()[-1] == "succeeded"


def test_a_sparkline_has_its_own_range_and_ends_with_the_last_value() -> None:
    assert job_progress.sparkline([0.0, 1.0]) == "▁█"
    assert job_progress.sparkline([3.0, 3.0]) == "▁▁"
    assert job_progress.sparkline([0.0, float("nan"), 7.0]) == "▁×█"
    falling = job_progress.sparkline([float(-n) for n in range(1000)], width=10)
    assert len(falling) == 10
    assert (falling[0], falling[-1]) == ("█", "▁")


def test_durations_are_for_people() -> None:
    assert [job_progress.duration(s) for s in (0.4, 42, 185, 3729)] == ["0 s", "42 s", "3:05", "1:02:09"]


def test_the_time_left_is_rounded() -> None:
    shown = [job_progress.about(seconds) for seconds in (0, 4.9, 42, 58, 186, 3729)]
    assert shown == ["a few seconds", "a few seconds", "about 45 s", "about 1:00", "about 3:10", "about 1:02:00"]
