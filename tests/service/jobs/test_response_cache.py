"""What is kept of jobs and callers to answer faster, and that nobody is told what is not so any more."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tapeworks_service.auth.callers import KNOWN_SECONDS, Caller, CallerCache
from tapeworks_service.jobs.response_cache import JobCache
from tests.support.hand_worker import HandWorker, spec


def test_a_look_a_list_and_an_answer_show_the_same_job(api: httpx.Client, worker: HandWorker) -> None:
    job = worker.submit()
    assert api.get(f"/v1/jobs/{job['id']}").json() == job, "the answer to a submit is made of what was written"
    for change in ({"name": "one"}, {"labels": {"a": "b"}}, {"priority": 7}):
        changed = api.patch(f"/v1/jobs/{job['id']}", json=change).json()
        looked = api.get(f"/v1/jobs/{job['id']}")
        (listed,) = [one for one in api.get("/v1/jobs").json()["data"] if one["id"] == job["id"]]
        assert changed == looked.json() == listed
        same = api.get(f"/v1/jobs/{job['id']}", headers={"If-None-Match": looked.headers["ETag"]})
        assert (same.status_code, same.content) == (304, b"")


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 200), ("wait=0", 200), ("wait=0.05&unless=1", 200), ("unless=7", 200), ("wait=299.5&unless=0", 200),
        ("unless=0&wait=3", 200), ("wait=300&unless=0", 200), ("wait=%33&unless=0", 200), ("&unless=0", 200),
        ("wait=300.5", 422), ("wait=-1", 422), ("wait=nan", 422), ("wait=", 422), ("wait=3unless=1", 422),
        ("unless=1.5", 422), ("unless=-1", 422), ("unless=" + "9" * 16, 200),
    ],
)  # fmt: skip
def test_a_usual_look_is_answered_as_any_other(api: httpx.Client, worker: HandWorker, query: str, status: int) -> None:
    """A parameter that nobody knows takes a look to FastAPI's own reading of the others."""
    path = f"/v1/jobs/{worker.submit()['id']}?{query}"
    usual, other = api.get(path), api.get(f"{path}&other=")
    assert (usual.status_code, usual.content) == (other.status_code, other.content)
    assert usual.status_code == status
    assert usual.headers.get("etag") == other.headers.get("etag")


def test_a_usual_look_is_refused_as_any_other(own_service: Any) -> None:
    with own_service() as (client, worker):
        worker.register()
        job = worker.submit()
        for path in (f"/v1/jobs/{job['id']}", "/v1/jobs/job_none", "/v1/jobs/job-none"):
            for query in ("", "?other="):
                answer = client.get(path + query, headers={"Host": "elsewhere.example"})
                assert (answer.status_code, answer.headers["content-type"]) == (403, "application/problem+json")
        missing = [client.get(f"/v1/jobs/{name}{query}") for name in ("a", "a-b") for query in ("", "?other=")]
        assert [answer.json()["code"] for answer in missing] == ["not_found"] * 4
        assert client.request("PUT", f"/v1/jobs/{job['id']}").status_code == 405
        counted = client.get("/metrics").text
        assert 'route="/v1/jobs/{job_id}",status="404"} 4.0' in counted


def test_a_job_that_a_new_worker_can_take_waits_no_more(own_service: Any) -> None:
    with own_service() as (client, worker):
        HandWorker(client, "other").register()
        job = worker.submit(spec(resources={"worker_labels": {"zone": "a"}}))
        for _ in range(2):
            assert "no label zone=a" in client.get(f"/v1/jobs/{job['id']}").json()["unschedulable"]["reason"]
        worker.register(labels={"zone": "a"})
        for _ in range(2):
            assert client.get(f"/v1/jobs/{job['id']}").json()["unschedulable"] is None
            assert client.get("/v1/jobs").json()["data"][0]["unschedulable"] is None


def test_bodies_are_bounded_and_the_least_used_go() -> None:
    def row(name: str) -> Any:
        return {
            "id": name, "kind": "train", "revision": 1, "name": None, "labels": {}, "priority": 0, "state": "queued",
            "spec": {"training": {"epochs": 1}}, "requested": "none", "phase": None, "progress": {}, "attempt": 0,
            "failed_attempts": 0, "max_attempts": 3, "created_at": 0.0, "queued_at": 0.0, "started_at": None,
            "finished_at": None, "owner": None, "document": {"transitions": []}, "retry_of": None, "parent_id": None,
        }  # fmt: skip

    size = len(JobCache().made(row("a"), None))
    bodies = JobCache(most_bytes=2 * size)
    first = bodies.made(row("a"), None)
    bodies.made(row("b"), None)
    assert bodies.get(("a", 1, None)) is first
    bodies.made(row("c"), None)
    assert [bodies.get((name, 1, None)) is None for name in "abc"] == [False, True, False]
    assert bodies.get(("a", 1, "no worker is connected")) is None


def test_callers_are_forgotten_after_a_moment() -> None:
    now = [100.0]
    callers = CallerCache(clock=lambda: now[0])
    caller = Caller("default", frozenset({"read"}))
    callers.put("hash", caller)
    assert callers.get("hash") is caller
    assert callers.get("other") is None
    now[0] += KNOWN_SECONDS
    assert callers.get("hash") is None
