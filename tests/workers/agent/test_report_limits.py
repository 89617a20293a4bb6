"""A runner that reports too much, or what no runner may send: its attempt is bounded, its agent works on."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tapeworks.schemas.report_limits import LIMITS, MAX_FILE_LIST_BYTES
from tapeworks_workers.agent.report_quota import Allowance
from tapeworks_workers.engine.artifacts import Artifacts
from tests.support.agent_stage import Stage
from tests.workers.conftest import running_service

SMALL = replace(LIMITS, events=1_000, event_bytes=1 << 20, points=100, log_lines=50, verifications=4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("act", "what"),
    [
        ("announces_a_huge_frame", "a frame of 62914560 bytes was announced, at most 1048576 are allowed"),
        ("floods_with_events", "quota of events: 1001 of 1000"),
        ("floods_with_bytes", "quota of event bytes"),
        ("floods_with_verifications", "quota of verifications: 5 of 4"),
    ],
)
def test_what_exceeds_a_quota_ends_the_attempt(stage: Stage, act: str, what: str) -> None:
    job = stage.play(act, report=SMALL)
    assert (job["state"], job["failure"]["code"]) == ("failed", "quota_exceeded")
    assert not job["failure"]["retryable"]
    assert what in job["failure"]["message"]


def test_what_the_service_refuses_ends_the_attempt_with_its_own_code(stage: Stage, tmp_path: Path) -> None:
    with running_service(tmp_path, lease_seconds=120, settings={"MAX_JOB_EVENTS": "500"}) as service:
        job = replace(stage, service=service).play("floods_with_events", report=replace(LIMITS, events=5_000))
        assert (job["state"], job["failure"]["code"]) == ("failed", "quota_exceeded")
        assert "of 500" in job["failure"]["message"]


def test_frames_that_are_not_valid_are_noted_and_the_job_continues(stage: Stage) -> None:
    job = stage.play("sends_what_is_no_frame")
    assert job["state"] == "succeeded", job["failure"]
    notes = [note["message"] for note in stage.notes(job)]
    assert len(notes) == 11
    assert all("not valid" in message for message in notes)


def test_points_and_lines_beyond_their_quota_are_dropped_with_a_diagnostic(stage: Stage) -> None:
    job = stage.play("floods_with_points", report=SMALL)
    assert job["state"] == "succeeded", job["failure"]
    (series,) = stage.service.data(f"/v1/jobs/{job['id']}/metrics")
    assert len(series["points"]) == SMALL.points
    assert len(stage.service.data(f"/v1/jobs/{job['id']}/logs")) == SMALL.log_lines
    told = [note["message"] for note in stage.notes(job) if note.get("code") == "quota_exceeded"]
    assert sorted(message.split(":")[0].rpartition(" of ")[2] for message in told) == ["log lines", "points"]
    assert "the last one" in [note["message"] for note in stage.notes(job)]


def test_checkpoints_wait_in_a_short_queue_and_the_newest_and_the_best_are_uploaded(stage: Stage) -> None:
    before = len(os.listdir("/proc/self/fd"))
    job = stage.play("floods_with_checkpoints")
    assert job["state"] == "succeeded", job["failure"]
    assert job["checkpoints"]["latest"]["step"] == 300
    assert job["checkpoints"]["best"]["step"] == 100
    superseded = [note for note in stage.notes(job) if "newer ones" in note["message"]]
    assert superseded
    assert len(os.listdir("/proc/self/fd")) <= before + 4


@pytest.mark.thorough
def test_a_runner_that_stays_after_its_finish_frame_is_ended(stage: Stage) -> None:
    job = stage.play("stays_after_its_finish")
    assert job["state"] == "succeeded", job["failure"]


def test_the_list_of_further_files_fits_into_the_request_that_ends_an_attempt(tmp_path: Path) -> None:
    (tmp_path / "artifacts").mkdir()
    for number in range(5_000):
        (tmp_path / "artifacts" / f"{number}.txt").touch()
    kept, left_out = Artifacts(tmp_path).published()
    assert len(kept) + len(left_out) == 5_000
    assert len(kept) * 200 < MAX_FILE_LIST_BYTES < (len(kept) + 100) * 210


def test_an_allowance_is_earned_again_and_never_exceeds_what_may_come_at_once() -> None:
    now = [0.0]
    allowance = Allowance(10, 100, lambda: now[0])
    assert allowance.take(100) == 0
    assert allowance.take(20) == pytest.approx(2)
    now[0] += 1_000
    assert allowance.take(100) == 0
    assert allowance.take(1) == pytest.approx(0.1)
