"""Keys made, listed and revoked from the command line, beside a service that runs; what projects see of each other."""

from __future__ import annotations

import asyncio
import json
import logging
import stat
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import httpx_sse
import pytest

from tapeworks_service.api.downloads import CHECKED_SECONDS
from tapeworks_service.auth import keys
from tapeworks_service.settings import ServiceSettings
from tests.service.conftest import OwnService
from tests.support.hand_worker import HandWorker, spec

SOON = 5.0
"""Longer than a service remembers whom a key stood for."""


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def eventually(client: httpx.Client, path: str, status: int, **headers: str) -> httpx.Response:
    """The answer once it has that status: a service hears of a key within a second."""
    end = time.monotonic() + SOON
    while (answer := client.get(path, headers=headers)).status_code != status:
        assert time.monotonic() < end, answer.text
        time.sleep(0.05)
    return answer


@pytest.mark.slow
def test_a_key_made_beside_a_running_service_opens_it_and_locks_others_out(
    own_service: Any, tapeworks: Callable[..., Any]
) -> None:
    with own_service() as (client, _):
        assert client.get("/v1/jobs").status_code == 200, "nobody has a key yet"
        made = tapeworks("create", "alice", "--scope", "read", "--json")
        assert made["key"].startswith("tw_")
        assert made["scopes"] == ["read"]
        eventually(client, "/v1/jobs", 401)
        eventually(client, "/v1/jobs", 200, **bearer(made["key"]))
        assert client.post("/v1/jobs", json=spec(), headers=bearer(made["key"])).status_code == 403
        (listed,) = tapeworks("list", "--json")
        assert listed["last_used_at"] is not None
        assert "key" not in listed
        second = tapeworks("create", "bob", "--json")
        assert second["scopes"] == ["read", "submit"]
        assert "is revoked" in tapeworks("revoke", made["id"])
        eventually(client, "/v1/jobs", 401, **bearer(made["key"]))
        eventually(client, "/v1/jobs", 200, **bearer(second["key"]))
        assert "is revoked" in tapeworks("revoke", made["id"]), "again is fine"


@pytest.mark.slow
def test_a_stream_ends_when_its_key_is_revoked(own_service: Any, tapeworks: Callable[..., Any]) -> None:
    with own_service() as (client, worker):
        worker.register()
        job = worker.submit()
        kept, revoked = (tapeworks("create", name, "--json") for name in ("alice", "bob"))
        eventually(client, "/v1/jobs", 200, **bearer(revoked["key"]))
        headers = {"Accept": "text/event-stream", **bearer(revoked["key"])}
        with httpx_sse.connect_sse(client, "GET", f"/v1/jobs/{job['id']}/events", headers=headers) as source:
            messages = (message for message in source.iter_sse() if message.data)
            assert next(messages).json()["data"]["state"] == "queued"
            tapeworks("revoke", revoked["id"])
            assert list(messages) == []
        assert client.get(f"/v1/jobs/{job['id']}", headers=bearer(kept["key"])).json()["state"] == "queued"


def test_requests_that_wait_end_when_their_key_is_revoked(own_service: Any, tapeworks: Callable[..., Any]) -> None:
    with own_service(api_key="tw_first_key_of_the_tests") as (client, worker):
        operator = bearer("tw_first_key_of_the_tests")
        client.headers.update(operator)
        worker.register()
        job = worker.submit()
        lease = worker.lease()
        made = tapeworks("create", "bob", "--scope", "read", "--scope", "worker", "--json")
        revoked = bearer(made["key"])
        eventually(client, "/v1/jobs", 200, **revoked)
        revision = worker.job(job["id"])["revision"]
        waits: dict[str, Callable[[], httpx.Response]] = {
            "get_job": lambda: client.get(f"/v1/jobs/{job['id']}?wait=30&unless={revision}", headers=revoked),
            "commands": lambda: client.get(f"{lease.path}/commands?wait=30", headers={**lease.headers, **revoked}),
            "lease_job": lambda: client.post(
                "/v1/worker/leases",
                json={"worker_id": "hand", "request_id": "waits", "wait_seconds": 10, "free_cpus": 4},
                headers=revoked,
            ),
        }
        with ThreadPoolExecutor() as pool:
            answers = {name: pool.submit(wait) for name, wait in waits.items()}
            tapeworks("revoke", made["id"])
            eventually(client, "/v1/jobs", 401, **revoked)
            worker.submit()
            lease.progress(step=1)  # what they wait for
            assert {name: answer.result(40).status_code for name, answer in answers.items()} == dict.fromkeys(
                waits, 401
            )


@pytest.mark.slow
def test_a_download_breaks_off_when_its_key_is_revoked(own_service: Any, tapeworks: Callable[..., Any]) -> None:
    with own_service(api_key="tw_first_key_of_the_tests") as (client, worker):
        client.headers.update(bearer("tw_first_key_of_the_tests"))
        worker.register()
        job = worker.submit()
        whole = bytes(40 << 20)
        worker.lease().succeed(whole)
        made = tapeworks("create", "bob", "--scope", "read", "--json")
        eventually(client, "/v1/jobs", 200, **bearer(made["key"]))
        received = 0
        with client.stream("GET", f"/v1/jobs/{job['id']}/model", headers=bearer(made["key"])) as answer:
            chunks = answer.iter_raw()
            received += len(next(chunks))
            tapeworks("revoke", made["id"])
            eventually(client, "/v1/jobs", 401, **bearer(made["key"]))
            time.sleep(CHECKED_SECONDS)
            with pytest.raises(httpx.TransportError):
                received += sum(len(chunk) for chunk in chunks)
        assert received < len(whole)


