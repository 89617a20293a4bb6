"""The agent with a real service and real runners: jobs, commands, lost processes, outages, changing components."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

OWN = """
import os, sys
from tapeworks import Source, component

@component("own/talkative")
class Talkative(Source):
    def dataset(self):
        import tensorflow as tf
        print("tensorflow sees", len(tf.config.list_physical_devices("GPU")), "GPUs")
        for name in sorted(os.environ):
            if name.startswith(("TAPEWORKS", "CUDA", "TF_")):
                print(f"{name}={os.environ[name]}")
        print("x" * 20000)
        sys.stderr.write("to stderr\\n")
        return tf.data.Dataset.from_tensor_slices((tf.random.stateless_normal((64, 4), (1, 2)), tf.zeros(64, tf.int32)))
"""
MARK = """
from tapeworks import component

@component("own/mark")
def mark(x):
    return x
"""


def spec(**training: Any) -> dict[str, Any]:
    return {
        "data": {"source": "digits", "pipeline": [{"op": "batch", "batch_size": 64}]},
        "model": {"component": "mlp", "config": {"hidden": [16], "outputs": 10}},
        "optimizer": "keras/Adam",
        "loss": {"component": "keras/SparseCategoricalCrossentropy", "config": {"from_logits": True}},
        "training": {"epochs": 1, **training},
    }


LONG = spec(epochs=1_000_000, checkpoint={"every_seconds": 0.5})
ENDLESS = spec(epochs=1_000_000, checkpoint=None)


@pytest.fixture(scope="module")
def components(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_talkative.py").write_text(OWN)
    return folder


@pytest.fixture(scope="module")
def worker(
    service: Any, components: Path, start_worker: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    options = ("--id", "tester", "--cpu-slots", "2", "--components", str(components), "--label", "zone=a")
    secret = {"TAPEWORKS_WORKER_KEY": "tw_secret"}
    with start_worker(service, tmp_path_factory.mktemp("worker"), *options, **secret) as running:
        yield running


def cancel(service: Any, job_id: str) -> dict[str, Any]:
    assert service.api.post(f"/v1/jobs/{job_id}/cancel").is_success
    job: dict[str, Any] = service.until(job_id, lambda job: job["state"] not in ("starting", "running", "exporting"))
    return job


@pytest.fixture(autouse=True)
def _nothing_is_left_to_the_next(service: Any) -> Iterator[None]:
    """A test that failed may have left a job, which would be what the next one's worker gets."""
    yield
    for job in service.data("/v1/jobs"):
        if not job["finished_at"]:
            service.api.post(f"/v1/jobs/{job['id']}/cancel")


def rewound(service: Any, job_id: str) -> list[int]:
    """The steps that later attempts began with."""
    events = service.data(f"/v1/jobs/{job_id}/events")
    return [event["data"]["step"] for event in events if event["type"] == "rewound"]


@pytest.mark.slow
def test_a_job_runs_and_what_it_prints_is_kept(service: Any, worker: Any) -> None:
    talkative = spec() | {"data": {"source": "own/talkative", "pipeline": [{"op": "batch", "batch_size": 64}]}}
    job_id = service.submit(talkative)
    job = service.until(job_id, lambda job: job["state"] in ("succeeded", "failed"))
    assert job["state"] == "succeeded", job["failure"]
    assert job["worker"] == "tester"
    lines = service.data(f"/v1/jobs/{job_id}/logs")
    texts = {line["text"]: line["stream"] for line in lines}
    assert texts["to stderr"] == "stderr"
    assert texts["tensorflow sees 0 GPUs"] == "stdout"
    assert texts["CUDA_VISIBLE_DEVICES=-1"] == "stdout"
    assert texts["TF_FORCE_GPU_ALLOW_GROWTH=true"] == "stdout"
    assert not [text for text in texts if text.startswith("TAPEWORKS")]
    (long,) = [text for text in texts if text.startswith("xxx")]
    assert len(long) == 16_384
    assert [line["seq"] for line in lines] == sorted(line["seq"] for line in lines)


@pytest.mark.slow
def test_a_job_is_cancelled_and_the_next_one_runs(service: Any, worker: Any) -> None:
    job_id = service.submit(ENDLESS)
    service.until(job_id, lambda job: job["progress"]["step"] > 0)
    assert cancel(service, job_id)["state"] == "cancelled"
    following = service.submit(spec())
    assert service.until(following, lambda job: job["finished_at"])["state"] == "succeeded"


@pytest.mark.slow
def test_a_killed_runner_is_taken_up_from_its_checkpoint(service: Any, worker: Any, until: Any) -> None:
    job_id = service.submit(LONG)
    service.until(job_id, lambda job: job["checkpoints"]["latest"])
    (runner,) = worker.runners()
    os.kill(runner, signal.SIGKILL)
    job = service.until(job_id, lambda job: job["attempt"] == 2 and job["state"] == "running")
    assert job["failed_attempts"] == 1
    events = service.data(f"/v1/jobs/{job_id}/events")
    (failed,) = [event["data"] for event in events if event["type"] == "attempt_failed"]
    assert failed["failure"]["code"] == "worker_lost"
    assert "SIGKILL" in failed["failure"]["message"]
    assert until(lambda: rewound(service, job_id), what="the step that attempt 2 begins with")[0] > 0
    assert cancel(service, job_id)["state"] == "cancelled"
    until(lambda: not worker.runners(), what="the runner is gone")


