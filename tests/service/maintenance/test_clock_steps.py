"""Wall clocks that are set while jobs run: no healthy job is reaped, no dead one kept."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.hand_worker import HandLease, HandWorker, spec
from tests.support.stepped_clock import SteppedService, stepped_service

LEASE = 1.5
STEPS = (1, -1, 60, -60, 3600, -3600)


@pytest.fixture(params=["sqlite", "postgresql"])
def service(request: pytest.FixtureRequest, tmp_path: Path, free_ports: list[int]) -> Iterator[SteppedService]:
    """With short leases, on either database."""
    server = request.getfixturevalue("postgres_server") if request.param == "postgresql" else None
    settings: dict[str, Any] = {"lease_seconds": LEASE, "heartbeat_seconds": 0.2, "reaper_seconds": 0.1}
    with stepped_service(tmp_path, server, port=free_ports[0], retry_seconds=0.05, **settings) as running:
        yield running


def while_renewed(healthy: list[HandLease], done: Callable[[], bool], *, seconds: float) -> None:
    """Renew leases until something is so. Fails where a lease was lost, or it does not come."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "the dead job was kept"
        for lease in healthy:
            answer = lease.heartbeat()
            assert answer.status_code == 200, answer.text
        time.sleep(0.05)


@pytest.mark.slow
def test_steps_reap_no_healthy_job_and_keep_no_dead_one(service: SteppedService) -> None:
    worker = HandWorker(service.client)
    worker.register()
    kept = worker.submit()
    healthy = worker.lease(wait=5)
    for seconds in STEPS:
        lost = worker.submit(spec(limits={"max_attempts": 1}))
        worker.lease(wait=5)
        service.step(seconds)
        while_renewed([healthy], lambda job=lost: worker.job(job["id"])["state"] == "failed", seconds=10 * LEASE)
        assert worker.job(lost["id"])["failure"]["code"] == "worker_lost"
        assert (worker.job(kept["id"])["attempt"], worker.job(kept["id"])["failed_attempts"]) == (1, 0)
    assert healthy.finish("succeeded").is_success


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [3600, -3600])
def test_a_step_uses_up_no_time_limit_and_lengthens_no_pause(service: SteppedService, seconds: int) -> None:
    worker = HandWorker(service.client)
    worker.register()
    job = worker.submit(spec(limits={"timeout_seconds": 600, "max_attempts": 3}))
    worker.lease(wait=5).fail("worker_lost", retryable=True)  # it waits for its next attempt
    service.step(seconds)
    second = worker.lease(wait=20)
    assert second.job_id == job["id"]
    assert 500 < second.lease["timeout_seconds"] <= 600
    assert second.finish("succeeded").is_success


def test_workers_that_are_there_are_not_lost_by_a_step_and_those_that_are_gone_are(service: SteppedService) -> None:
    worker, gone = HandWorker(service.client), HandWorker(service.client, "gone")
    worker.register()
    gone.register()
    service.step(-3600)

    def states() -> dict[str, str]:
        worker.ask()  # a sign of life
        listed = service.client.get("/v1/workers").json()["data"]
        return {row["id"]: row["state"] for row in listed}

    end = time.monotonic() + 10 * LEASE
    while (seen := states()) != {"hand": "ready", "gone": "lost"}:
        assert time.monotonic() < end, seen
        time.sleep(0.05)


@pytest.mark.slow
def test_a_service_that_stood_still_for_longer_than_a_lease_reaps_nobody(service: SteppedService) -> None:
    worker = HandWorker(service.client)
    worker.register()
    kept = worker.submit()
    healthy = worker.lease(wait=5)
    lost = worker.submit(spec(limits={"max_attempts": 1}))
    worker.lease(wait=5)
    service.process.send_signal(signal.SIGSTOP)
    time.sleep(2 * LEASE)  # the outage itself
    service.process.send_signal(signal.SIGCONT)
    while_renewed([healthy], lambda: worker.job(lost["id"])["state"] == "failed", seconds=10 * LEASE)
    assert worker.job(kept["id"])["failed_attempts"] == 0
    late = [line for line in service.client.get("/metrics").text.splitlines() if "loop_lateness_seconds_sum" in line]
    assert float(late[0].split()[1]) > LEASE
