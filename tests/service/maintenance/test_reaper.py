"""What silence means: attempts whose lease ran out, and those whose silence was not theirs."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.hand_worker import HandLease, all_calls, spec


@pytest.mark.slow
def test_a_silent_worker_loses_its_job_and_can_change_nothing(own_service: Any) -> None:
    with own_service(lease_seconds=2, reaper_seconds=0.1, heartbeat_seconds=0.1) as (client, worker):
        worker.register()
        job = worker.submit()
        silent = worker.lease()
        silent.state("running")
        second = worker.lease(wait=20)
        assert (second.job_id, second.attempt) == (job["id"], 2)
        zombie = all_calls(silent)
        assert {(answer.status_code, answer.json()["code"]) for answer in zombie} == {(409, "lease_lost")}
        assert second.finish("succeeded").json() == {"state": "succeeded"}
        seen = worker.job(job["id"])
        assert (seen["attempt"], seen["failed_attempts"], seen["state"]) == (2, 1, "succeeded")
        events = client.get(f"/v1/jobs/{job['id']}/events").json()["data"]
        lost = [event["data"]["failure"]["code"] for event in events if event["type"] == "attempt_failed"]
        assert lost == ["worker_lost"]
        workers = client.get("/v1/workers").json()["data"]
        assert workers[0]["id"] == "hand"


@pytest.mark.slow
def test_a_job_that_loses_every_worker_fails_with_the_cause(own_service: Any) -> None:
    with own_service(lease_seconds=0.3, reaper_seconds=0.1, retry_seconds=0) as (client, worker):
        worker.register()
        job = worker.submit(spec(limits={"max_attempts": 2}))
        worker.lease()
        worker.lease(wait=20)
        revision = worker.job(job["id"])["revision"]
        while (seen := client.get(f"/v1/jobs/{job['id']}?wait=10&unless={revision}").json())["state"] != "failed":
            revision = seen["revision"]
        assert (seen["attempt"], seen["failure"]["code"]) == (2, "worker_lost")


def test_a_restart_reaps_nothing_before_workers_could_renew(own_sqlite_service: Any, tmp_path: Path) -> None:
    with own_sqlite_service() as (_, worker):
        worker.register()
        job = worker.submit()
        lease = worker.lease()
    database = sqlite3.connect(tmp_path / "data" / "tapeworks.db")
    database.execute("UPDATE jobs SET lease_expires_at = 0")  # it ran out while no service was there
    database.commit()
    database.close()
    with own_sqlite_service(reaper_seconds=0.05) as (client, worker):
        assert client.get(f"/v1/jobs/{job['id']}?wait=0.5").json()["attempt"] == 1
        assert HandLease(client, lease.lease).heartbeat().status_code == 200
        assert worker.job(job["id"])["attempt"] == 1
        assert HandLease(client, lease.lease).finish("succeeded").status_code == 200


@pytest.mark.slow
def test_a_database_that_was_locked_for_longer_than_a_lease_costs_no_attempt(
    own_sqlite_service: Any, tmp_path: Path
) -> None:
    with own_sqlite_service(lease_seconds=3, reaper_seconds=0.05, busy_seconds=0.5) as (client, worker):
        worker.register()
        job = worker.submit()
        lease = worker.lease()
        with closing(sqlite3.connect(tmp_path / "data" / "tapeworks.db", isolation_level=None)) as blocker:
            blocker.execute("BEGIN IMMEDIATE")
            end = time.monotonic() + 4.0  # the outage: longer than the lease
            while time.monotonic() < end:
                assert lease.heartbeat().status_code == 503
            blocker.execute("ROLLBACK")
        answers = client.get(f"/v1/jobs/{job['id']}?wait=1&unless={worker.job(job['id'])['revision']}").json()
        assert (answers["attempt"], answers["state"]) == (1, "starting"), "the reaper leaves time to renew"
        assert lease.heartbeat().status_code == 200
        assert lease.finish("succeeded").is_success


def test_lease_requests_are_forgotten_where_nothing_is_reaped(own_sqlite_service: Any, tmp_path: Path) -> None:
    with own_sqlite_service(lease_seconds=0.3, reaper_seconds=0.05) as (_, worker):
        worker.register()
        worker.submit()
        worker.lease().finish("succeeded")
        with closing(sqlite3.connect(tmp_path / "data" / "tapeworks.db", isolation_level=None)) as database:
            database.execute("UPDATE lease_requests SET created_at = 0")
            end = time.monotonic() + 20
            while database.execute("SELECT count(*) FROM lease_requests").fetchone() != (0,):
                assert time.monotonic() < end
