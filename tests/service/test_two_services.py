"""Two service processes on one PostgreSQL and one store: each does for the other."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tapeworks.client.client import Client
from tests.support.hand_worker import SPEC, HandLease, HandWorker
from tests.support.postgres import Postgres

SETTINGS = {"LEASE_SECONDS": "2", "HEARTBEAT_SECONDS": "0.5", "REAPER_SECONDS": "0.2"}


@dataclass
class Instance:
    """A service process."""

    process: subprocess.Popen[bytes]
    client: httpx.Client
    url: str


@contextmanager
def instance(folder: Path, database: str, port: int) -> Iterator[Instance]:
    settings = {**SETTINGS, "DATABASE_URL": database, "DATA_DIR": str(folder), "PORT": str(port)}
    environment = os.environ | {f"TAPEWORKS_{name}": value for name, value in settings.items()}
    log = folder / f"{port}.log"
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-m", "tapeworks_service"], env=environment, stdout=out, stderr=out)
    url = f"http://127.0.0.1:{port}"
    with httpx.Client(base_url=url, timeout=60) as client:
        try:
            yield Instance(process, client, url)
        finally:
            process.kill()
            process.wait()


def answers(one: Instance) -> None:
    end = time.monotonic() + 30
    while True:
        assert one.process.poll() is None
        try:
            if one.client.get("/healthz").is_success:
                return
        except httpx.TransportError:
            assert time.monotonic() < end
            time.sleep(0.05)


@pytest.fixture
def pair(postgres_server: Postgres, tmp_path: Path, free_ports: list[int]) -> Iterator[tuple[Instance, Instance]]:
    """Both start at the same moment, on an empty database."""
    database = postgres_server.create()
    with ExitStack() as stack:
        both = [stack.enter_context(instance(tmp_path, database, port)) for port in free_ports]
        for one in both:
            answers(one)
        yield both[0], both[1]


def test_what_one_does_the_other_knows(pair: tuple[Instance, Instance]) -> None:
    a, b = pair
    workers = HandWorker(a.client), HandWorker(b.client)
    workers[0].register()
    with ThreadPoolExecutor(8) as pool:
        waiting = pool.submit(workers[1].ask, wait=20)
        headers = {"Idempotency-Key": "the same on both"}
        posts = [pool.submit(one.client.post, "/v1/jobs", json=SPEC, headers=headers) for one in (a, b) * 4]
        jobs = {post.result().json()["id"] for post in posts}
        assert len(jobs) == 1
        (job_id,) = jobs
        lease = HandLease(b.client, waiting.result().json())
        assert lease.job_id == job_id

        elsewhere = HandLease(a.client, lease.lease)
        revision = b.client.get(f"/v1/jobs/{job_id}").json()["revision"]
        changed = pool.submit(b.client.get, f"/v1/jobs/{job_id}?wait=20&unless={revision}")
        assert elsewhere.state("running").is_success
        assert changed.result().json()["state"] == "running"

        lease.index = elsewhere.index
        command = pool.submit(b.client.get, f"{lease.path}/commands?wait=20", headers=lease.headers)
        began = time.monotonic()
        assert a.client.post(f"/v1/jobs/{job_id}/cancel").is_success
        assert command.result().json() == {"command": "cancel"}
        assert time.monotonic() - began < 2
    upload = lease.upload("file.bin", b"through both")
    assert elsewhere.finish("cancelled", files=[upload], last_record=lease.index).json() == {"state": "cancelled"}
    assert a.client.get(f"/v1/jobs/{job_id}/artifacts/file.bin").content == b"through both"


@pytest.mark.slow
def test_a_stream_goes_on_at_the_other_instance(pair: tuple[Instance, Instance]) -> None:
    a, b = pair
    worker = HandWorker(a.client)
    worker.register()
    job_id = worker.submit()["id"]
    lease = worker.lease()
    seen: list[int] = []
    enough = threading.Event()

    def follow() -> None:
        with Client(b.url) as client:
            for event in client.events(job_id, follow=True):
                seen.append(event.seq)
                if len(seen) == 5:
                    enough.set()
                    break

    reader = threading.Thread(target=follow)
    reader.start()
    for number in range(20):
        lease.records({"record": "event", "type": "note", "data": {"message": str(number)}})
    assert enough.wait(20)
    reader.join()
    b.process.kill()
    with Client(a.url) as client:
        lease.finish("succeeded")
        rest = [event.seq for event in client.events(job_id, follow=True, after=seen[-1])]
    assert [*seen, *rest] == list(range(1, len(seen) + len(rest) + 1))


@pytest.mark.slow
def test_a_lost_attempt_is_reaped_once_and_one_instance_is_enough(pair: tuple[Instance, Instance]) -> None:
    a, b = pair
    worker = HandWorker(a.client)
    worker.register()
    job_id = worker.submit()["id"]
    worker.lease()
    revision = worker.job(job_id)["revision"]
    seen = b.client.get(f"/v1/jobs/{job_id}?wait=20&unless={revision}").json()
    assert (seen["state"], seen["failed_attempts"]) == ("queued", 1)
    a.process.kill()
    other = HandWorker(b.client)
    lease = other.lease(wait=20)
    assert (lease.job_id, lease.attempt) == (job_id, 2)
    assert lease.finish("succeeded").is_success
    events = b.client.get(f"/v1/jobs/{job_id}/events").json()["data"]
    assert [event["type"] for event in events].count("attempt_failed") == 1
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))


@pytest.mark.slow
def test_the_database_goes_away_and_comes_back(pair: tuple[Instance, Instance], postgres_server: Postgres) -> None:
    a, b = pair
    worker = HandWorker(a.client)
    worker.register()
    job_id = worker.submit()["id"]
    lease = worker.lease()
    seen: list[int] = []
    reader = threading.Thread(target=_read_all, args=(a.url, job_id, seen))
    reader.start()
    until = time.monotonic() + 20
    while not seen:
        assert time.monotonic() < until
        time.sleep(0.05)
    for end in (postgres_server.stop, postgres_server.kill):
        end()
        try:
            for one in pair:
                away = one.client.post("/v1/jobs", json=SPEC)
                assert (away.status_code, away.json()["code"]) == (503, "unavailable"), away.text
                assert int(away.headers["Retry-After"]) > 0
                assert one.client.get("/healthz").status_code == 200
                assert one.client.get("/readyz").status_code == 503
            assert lease.heartbeat().status_code == 503
        finally:
            postgres_server.start()
        until = time.monotonic() + 20
        while (beat := lease.heartbeat()).status_code == 503:  # a new connection takes its time where all are busy
            assert time.monotonic() < until
        assert beat.status_code == 200, "nobody reaped what could not be renewed"
        assert b.client.get(f"/v1/jobs/{job_id}").json()["attempt"] == 1
        lease.records({"record": "event", "type": "note", "data": {"message": "it is back"}})
    assert lease.finish("succeeded").is_success
    reader.join(30)
    assert seen == list(range(1, len(seen) + 1)), "one connection saw all of it, without loss or repeat"
    assert len(seen) == len(b.client.get(f"/v1/jobs/{job_id}/events").json()["data"])


def _read_all(url: str, job_id: str, seen: list[int]) -> None:
    """Every event of a job by one connection; it ends when the job has."""
    headers = {"Accept": "text/event-stream"}
    with httpx.stream("GET", f"{url}/v1/jobs/{job_id}/events", headers=headers, timeout=60) as answer:
        for line in answer.iter_lines():
            if line.startswith("id: "):
                seen.append(int(line.removeprefix("id: ")))