def test_the_last_key_of_a_user_is_not_revoked_by_accident(own_service: Any, tapeworks: Callable[..., Any]) -> None:
    made = tapeworks("create", "alice", "--json")
    tapeworks("create", "a machine", "--scope", "worker", "--json")
    assert "last key" in tapeworks("revoke", made["id"], fails=True)
    with own_service() as (client, _):
        assert client.get("/v1/jobs", headers=bearer(made["key"])).status_code == 200, "it was not"
        tapeworks("revoke", made["id"], "--last")
        eventually(client, "/v1/jobs", 200)


def test_a_workers_own_key_locks_nobody_out(own_service: Any, tapeworks: Callable[..., Any]) -> None:
    made = tapeworks("create", "a machine", "--scope", "worker", "--json")
    with own_service() as (client, _):
        assert client.get("/v1/jobs").status_code == 200
        tapeworks("create", "alice", "--json")
        eventually(client, "/v1/jobs", 401)
        worker = HandWorker(client)
        client.headers.update(bearer(made["key"]))
        worker.register()
        assert worker.ask().status_code == 204
        assert client.get("/v1/jobs").status_code == 403


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("create", "alice", "--scope", "root"), "'root' is not a scope"),
        (("create", ""), "1 to 200 characters"),
        (("create", "alice", "--project", "a/b"), "no slash"),
        (("revoke", "key_nobody"), "there is no key"),
    ],
)
def test_what_cannot_be_is_said(tapeworks: Callable[..., Any], arguments: tuple[str, ...], told: str) -> None:
    assert told in tapeworks(*arguments, fails=True)
    assert tapeworks("list", "--json") == []


def test_the_worker_beside_a_service_keeps_its_key(own_service: OwnService) -> None:
    settings = ServiceSettings(data_dir=own_service.folder, database_url=own_service.database_url)
    first = asyncio.run(keys.worker_key(settings, None))
    assert asyncio.run(keys.worker_key(settings, first)) == first
    assert asyncio.run(keys.worker_key(settings, "tw_unknown")) not in (first, "tw_unknown")


def test_every_path_of_a_job_is_404_to_another_project(own_service: Any, tapeworks: Callable[..., Any]) -> None:
    with own_service() as (client, worker):
        worker.register()
        job = worker.submit()
        lease = worker.lease()
        checkpoint = lease.checkpoint(b"state", step=1)
        lease.succeed(b"bundle")
        every = ("--scope", "read", "--scope", "submit", "--scope", "admin", "--json")
        mine = tapeworks("create", "a", *every)["key"]
        theirs = tapeworks("create", "b", "--project", "b", *every)["key"]
        eventually(client, "/v1/jobs", 401)
        assert client.get(f"/v1/jobs/{job['id']}", headers=bearer(mine)).status_code == 200
        seen = 0
        for path, operations in client.get("/openapi.json").json()["paths"].items():
            if "{job_id}" not in path or "/attempts/" in path:
                continue
            place = path.format(job_id=job["id"], checkpoint_id=checkpoint, path="bundle.tar.gz")
            for method in operations:
                body = None if method == "get" else {}
                answer = client.request(method.upper(), place, headers=bearer(theirs), json=body)
                assert answer.status_code == 404, (method, path, answer.text)
                seen += 1
        assert seen >= 10
        assert client.get("/v1/jobs", headers=bearer(theirs)).json()["data"] == []
        from_theirs = spec(training={"epochs": 1, "initial_state": {"from": job["id"]}})
        named = client.post("/v1/jobs", json=from_theirs, headers=bearer(theirs))
        assert named.status_code == 422
        assert "there is no job" in named.text


def test_no_secret_reaches_a_log(
    own_service: Any, tapeworks: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    with own_service(log_level="debug") as (client, worker), caplog.at_level(logging.DEBUG):
        made = tapeworks("create", "alice", "--scope", "read", "--scope", "submit", "--scope", "worker", "--json")
        eventually(client, "/v1/jobs", 401)
        eventually(client, "/v1/jobs", 401, **bearer("tw_a_secret_that_is_wrong"))
        client.headers.update(bearer(made["key"]))
        worker.register()
        worker.submit()
        lease = worker.lease()
        lease.heartbeat()
        assert lease.post("finish", {"outcome": "nonsense"}).status_code == 422
        assert client.get("/v1/nowhere").status_code == 404
        lease.succeed()
    told = caplog.text + json.dumps([record.__dict__ for record in caplog.records], default=str)
    assert "/v1/jobs" in told, "requests are logged"
    for secret in (made["key"], "tw_a_secret_that_is_wrong", lease.headers["Tapeworks-Lease"]):
        assert secret not in told
    database = own_service.folder / "tapeworks.db"
    if database.exists():
        assert made["key"].encode() not in database.read_bytes()
        assert stat.S_IMODE(own_service.folder.stat().st_mode) & 0o077 == 0
