"""A user's calls about jobs, over HTTP."""

from __future__ import annotations

import json
import socket
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.hand_worker import SPEC, HandWorker, spec

MIB = 1024 * 1024


def key() -> dict[str, str]:
    return {"Idempotency-Key": uuid.uuid4().hex}


# ── idempotency ──────────────────────────────────────────────────────────────────────────────────


def test_the_same_key_and_body_is_the_same_job(api: httpx.Client, worker: HandWorker) -> None:
    headers = key()
    first = api.post("/v1/jobs", json=SPEC, headers=headers)
    again = api.post("/v1/jobs", json=SPEC, headers=headers)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()


@pytest.mark.parametrize("text", ["a-key_7", "with a space", "k" * 100, "k" * 255])
def test_any_printable_key_works(api: httpx.Client, worker: HandWorker, text: str) -> None:
    """Those like a UUID are read without FastAPI, all others by it."""
    answers = [api.post("/v1/jobs", json=SPEC, headers={"Idempotency-Key": text}) for _ in range(2)]
    assert [one.status_code for one in answers] == [201, 200]


@pytest.mark.parametrize("text", ["", "k" * 256, "tab\there"])
def test_a_key_that_is_none_is_refused(api: httpx.Client, worker: HandWorker, text: str) -> None:
    answer = api.post("/v1/jobs", json=SPEC, headers={"Idempotency-Key": text})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


