"""An attempt's token cannot fill the database: the service counts what is reported, whatever the worker does."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tapeworks.schemas.report_limits import MAX_METRIC_NAMES
from tests.support.hand_worker import HandLease, HandWorker

SMALL = {
    "max_job_events": 20, "max_job_event_bytes": 100_000, "max_job_log_lines": 10, "max_job_log_bytes": 1_000,
    "max_job_points": 10, "max_attempt_uploads": 3,
}  # fmt: skip


def log(text: str = "line") -> dict[str, Any]:
    return {"record": "log", "stream": "stdout", "text": text}


def event(**data: Any) -> dict[str, Any]:
    return {"record": "event", "type": "note", "data": data}


def point(step: int, name: str = "loss") -> dict[str, Any]:
    return {"record": "metric", "step": step, "values": {name: 1.0}}


def sent(lease: HandLease, records: list[dict[str, Any]], first: int = 1) -> httpx.Response:
    return lease.post("records", {"records": [{"index": first + at, **one} for at, one in enumerate(records)]})


def told(api: httpx.Client, job_id: str) -> list[dict[str, Any]]:
    events = api.get(f"/v1/jobs/{job_id}/events").json()["data"]
    return [one["data"] for one in events if one["type"] == "diagnostic"]


def test_lines_and_points_beyond_their_quota_are_left_out_and_the_job_says_so_once(own_service: Any) -> None:
    with own_service(**SMALL) as (api, worker):
        worker.register()
        job = worker.submit()
        lease = worker.lease()
        records = [*(log() for _ in range(15)), *(point(step) for step in range(1, 16))]
        assert sent(lease, records).json() == {"stored": 30}
        assert sent(lease, records, first=31).json() == {"stored": 60}
        assert len(api.get(f"/v1/jobs/{job['id']}/logs").json()["data"]) == 10
        assert len(api.get(f"/v1/jobs/{job['id']}/metrics").json()["data"][0]["points"]) == 10
        assert [one["code"] for one in told(api, job["id"])] == ["quota_exceeded"] * 2
        assert lease.post("finish", {"outcome": "succeeded", "last_record": 60}).status_code == 200


def test_the_bytes_of_lines_are_counted_over_all_attempts(own_service: Any) -> None:
    with own_service(**SMALL) as (api, worker):
        worker.register()
        job = worker.submit()
        first = worker.lease()
        first.records(log("x" * 400), log("x" * 400))
        first.fail("worker_lost", retryable=True)
        worker.lease(wait=10).records(log("y" * 100), log("y" * 400), log("y"))
        assert len(api.get(f"/v1/jobs/{job['id']}/logs").json()["data"]) == 3


@pytest.mark.parametrize(
    ("records", "at_once", "what"),
    [
        ([event(number=number) for number in range(30)], 30, "events"),
        ([event(text="x" * 60_000), event(text="x" * 60_000)], 2, "event bytes"),
        ([{"record": "state", "state": "running", "phase": str(number)} for number in range(30)], 30, "events"),
        ([{"record": "facts", "lineage": {str(at): "x" * 300_000}} for at in range(4)], 2, "lineage"),
        ([point(1, f"metric {number}") for number in range(MAX_METRIC_NAMES + 1)], 1_000, "metric names"),
    ],
    ids=["events", "event bytes", "states", "facts", "metric names"],
)
def test_what_must_be_kept_is_refused_beyond_its_quota(own_service: Any, records: Any, at_once: int, what: str) -> None:
    with own_service(**SMALL) as (api, worker):
        worker.register()
        job = worker.submit()
        lease = worker.lease()
        for first in range(0, len(records), at_once):
            refused = sent(lease, records[first : first + at_once], first=first + 1)
        assert (refused.status_code, refused.json()["code"]) == (403, "quota_exceeded")
        assert what in refused.json()["detail"]
        failure = {"code": "quota_exceeded", "message": "too much", "retryable": False}
        last = api.get(f"/v1/jobs/{job['id']}").json()
        assert last["state"] in ("starting", "running")
        ended = lease.post("finish", {"outcome": "failed", "failure": failure, "last_record": 0})
        assert ended.status_code == 200
        assert worker.job(job["id"])["failure"]["code"] == "quota_exceeded"


def test_an_attempt_holds_a_limited_number_of_uploads(own_service: Any) -> None:
    with own_service(**SMALL) as (_, worker):
        worker.register()
        worker.submit()
        lease = worker.lease()
        answers = [lease.begin(f"file{number}", b"x") for number in range(5)]
        assert [answer.is_success for answer in answers] == [True, True, True, False, False]
        assert answers[-1].json()["code"] == "quota_exceeded"
        assert lease.begin("file0", b"x").is_success, "one that was begun continues"


@pytest.mark.parametrize(
    "record",
    [
        {"record": "metric", "step": 2**63, "values": {"loss": 1.0}},
        {"record": "state", "state": "running", "phase": "p" * 65},
        {"record": "state", "state": "running", "message": "m" * 2_000},
    ],
)
def test_what_the_database_cannot_hold_is_refused(worker: HandWorker, record: dict[str, Any]) -> None:
    worker.submit()
    lease = worker.lease()
    assert sent(lease, [record]).status_code == 422
    lease.finish("released")
    worker.empty_queue()
