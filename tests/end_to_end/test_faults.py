"""`tapeworks serve` that ends, in order or not: nothing is left behind, and jobs continue."""

import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from tapeworks.schemas.jobs import Job, State
from tests.support.serving import Served, endless, eventually, running, serving


def again(served: Served, job: Job) -> Job:
    """The job in its second attempt, training."""

    def there() -> Job | None:
        now = served.client.get(job.id)
        assert not now.finished, now.failure
        return now if now.attempt == 2 and now.state is State.RUNNING and now.progress.step else None

    return eventually(there, 120, "the second attempt trains")


def end(served: Served, job: Job) -> None:
    served.client.cancel(job.id)
    assert served.client.wait(job.id, 60).state is State.CANCELLED


@pytest.mark.slow
def test_a_job_goes_on_after_the_service_was_stopped_in_order(tmp_path: Path) -> None:
    with serving(tmp_path, "--cpu-slots", "1") as served:
        job = running(served, served.client.submit(endless()), step=100)
        family = {*served.worker_processes(), served.agent}
    assert not [process for process in family if process.is_running()]
    with serving(tmp_path, "--cpu-slots", "1") as served:
        now = again(served, job)
        assert now.failed_attempts == 0
        assert now.progress.step >= 100
        end(served, job)


@pytest.mark.slow
def test_a_killed_server_takes_the_worker_with_it(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="-9"), serving(tmp_path) as served:  # noqa: PT012 — the exit is the point
        family = [served.agent, *served.worker_processes()]
        served.process.kill()
        _, alive = psutil.wait_procs(family, timeout=10)
        assert not alive, alive
    with pytest.raises(httpx.ConnectError):
        httpx.get(served.url)


@pytest.mark.slow
def test_a_worker_that_is_stopped_is_replaced_and_its_job_goes_on(tmp_path: Path) -> None:
    with serving(tmp_path, "--cpu-slots", "1", environment={"TAPEWORKS_WORKER_SILENCE_SECONDS": "5"}) as served:
        job = running(served, served.client.submit(endless()), step=100)
        former = served.agent
        family = {*served.worker_processes(), former}
        former.suspend()

        def gone() -> bool:
            return not any(process.is_running() for process in family)

        eventually(gone, 90, "the stopped agent and all that it started have ended")
        now = again(served, job)
        assert now.progress.step >= 100
        end(served, now)
        health = [sys.executable, "-m", "tapeworks_workers.health", str(served.data / "worker")]
        assert subprocess.run(health, check=False).returncode == 0
        served.agent.suspend()  # and ends in order with the server
    assert subprocess.run([*health[:-1], str(tmp_path)], check=False, capture_output=True).returncode == 1