@pytest.mark.slow
def test_a_killed_zygote_ends_no_job(service: Any, worker: Any, gone: Callable[[int], bool], until: Any) -> None:
    job_id = service.submit(LONG)
    service.until(job_id, lambda job: job["progress"]["step"] > 0)
    (runner,) = worker.runners()
    zygotes = [child.pid for child in worker.children() if child.pid != runner]
    for zygote in zygotes:
        os.kill(zygote, signal.SIGKILL)
    until(lambda: all(gone(zygote) for zygote in zygotes))
    step = service.job(job_id)["progress"]["step"]
    service.until(job_id, lambda job: job["progress"]["step"] > step)
    small = service.submit(spec())
    assert service.until(small, lambda job: job["finished_at"])["state"] == "succeeded"
    assert worker.runners() == [runner]
    assert service.job(job_id)["attempt"] == 1
    cancel(service, job_id)


@pytest.mark.slow
def test_an_outage_of_the_service_touches_no_job(service: Any, worker: Any) -> None:
    job_id = service.submit(LONG)
    before = service.until(job_id, lambda job: job["progress"]["step"] > 0)
    (runner,) = worker.runners()
    service.stop()
    service.start()
    after = service.until(job_id, lambda job: job["progress"]["step"] > before["progress"]["step"])
    assert after["attempt"] == 1
    assert worker.runners() == [runner]
    cancel(service, job_id)


def test_a_lost_lease_kills_the_runner(service: Any, worker: Any, gone: Callable[[int], bool], until: Any) -> None:
    job_id = service.submit(LONG)
    service.until(job_id, lambda job: job["progress"]["step"] > 0)
    (runner,) = worker.runners()
    os.kill(worker.pid, signal.SIGSTOP)
    service.until(job_id, lambda job: job["state"] == "queued")
    assert not gone(runner)
    os.kill(worker.pid, signal.SIGCONT)
    until(lambda: gone(runner), what="the runner of the lost lease is killed")
    service.until(job_id, lambda job: job["attempt"] == 2 and job["state"] == "running")
    cancel(service, job_id)


@pytest.mark.slow
def test_changed_components_are_loaded_again(service: Any, worker: Any, components: Path, until: Any) -> None:
    def names() -> list[str]:
        return [entry["name"] for entry in service.data("/v1/components")]

    job_id = service.submit(LONG)
    service.until(job_id, lambda job: job["progress"]["step"] > 0)
    (runner,) = worker.runners()
    (components / "own_mark.py").write_text(MARK)
    until(lambda: "own/mark" in names(), what="the new component is in the catalogue")
    (components / "own_mark.py").write_text("import a_module_that_is_not_there\n")

    def refused() -> list[str]:
        (told,) = service.data("/v1/workers")
        return [one["reason"] for one in told["refused"]]

    (reason,) = until(refused, what="the broken component is refused")
    assert "a_module_that_is_not_there" in reason
    assert "own/mark" not in names()
    assert "own/talkative" in names()
    assert worker.runners() == [runner]
    cancel(service, job_id)


@pytest.mark.slow
def test_a_stopped_worker_hands_its_job_back_and_leaves_nothing(
    service: Any, worker: Any, start_worker: Any, tmp_path: Path, gone: Callable[[int], bool], until: Any
) -> None:
    job_id = service.submit(LONG)
    service.until(job_id, lambda job: job["progress"]["step"] > 0 and job["checkpoints"]["latest"])
    children = [child.pid for child in worker.children()]
    assert worker.stop() == 0
    assert all(gone(child) for child in children)
    job = service.job(job_id)
    assert (job["state"], job["failed_attempts"]) == ("queued", 0)
    latest = job["checkpoints"]["latest"]["step"]

    with start_worker(service, tmp_path, "--id", "successor", "--cpu-slots", "1") as successor:
        service.until(job_id, lambda job: job["attempt"] == 2 and job["progress"]["step"] > latest)
        assert rewound(service, job_id) == [latest]
        children = [child.pid for child in successor.children()]
        successor.stop(signal.SIGKILL)
        until(lambda: all(gone(child) for child in children), seconds=10, what="the agent took all with it")
    with start_worker(service, tmp_path, "--id", "successor", "--cpu-slots", "1"):
        service.until(job_id, lambda job: job["attempt"] == 3 and job["state"] == "running")
        assert cancel(service, job_id)["state"] == "cancelled"


@pytest.mark.slow
def test_small_jobs_run_at_once_by_the_cores_that_they_ask_for(service: Any, start_worker: Any, tmp_path: Path) -> None:
    """One slot has all cores; a job that asks for one core leaves the others to the next."""
    cores = len(os.sched_getaffinity(0))
    small = {**ENDLESS, "resources": {"cpus": 1, "worker_labels": {"zone": "small"}}}
    options = ("--id", "small", "--cpu-slots", "1", "--label", "zone=small")
    with start_worker(service, tmp_path, *options):
        ids = [service.submit(small) for _ in range(cores)]
        for job_id in ids:
            service.until(job_id, lambda job: job["progress"]["step"] > 0)
        waiting = service.submit(small)
        assert all(service.job(job_id)["state"] == "running" for job_id in ids)
        assert service.job(waiting)["state"] == "queued"
        cancel(service, ids[0])
        service.until(waiting, lambda job: job["progress"]["step"] > 0)
        for job_id in (*ids[1:], waiting):
            cancel(service, job_id)
