"""Processes that die: what was running goes on, and nothing is left behind."""

import signal
from pathlib import Path

import httpx
import psutil
import pytest

from tapeworks.jobs import Job, State
from tests.end_to_end.serving import COMPONENTS, Served, endless, eventually, running, serving, spec

LEASE = {"TAPEWORKS_LEASE_SECONDS": "3", "TAPEWORKS_HEARTBEAT_SECONDS": "1", "TAPEWORKS_REAPER_SECONDS": "0.5"}


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> "Served":
    """A server of this module's own, with short leases: its processes are killed."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in LEASE.items():
            patch.setenv(name, value)
        with serving(tmp_path_factory.mktemp("fragile"), "--components", str(COMPONENTS), "--cpu-slots", "1") as server:
            yield server


def started_by(served: Served, job: Job, before: set[psutil.Process]) -> psutil.Process:
    """The runner of a job: what is there now and was not before."""
    running(served, job)
    new = sorted(served.worker_processes() - before, key=lambda process: process.create_time())
    assert new
    return new[-1]


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


def test_a_killed_runner_is_another_attempt_from_the_checkpoint(fragile: Served) -> None:
    before = fragile.worker_processes()
    job = fragile.client.submit(endless(checkpoint={"every_steps": 500, "every_seconds": None}))
    runner = started_by(fragile, job, before)
    saved = eventually(lambda: fragile.client.get(job.id).checkpoints.latest, 60, "a checkpoint is there")
    runner.send_signal(signal.SIGKILL)
    job = again(fragile, job)
    assert job.failed_attempts == 1
    events = list(fragile.client.events(job.id))
    failed = [event.data["failure"] for event in events if event.type == "attempt_failed"]
    assert [failure["code"] for failure in failed if isinstance(failure, dict)] == ["worker_lost"]
    (rewound,) = [event.data["step"] for event in events if event.type == "rewound"]
    assert isinstance(rewound, int)
    assert rewound >= saved.step
    assert job.progress.step >= rewound
    end(fragile, job)


def test_a_killed_zygote_ends_no_job_and_is_replaced(fragile: Served) -> None:
    idle = fragile.worker_processes()
    job = running(fragile, fragile.client.submit(endless()))
    busy = fragile.worker_processes() - idle
    for zygote in idle:
        zygote.kill()
    eventually(lambda: fragile.worker_processes() - idle - busy or None, 60, "a new zygote is there")
    step = fragile.client.get(job.id).progress.step
    job = running(fragile, job, step=step + 200)
    assert job.attempt == 1
    end(fragile, job)
    assert fragile.run(spec()).state is State.SUCCEEDED


def test_a_killed_agent_takes_its_runners_with_it(fragile: Served) -> None:
    job = running(fragile, fragile.client.submit(endless(checkpoint={"every_steps": 500, "every_seconds": None})))
    agent = fragile.agent
    family = fragile.worker_processes()
    agent.kill()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive, alive
    job = again(fragile, job)
    assert fragile.agent.pid != agent.pid
    end(fragile, job)


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


def test_a_killed_server_takes_the_worker_with_it(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="-9"), serving(tmp_path) as served:  # noqa: PT012 — the exit is the point
        family = [served.agent, *served.worker_processes()]
        served.process.kill()
        _, alive = psutil.wait_procs(family, timeout=10)
        assert not alive, alive
    with pytest.raises(httpx.ConnectError):
        httpx.get(served.url)


def test_a_store_that_cannot_be_written_is_told_and_the_next_job_runs(fragile: Served) -> None:
    store = fragile.data / "artifacts"
    aside = store.rename(fragile.data / "aside")
    store.write_text("not a folder")
    try:
        job = fragile.run(spec(export={}, limits={"max_attempts": 1}))
    finally:
        store.unlink()
        aside.rename(store)
    assert job.state is State.FAILED
    assert job.failure is not None
    assert job.failure.code == "storage_unavailable"
    after = fragile.run(spec(export={}))
    assert after.state is State.SUCCEEDED, after.failure
