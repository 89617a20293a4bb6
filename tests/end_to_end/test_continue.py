"""Jobs that go on from others, over HTTP: waiting, counting on, a checkpoint as the start, what is kept for them."""

import httpx
import pytest

from tapeworks.errors import Conflict
from tapeworks.schemas.jobs import Job, State
from tests.support.serving import Served, endless, running, spec

STEPS = 57
"""Of an epoch of the digits in batches of 32."""
UNLUCKY = {
    "source": {"component": "acme/Unlucky", "config": {"mounted": False}},
    "pipeline": [{"op": "batch", "batch_size": 2}],
}
SOURCE = spec(training={"epochs": 2, "checkpoint": {"every_steps": 40, "keep": 5}})


def going_on(source: str, epochs: int, restore: str = "all") -> dict[str, object]:
    return spec(training={"epochs": epochs, "initial_state": {"from": source, "restore": restore}})


def epochs_of(served: Served, job: Job) -> list[tuple[object, object]]:
    """(epoch, step) as the job told them."""
    events = served.client.events(job.id)
    return [(event.data["epoch"], event.data["step"]) for event in events if event.type == "epoch"]


@pytest.fixture(scope="module")
def source(served: Served) -> Job:
    """A job of two epochs that left checkpoints and no bundle."""
    job = served.run(SOURCE)
    assert job.state is State.SUCCEEDED, job.failure
    return job


@pytest.mark.slow
def test_jobs_wait_for_what_they_name_and_end_with_it(served: Served, source: Job) -> None:
    # The one slot is taken by a job that goes on from `source`: nothing below begins before it is cancelled.
    blocking = running(served, served.client.submit(endless(initial_state={"from": source.id})))
    with pytest.raises(Conflict) as kept:
        served.client.delete(source.id)
    assert (kept.value.status, kept.value.code) == (409, "in_use")
    assert blocking.id in str(kept.value)

    first = served.client.submit(SOURCE)
    second = served.client.submit(going_on(first.id, 3))
    failing = served.client.submit(spec(data=UNLUCKY))
    doomed = served.client.submit(going_on(failing.id, 3, "weights"))
    for waiting, wanted in ((second, first), (doomed, failing)):
        now = served.client.get(waiting.id)
        assert (now.state, now.waiting_for) == (State.QUEUED, [wanted.id])
    served.client.cancel(blocking.id)

    second = served.client.wait(second.id, 240)
    assert second.state is State.SUCCEEDED, second.failure
    assert second.waiting_for == []
    assert epochs_of(served, second) == [(3, 3 * STEPS)]
    assert second.progress.step == 3 * STEPS
    told = {event.type: event.data for event in served.client.events(second.id)}
    assert told["waiting"]["waiting_for"] == [first.id]
    assert (told["pinned"]["from"], told["pinned"]["kind"]) == (first.id, "checkpoint")

    doomed = served.client.wait(doomed.id, 240)
    assert doomed.state is State.FAILED
    assert doomed.failure is not None
    assert doomed.failure.code == "dependency_failed"
    assert failing.id in doomed.failure.message
    assert doomed.attempt == 0
    assert served.client.get(failing.id).state is State.FAILED


def test_a_checkpoint_in_the_middle_of_training(served: Served, source: Job) -> None:
    listed = httpx.get(f"{served.url}/v1/jobs/{source.id}/checkpoints").json()["data"]
    middle = next(one["id"] for one in listed if one["step"] == 40)
    job = served.run(going_on(middle, 2))
    assert job.state is State.SUCCEEDED, job.failure
    # It was inside the first epoch, whose rest belongs to other data: an epoch of this job's data begins.
    assert epochs_of(served, job) == [(1, 40 + STEPS), (2, 40 + 2 * STEPS)]
    (pinned,) = httpx.get(f"{served.url}/v1/jobs/{job.id}").json()["lineage"]["inputs"]
    assert (pinned["from"], pinned["job_id"], pinned["checkpoint_id"]) == (middle, source.id, middle)


def test_what_an_earlier_job_left_nothing_of(served: Served, source: Job) -> None:
    done = served.run(going_on(source.id, 2))
    assert done.failure is not None
    assert done.failure.code == "invalid_spec"
    assert "/training/epochs" in done.failure.message
    assert "has done 2, so 2 leave no training steps" in done.failure.message
    served.client.delete(source.id)
    refused = httpx.post(f"{served.url}/v1/jobs", json=going_on(source.id, 3))
    assert refused.status_code == 422
    (finding,) = refused.json()["errors"]
    assert finding["pointer"] == "/training/initial_state/from"
    assert f"there is no job '{source.id}'" in finding["message"]
