"""A user's hand on real trainings: how fast it is felt, and that nothing is lost by it."""

from __future__ import annotations

import tarfile
import time
from pathlib import Path

import numpy as np
import pytest

from tapeworks.schemas.jobs import Job, State
from tests.support.serving import Served, endless, eventually, running, spec

FELT_SECONDS = 2.0
"""What is asked of a running job is seen within a call of the compiled loop or so long; calls here are shorter."""


def in_state(served: Served, job: Job, *states: State, seconds: float = 60) -> Job:
    def there() -> Job | None:
        now = served.client.get(job.id)
        return now if now.state in states else None

    return eventually(there, seconds, f"{job.id} is {states}")


def felt(served: Served, job: Job, *states: State) -> Job:
    """The job in one of the states; how long that took was asked for a moment ago."""
    began = time.monotonic()
    now = in_state(served, job, *states)
    assert time.monotonic() - began < FELT_SECONDS
    return now


def weights(served: Served, job: Job, folder: Path) -> dict[str, bytes]:
    file = served.client.download(job.id, folder / f"{job.id}.tar.gz")
    with tarfile.open(file) as bundle:
        member = next(name for name in bundle.getnames() if name.endswith("training_state/values.npz"))
        bundle.extract(member, folder / job.id, filter="data")
    with np.load(folder / job.id / member) as values:
        return {name: values[name].tobytes() for name in values.files}


def series(served: Served, job: Job) -> dict[str, list[tuple[int, object]]]:
    found = served.client.metrics(job.id)
    return {name: [(step, value) for step, value, _ in found[name].points] for name in found}


@pytest.mark.slow
def test_a_job_is_paused_and_goes_on_where_it_stopped(served: Served) -> None:
    job = running(served, served.client.submit(endless()), step=100)
    served.tapeworks("pause", job.id)
    paused = felt(served, job, State.PAUSED)
    assert paused.failed_attempts == 0
    saved = paused.checkpoints.latest
    assert saved is not None
    assert saved.step >= 100
    assert served.run(spec()).state is State.SUCCEEDED, "a paused job holds no worker"
    served.tapeworks("resume", job.id)
    again = running(served, job, step=saved.step + 1)
    (rewound,) = [event.data["step"] for event in served.client.events(job.id) if event.type == "rewound"]
    assert (again.attempt, rewound) == (2, saved.step)
    assert again.diagnostics["resume"]["data"] == "iterator"
    served.tapeworks("cancel", job.id)
    assert felt(served, job, State.CANCELLED).checkpoints.latest is not None


@pytest.mark.slow
def test_a_drained_worker_hands_its_job_back_and_goes_on_when_it_may(served: Served) -> None:
    job = running(served, served.client.submit(endless()), step=50)
    (worker,) = served.client.workers()
    served.tapeworks("drain", worker.id)
    back = felt(served, job, State.QUEUED)
    assert (back.failed_attempts, back.checkpoints.latest is not None) == (0, True)
    assert served.client.workers()[0].state == "draining"
    served.tapeworks("undrain", worker.id)
    assert running(served, job, step=51).attempt == 2
    served.client.cancel(job.id)
    felt(served, job, State.CANCELLED)


def test_a_job_that_has_not_begun_to_train_stops_at_once(served: Served) -> None:
    for wish, state in ((served.client.cancel, State.CANCELLED), (served.client.pause, State.PAUSED)):
        job = served.client.submit(endless())
        in_state(served, job, State.STARTING, State.RUNNING)
        wish(job.id)
        felt(served, job, state)
        if state is State.PAUSED:
            served.client.cancel(job.id)


@pytest.mark.slow
def test_a_retry_from_a_checkpoint_ends_as_if_nothing_had_been(served: Served, tmp_path: Path) -> None:
    training = {"max_steps": 400, "deterministic": True, "report_every_steps": 50}
    training["checkpoint"] = {"every_steps": 100, "every_seconds": None, "keep": 9}
    wanted = spec(
        pipeline=[{"op": "shuffle", "buffer_size": 500}, {"op": "repeat"}], training=training, export={}
    )  # fmt: skip
    whole = served.run(wanted)
    assert whole.state is State.SUCCEEDED, whole.failure
    middle = next(one for one in served.client.checkpoints(whole.id) if one.step == 200)
    retried = served.client.wait(served.client.retry(whole.id, middle.id).id, 120)
    assert retried.state is State.SUCCEEDED, retried.failure
    assert retried.lineage["retry_of"] == whole.id
    assert weights(served, whole, tmp_path) == weights(served, retried, tmp_path)
    later = {name: [point for point in points if point[0] > 200] for name, points in series(served, whole).items()}
    assert series(served, retried) == later
    listed = served.tapeworks("checkpoints", whole.id).stdout
    assert middle.id in listed
    served.tapeworks("checkpoints", whole.id, middle.id, "-o", str(tmp_path / "state.tar"))
    assert (tmp_path / "state.tar").stat().st_size == middle.bytes
    served.tapeworks("delete", whole.id, "--yes")
    served.tapeworks("change", retried.id, "--name", "the second one", "--label", "kept=yes")
    assert [job.id for job in served.client.list(label={"kept": "yes"})] == [retried.id]
