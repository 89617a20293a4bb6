"""Many jobs with one fault each, and what became of them, gathered into an outcome."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from qualification.faults import specs
from qualification.faults.checks import Story, check, reached, weights
from qualification.faults.outcome import Outcome
from qualification.faults.worlds import SLOTS, World
from tapeworks.schemas.jobs import Event, Job, State
from tests.support.serving import eventually

WAIT = 240
Fault = Callable[[Job, int], float]
"""Does its harm to a job, the n-th; gives the time of it."""


@dataclass
class Case:
    """A job and what was done to it."""

    job: Job
    at: float
    """Seconds since 1970 of the fault."""
    reached: int
    """Steps that it had made before."""


def suffer(world: World, outcome: Outcome, fault: Fault, spec: dict[str, Any], *, same: bool = True) -> list[Story]:
    """Run `outcome.times` jobs, as many at once as there is room for, and do the fault to each; gather what is seen.

    `same`: a job's weights must end as those of an undisturbed one, to the byte.
    """
    wanted = undisturbed(world, spec) if same else None

    def one(number: int) -> Case:
        job = world.client.submit(spec)
        at = fault(job, number)
        eventually(lambda: _moved_on(world, job.id), WAIT, f"{job.id} goes on")
        before = reached(world.client, job.id)
        return Case(world.client.wait(job.id, WAIT), at, before)

    with ThreadPoolExecutor(SLOTS * len(world.agents)) as pool:
        cases = list(pool.map(one, range(outcome.times)))
    return [gather(world, outcome, case, spec, weights_wanted=wanted) for case in cases]


def gather(
    world: World, outcome: Outcome, case: Case, spec: dict[str, Any], *, weights_wanted: str | None = None
) -> Story:
    """Check a finished job and count it."""
    training = spec["training"]
    outcome.interval = outcome.interval or training["checkpoint"]["every_steps"]
    story = check(world.client, case.job.id, steps=training["max_steps"], report=training["report_every_steps"])
    count(outcome, story)
    if (again := first_again(story, case.at)) is not None:
        outcome.recovered(again.at.timestamp() - case.at)
    rewound = next((one for one in story.of_type("rewound") if one.at.timestamp() > case.at), None)
    if rewound is not None and isinstance(begun := rewound.data["step"], int):
        outcome.again(max(0, case.reached - begun))
    if weights_wanted is not None and story.job.state is State.SUCCEEDED:
        if weights(world.http, story.job) != weights_wanted:
            outcome.problems.append(f"{case.job.id}: its weights are not those of an undisturbed run")
    return story


def count(outcome: Outcome, story: Story, *, wanted: State = State.SUCCEEDED) -> None:
    """A job that had to end so: lost where it did not."""
    outcome.jobs += 1
    outcome.lost += story.job.state is not wanted
    outcome.published_twice += len(story.published) > 1
    outcome.problems += story.problems
    if story.job.state is not wanted:
        outcome.problems.append(f"{story.job.id} {story.job.state.value}: {story.job.failure}")


def first_again(story: Story, at: float) -> Event | None:
    """The first event after a time that says that the job trains."""
    trains = (
        event
        for event in story.events
        if event.type == "rewound" or (event.type == "state" and event.data.get("phase") == "training")
    )
    return next((event for event in trains if event.at.timestamp() > at), None)


def undisturbed(world: World, spec: dict[str, Any]) -> str:
    """The digest of the weights that a job ends with where nothing happens to it."""
    text = repr(spec)
    if text not in world.digests:
        job = world.client.wait(world.client.submit(spec).id, WAIT)
        assert job.state is State.SUCCEEDED, job.failure
        story = check(
            world.client, job.id, steps=spec["training"]["max_steps"], report=spec["training"]["report_every_steps"]
        )
        assert not story.problems, story.problems
        world.digests[text] = weights(world.http, job)
    return world.digests[text]


def saved(world: World, job: Job, *, more: int = 1) -> Job:
    """The job, once so many checkpoints of its newest attempt were announced."""

    def there() -> Job | None:
        now = world.client.get(job.id)
        assert not now.finished, f"{now.id} {now.state.value}: {now.failure}"
        latest = now.checkpoints.latest
        enough = latest is not None and latest.attempt == now.attempt and now.state is State.RUNNING
        return now if enough and latest.step >= more * specs.INTERVAL else None

    return eventually(there, WAIT, f"{job.id} has saved {more} checkpoints")


def training(world: World, job: Job, *, attempt: int = 1) -> Job:
    """The job, once an attempt, or a later one, trains."""

    def there() -> Job | None:
        now = world.client.get(job.id)
        assert not now.finished, f"{now.id} {now.state.value}: {now.failure}"
        return now if now.attempt >= attempt and now.state is State.RUNNING and now.phase == "training" else None

    return eventually(there, WAIT, f"{job.id} trains")


def another_runs(world: World, outcome: Outcome, **over: Any) -> float:
    """Seconds from now until a new job, which must succeed, is training."""
    began = time.time()
    done = world.client.wait(world.client.submit(specs.short(**over)).id, WAIT)
    story = check(world.client, done.id, steps=None, report=specs.REPORT)
    count(outcome, story)
    again = first_again(story, began)
    return again.at.timestamp() - began if again is not None else 0.0


def _moved_on(world: World, job_id: str) -> bool:
    """Whether the attempt that the fault was done to is over."""
    now = world.client.get(job_id)
    return now.finished or now.attempt > 1 or now.state is State.QUEUED
