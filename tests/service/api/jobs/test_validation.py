"""Validation by tracing: a job of its own kind, from POST to what the command shows."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tapeworks.client.client import Client
from tapeworks.schemas.jobs import JobKind, State
from tests.support.hand_worker import SPEC, HandWorker, spec

RESULT: dict[str, Any] = {
    "models": {"model": {"parameters": 4810, "trainable": 4700}},
    "plan": {"name": "loop", "steps_per_second": 210.5},
    "quote": {"seconds": [4.5, 61], "steps": 225},
}


def trace(api: httpx.Client, document: dict[str, Any] | None = None, **headers: str) -> httpx.Response:
    return api.post("/v1/jobs/validate", params={"trace": "true"}, json=document or SPEC, headers=headers)


def inspected(worker: HandWorker, result: dict[str, Any]) -> None:
    """Take the job whose turn it is, and end it with a result."""
    lease = worker.lease(wait=30)
    assert lease.lease["kind"] == "validate"
    lease.state("running")
    told = lease.finish("succeeded", published={"result": result})
    assert told.status_code == 200, told.text


def test_a_validation_is_a_job_of_its_own_kind(api: httpx.Client, worker: HandWorker) -> None:
    training = worker.submit()
    made = trace(api)
    assert made.status_code == 202, made.text
    job = made.json()
    assert made.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert (job["kind"], job["state"], job["priority"], job["max_attempts"]) == ("validate", "queued", 10, 2)
    listed = [one["id"] for one in api.get("/v1/jobs", params={"limit": 200}).json()["data"]]
    assert training["id"] in listed
    assert job["id"] not in listed
    newest = api.get("/v1/jobs", params={"kind": "validate", "limit": 1}).json()["data"]
    assert [one["id"] for one in newest] == [job["id"]]
    inspected(worker, RESULT)  # before the job that came first
    job = worker.job(job["id"])
    assert job["result"] == RESULT
    assert [step["state"] for step in job["transitions"]] == ["queued", "starting", "running", "succeeded"]
    assert job["model"] is None
    assert api.get(f"/v1/jobs/{job['id']}/artifacts").json()["data"] == []
    refused = api.post("/v1/jobs", json=spec(training={"initial_state": {"from": job["id"]}}))
    assert "kind validate" in refused.json()["errors"][0]["message"]


def test_its_limits_are_no_longer_than_those_of_the_spec(api: httpx.Client, worker: HandWorker) -> None:
    limits = {"max_attempts": 1, "timeout_seconds": 30}
    job = trace(api, spec(priority=95, limits=limits)).json()
    assert (job["priority"], job["max_attempts"]) == (100, 1)
    assert 0 < worker.lease().lease["timeout_seconds"] <= 30
    trace(api)
    assert 0 < worker.lease().lease["timeout_seconds"] <= 600


def test_what_submitting_would_refuse_is_refused_first(api: httpx.Client, worker: HandWorker) -> None:
    answer = trace(api, spec(model="mlpp"))
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/model")
    assert worker.ask().status_code == 204


def test_one_key_is_one_validation_and_no_job_that_trains(api: httpx.Client, worker: HandWorker) -> None:
    key = {"Idempotency-Key": "check-once"}
    first, again = trace(api, **key), trace(api, **key)
    assert (first.status_code, again.status_code) == (202, 200)
    assert first.json()["id"] == again.json()["id"]
    other = api.post("/v1/jobs", json=SPEC, headers=key)
    assert other.json()["code"] == "idempotency_mismatch"


def test_the_client_gives_the_job(url: str, worker: HandWorker) -> None:
    with Client(url) as client:
        job = client.validate(SPEC, trace=True)
        assert (job.kind, job.state) == (JobKind.VALIDATE, State.QUEUED)
        inspected(worker, RESULT)
        assert client.wait(job.id, timeout=30).result == RESULT


# ── the command ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def file(tmp_path: Path) -> Path:
    written = tmp_path / "job.json"
    written.write_text(json.dumps(SPEC))
    return written


@contextmanager
def command(url: str, *line: str) -> Iterator[subprocess.Popen[str]]:
    """The command, which waits for the worker that the test plays."""
    started = [sys.executable, "-m", "tapeworks.cli.main", "--url", url, "validate", "--trace", *line]
    with subprocess.Popen(started, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_the_command_shows_what_a_step_needs(url: str, worker: HandWorker, file: Path) -> None:
    with command(url, str(file)) as process:
        inspected(worker, RESULT)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert "plan            loop  210.5 steps/s" in stdout
    assert "estimated time  4.5 s … 1:01" in stdout
    assert stdout.endswith(f"{file} is valid\n")
    assert "succeeded" in stderr, "how it went is told beside the result"


def test_the_command_shows_why_it_would_fail(url: str, worker: HandWorker, file: Path) -> None:
    failure = {
        "code": "dtype_mismatch", "message": "int64 met float32", "hint": "tf.cast(y, tf.float32)",
        "location": {"file": "acme.py", "line": 7, "component": "acme/Scale"},
    }  # fmt: skip
    with command(url, str(file)) as process:
        worker.lease(wait=30).finish("failed", failure=failure)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert stderr[stderr.index("error:") :].splitlines() == [
        "error: dtype_mismatch: int64 met float32", "  at acme.py:7 (acme/Scale)", "  tf.cast(y, tf.float32)",
    ]  # fmt: skip
    assert stdout == ""


def test_the_command_gives_the_job_as_json_and_a_refusal_as_a_problem(url: str, worker: HandWorker, file: Path) -> None:
    with command(url, str(file), "--json") as process:
        inspected(worker, RESULT)
        stdout, _ = process.communicate(timeout=60)
    assert json.loads(stdout)["result"] == RESULT
    file.write_text(json.dumps(spec(model="mlpp")))
    with command(url, str(file), "--json") as process:
        stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 4
    assert json.loads(stdout)["errors"][0]["pointer"] == "/model"


def test_the_end_of_the_command_ends_the_validation(url: str, worker: HandWorker, file: Path) -> None:
    with command(url, str(file)) as process:
        lease = worker.lease(wait=30)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert worker.job(lease.job_id)["requested"] == "cancel"