def test_the_same_key_with_another_body_is_refused(api: httpx.Client, worker: HandWorker) -> None:
    headers = key()
    api.post("/v1/jobs", json=SPEC, headers=headers)
    other = api.post("/v1/jobs", json=spec(name="other"), headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")


def test_a_hundred_posts_at_once_with_one_key_make_one_job(url: str, worker: HandWorker) -> None:
    headers = {**key(), "Content-Type": "application/json"}
    body = json.dumps(spec(name=headers["Idempotency-Key"]))
    with httpx.Client(base_url=url, timeout=60, limits=httpx.Limits(max_connections=100)) as client:
        with ThreadPoolExecutor(100) as pool:
            answers = list(pool.map(lambda _: client.post("/v1/jobs", content=body, headers=headers), range(100)))
        assert {answer.status_code for answer in answers} <= {200, 201}
        assert sum(answer.status_code == 201 for answer in answers) == 1
        assert len({answer.json()["id"] for answer in answers}) == 1
        listed = client.get("/v1/jobs", params={"name": headers["Idempotency-Key"]}).json()["data"]
        assert len(listed) == 1


def test_without_a_key_each_post_is_a_job(api: httpx.Client, worker: HandWorker) -> None:
    assert worker.submit()["id"] != worker.submit()["id"]


# ── looking ──────────────────────────────────────────────────────────────────────────────────────


def test_an_etag_spares_the_body(api: httpx.Client, worker: HandWorker) -> None:
    job = worker.submit()
    answer = api.get(f"/v1/jobs/{job['id']}")
    tag = answer.headers["ETag"]
    unchanged = api.get(f"/v1/jobs/{job['id']}", headers={"If-None-Match": tag})
    assert (unchanged.status_code, unchanged.content, unchanged.headers["ETag"]) == (304, b"", tag)
    api.post(f"/v1/jobs/{job['id']}/cancel")
    changed = api.get(f"/v1/jobs/{job['id']}", headers={"If-None-Match": tag})
    assert changed.status_code == 200
    assert changed.headers["ETag"] != tag


def test_waiting_ends_with_the_next_change(api: httpx.Client, worker: HandWorker) -> None:
    job = worker.submit()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(api.get, f"/v1/jobs/{job['id']}?wait=30&unless={job['revision']}")
        lease = worker.lease()
        changed = waiting.result(10).json()
    assert changed["revision"] > job["revision"]
    assert changed["state"] == "starting"
    lease.finish("released")


def test_waiting_answers_at_once_where_the_revision_moved_on(api: httpx.Client, worker: HandWorker) -> None:
    job = worker.submit()
    worker.lease().state("running")
    began = time.monotonic()
    assert api.get(f"/v1/jobs/{job['id']}?wait=30&unless={job['revision']}").json()["state"] == "running"
    assert time.monotonic() - began < 5


def test_waiting_ends_after_its_time(api: httpx.Client, worker: HandWorker) -> None:
    job = worker.submit()
    answer = api.get(f"/v1/jobs/{job['id']}?wait=0.2&unless={job['revision']}")
    assert answer.json()["revision"] == job["revision"]


def test_waiting_for_a_finished_job_answers_at_once(api: httpx.Client, worker: HandWorker) -> None:
    job = worker.submit()
    revision = api.post(f"/v1/jobs/{job['id']}/cancel").json()["revision"]
    began = time.monotonic()
    api.get(f"/v1/jobs/{job['id']}?wait=30&unless={revision}")
    assert time.monotonic() - began < 5


def test_a_list_pages_through_all_jobs_newest_first(api: httpx.Client, worker: HandWorker) -> None:
    name = uuid.uuid4().hex
    made = [worker.submit(spec(name=name))["id"] for _ in range(7)]
    seen: list[str] = []
    after: str | None = None
    while True:
        params: dict[str, Any] = {"name": name, "limit": 3} | ({"after": after} if after else {})
        page = api.get("/v1/jobs", params=params).json()
        assert len(page["data"]) <= 3
        seen += [job["id"] for job in page["data"]]
        if len(seen) == 3:
            made.append(worker.submit(spec(name=name))["id"])  # a new job moves no later page
        if not page["has_more"]:
            assert page["next"] is None
            break
        after = page["next"]
    assert seen == list(reversed(made[:7]))


def test_filters_narrow_a_list(api: httpx.Client, worker: HandWorker) -> None:
    mark = uuid.uuid4().hex
    red = worker.submit(spec(labels={"run": mark, "colour": "red"}))
    blue = worker.submit(spec(labels={"run": mark, "colour": "blue"}))
    api.post(f"/v1/jobs/{blue['id']}/cancel")

    def ids(**params: Any) -> list[str]:
        return [job["id"] for job in api.get("/v1/jobs", params=params).json()["data"]]

    assert ids(label=f"run={mark}") == [blue["id"], red["id"]]
    assert ids(label=f"run:{mark}") == [blue["id"], red["id"]]
    assert ids(label=[f"run={mark}", "colour=red"]) == [red["id"]]
    assert ids(label=f"run={mark}", state="cancelled") == [blue["id"]]
    assert ids(label=f"run={mark}", state=["cancelled", "queued"]) == [blue["id"], red["id"]]
    assert ids(label=f"run={mark}", created_after="2999-01-01T00:00:00Z") == []
    assert ids(label=f"run={mark}", kind="validate") == []


@pytest.mark.parametrize(
    "query",
    [
        *("after=nonsense", "after=am9iczoxOng", "limit=0", "limit=201", "state=done", "label=nothing", "wait=x"),
        *("&".join([one] * 21) for one in ("label=a=b", "state=queued")),
    ],
)
def test_parameters_that_make_no_sense_are_422(api: httpx.Client, query: str) -> None:
    path = "/v1/jobs/job_1" if query.startswith("wait") else "/v1/jobs"
    answer = api.get(f"{path}?{query}")
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["errors"]


# ── changing ─────────────────────────────────────────────────────────────────────────────────────


def test_patch_changes_what_is_given(api: httpx.Client, worker: HandWorker) -> None:
    job = worker.submit(spec(name="old", labels={"a": "1"}))
    changed = api.patch(f"/v1/jobs/{job['id']}", json={"labels": {"b": "2"}, "priority": 5}).json()
    assert (changed["name"], changed["labels"], changed["priority"]) == ("old", {"b": "2"}, 5)
    assert changed["spec"]["priority"] == 5
    assert changed["revision"] > job["revision"]
    assert api.get("/v1/jobs", params={"label": "b=2"}).json()["data"][0]["id"] == job["id"]
    assert api.patch(f"/v1/jobs/{job['id']}", json={"name": None}).json()["name"] is None


def test_a_raised_priority_overtakes(api: httpx.Client, worker: HandWorker) -> None:
    first, second = worker.submit(), worker.submit()
    api.patch(f"/v1/jobs/{second['id']}", json={"priority": 50})
    assert [worker.lease().job_id for _ in range(2)] == [second["id"], first["id"]]


@pytest.mark.parametrize("change", [{"priority": 101}, {"priority": None}, {"state": "failed"}, {"labels": {"a": 1}}])
def test_a_patch_that_makes_no_sense_is_422(api: httpx.Client, worker: HandWorker, change: dict[str, Any]) -> None:
    assert api.patch(f"/v1/jobs/{worker.submit()['id']}", json=change).status_code == 422


def test_cancel_of_a_queued_job_is_at_once_and_of_a_finished_one_409(api: httpx.Client, worker: HandWorker) -> None:
    job = worker.submit()
    assert api.post(f"/v1/jobs/{job['id']}/cancel").json()["state"] == "cancelled"
    again = api.post(f"/v1/jobs/{job['id']}/cancel")
    assert (again.status_code, again.json()["code"], again.json()["state"]) == (409, "conflict", "cancelled")
    assert "cancelled" in again.json()["detail"]


def test_delete_takes_a_finished_job_with_its_files(own_service: Any, tmp_path: Any) -> None:
    with own_service() as (client, worker):
        worker.register()
        job = worker.submit(spec(labels={"a": "b"}))
        lease = worker.lease()
        refused = client.delete(f"/v1/jobs/{job['id']}")
        assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
        bundle = lease.upload("bundle.tar.gz", b"bundle")
        lease.begin("half.bin", b"x" * 10)
        lease.records({"record": "log", "stream": "stdout", "text": "x"})
        lease.finish("succeeded", published={"bundle": bundle, "formats": ["keras"]})
        assert client.get(f"/v1/jobs/{job['id']}/model").status_code == 200
        assert client.delete(f"/v1/jobs/{job['id']}").status_code == 204
        assert client.get(f"/v1/jobs/{job['id']}").status_code == 404
        assert client.get(f"/v1/jobs/{job['id']}/model").status_code == 404
        assert client.get("/v1/jobs", params={"label": "a=b"}).json()["data"] == []
        left = [
            path for path in (tmp_path / "data" / "artifacts").rglob("*") if path.is_file() and path.name != "probe"
        ]
        assert left == []


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/jobs/job_0"), ("POST", "/v1/jobs/job_0/cancel"), ("DELETE", "/v1/jobs/job_0"),
        ("PATCH", "/v1/jobs/job_0"), ("GET", "/v1/jobs/job_0/events"), ("GET", "/v1/jobs/job_0/logs"),
        ("GET", "/v1/jobs/job_0/metrics"), ("GET", "/v1/jobs/job_0/artifacts"), ("GET", "/v1/jobs/job_0/model"),
        ("GET", "/v1/jobs/job_0/artifacts/a/b"), ("GET", "/v1/jobs/job_0/checkpoints"), ("GET", "/v1/nothing"),
        ("GET", "/v1/components/loss/nothing"), ("GET", "/v1/uploads/up_0"), ("POST", "/v1/jobs/job_0/pause"),
        ("POST", "/v1/jobs/job_0/resume"), ("POST", "/v1/jobs/job_0/retry"), ("POST", "/v1/workers/nobody/drain"),
        ("POST", "/v1/workers/nobody/undrain"),
    ],
)  # fmt: skip
def test_what_does_not_exist_is_404(api: httpx.Client, worker: HandWorker, method: str, path: str) -> None:
    answer = api.request(method, path, json={} if method == "PATCH" else None)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/models"), ("GET", "/v1/models"), ("PUT", "/v1/models/mine/aliases/best"),
    ],
)  # fmt: skip
def test_what_comes_later_is_422(api: httpx.Client, worker: HandWorker, method: str, path: str) -> None:
    answer = api.request(method, path.format(id=worker.submit()["id"]), content=b"{}")
    assert (answer.status_code, answer.json()["code"]) == (422, "not_supported")


def test_another_method_is_405(api: httpx.Client) -> None:
    answer = api.put("/v1/jobs")
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert "GET" in answer.headers["Allow"]


@pytest.mark.parametrize("body", [b"", b"{", b'{"a": NaN}', b'{"a": 1, "a": 2}', b"\xff", b'"\\u0000"', b"[" * 100_000])
def test_what_is_not_json_is_400(api: httpx.Client, body: bytes) -> None:
    answer = api.post("/v1/jobs", content=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_json")


def test_two_mebibytes_are_413(api: httpx.Client, worker: HandWorker) -> None:
    answer = api.post("/v1/jobs", content=b'{"name": "' + b"x" * 2 * MIB + b'"}')
    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")
    assert worker.submit()["state"] == "queued"


def test_a_body_without_a_length_is_counted_while_it_comes(api: httpx.Client) -> None:
    answer = api.post("/v1/jobs", content=(b" " * 65_536 for _ in range(32)))
    assert answer.status_code == 413


def test_the_last_chunk_may_be_the_one_that_is_too_much(url: str) -> None:
    address, body = urlsplit(url), b"[" + b", ".join([b"[]"] * 300_000) + b"]"
    head = b"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall(head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        assert connection.recv(65_536).startswith(b"HTTP/1.1 413")


def test_a_giant_that_says_so_is_refused_before_it_is_sent(url: str) -> None:
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        head = "POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 4294967296\r\nExpect: 100-continue\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(65_536).startswith(b"HTTP/1.1 413")


def test_adversarial_paths_and_numbers_are_no_5xx(api: httpx.Client, worker: HandWorker) -> None:
    job = worker.submit()
    for path in ("..%2f..%2fetc%2fpasswd", "%00", "a%00b", "%ff", "x" * 2000, "a//b"):
        assert api.get(f"/v1/jobs/{job['id']}/artifacts/{path}").status_code in (404, 422)
        assert api.get(f"/v1/jobs/{job['id']}/checkpoints/{path}").status_code in (404, 422)
        assert api.get(f"/v1/jobs/{path}").status_code in (200, 404, 422)
    lease = worker.lease()
    lease.state("running")
    huge = lease.records({"record": "metric", "step": 10**30, "values": {"loss": 1.0}})
    assert huge.status_code == 422
    assert lease.heartbeat().status_code == 200


def test_a_busy_database_is_503_and_then_all_goes_on(own_sqlite_service: Any, tmp_path: Any) -> None:
    import sqlite3

    with own_sqlite_service(busy_seconds=0.3) as (client, worker):
        worker.register()
        blocker = sqlite3.connect(tmp_path / "data" / "tapeworks.db", isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        busy = client.post("/v1/jobs", json=SPEC)
        assert (busy.status_code, busy.json()["code"]) == (503, "unavailable")
        assert int(busy.headers["Retry-After"]) > 0
        assert client.get("/v1/jobs").status_code == 200, "readers go on"
        blocker.execute("ROLLBACK")
        blocker.close()
        assert client.post("/v1/jobs", json=SPEC).status_code == 201


def test_twenty_jobs_at_once_leave_in_order(own_service: Any) -> None:
    with own_service() as (_, worker):
        worker.register()
        made: list[tuple[int, str]] = []
        guard = threading.Lock()

        def submit(index: int) -> None:
            with guard:
                job = worker.submit(spec(priority=index % 3))
                made.append((index % 3, job["id"]))

        with ThreadPoolExecutor(5) as pool:
            list(pool.map(submit, range(20)))
        expected = [job_id for priority, job_id in sorted(made, key=lambda one: -one[0])]
        assert [worker.lease().job_id for _ in range(20)] == expected


def test_the_first_characters_of_an_id_find_its_job(api: httpx.Client, worker: HandWorker) -> None:
    jobs = [worker.submit()["id"] for _ in range(3)]

    def ids(prefix: str, **query: str) -> list[str]:
        answer = api.get("/v1/jobs", params={"id_prefix": prefix, **query})
        assert answer.status_code == 200, answer.text
        return [job["id"] for job in answer.json()["data"]]

    assert ids(jobs[1]) == [jobs[1]]
    shared = next(jobs[0][:n] for n in range(36, 4, -1) if all(job.startswith(jobs[0][:n]) for job in jobs))
    assert [job for job in ids(shared) if job in jobs] == jobs[::-1]
    assert ids(jobs[1], state="failed") == []
    assert ids("job_ffffffff") == []
    for wrong in ("job_", "job_%", "job_G", "ckpt_0", "job_" + "0" * 33):
        assert api.get("/v1/jobs", params={"id_prefix": wrong}).status_code == 422
