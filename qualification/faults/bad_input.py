"""Rows of the fault table that need no violence: requests, jobs and clocks that are not as they should be."""

from __future__ import annotations

import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import httpx

from qualification.faults import specs
from qualification.faults.cases import WAIT, another_runs, count, saved
from qualification.faults.checks import check
from qualification.faults.outcome import Outcome
from qualification.faults.processes import killed, python_with_clock
from qualification.faults.worlds import START_SECONDS, World
from tapeworks.schemas.jobs import State
from tests.support.serving import eventually

AT_ONCE = 100
AGAIN = 5


def same_post(world: World, times: int) -> Outcome:
    """The same POST 100 times at once with one key is one job."""
    outcome = Outcome("the same POST 100 times at once with one key", times)
    for _ in range(times):
        key, spec = str(uuid4()), specs.short(name=f"once {uuid4()}")
        with ThreadPoolExecutor(AT_ONCE) as pool:

            def post(_: int, key: str = key, spec: dict[str, Any] = spec) -> tuple[int, str]:
                for _ in range(AGAIN):
                    answer = world.http.post("/v1/jobs", json=spec, headers={"Idempotency-Key": key})
                    if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                        break  # a busy machine's service asks to come again, as every client does
                return answer.status_code, answer.json().get("id", answer.text)

            answers = list(pool.map(post, range(AT_ONCE)))
        statuses = sorted(status for status, _ in answers)
        made = {job_id for _, job_id in answers}
        listed = [job.id for job in world.client.list(name=spec["name"])]
        if statuses != [200] * (AT_ONCE - 1) + [201] or len(made) != 1 or set(listed) != made or len(listed) != 1:
            outcome.problems.append(f"{len(made)} ids, {len(listed)} listed, answered {sorted(set(statuses))}")
        world.client.wait(listed[0], WAIT)
        count(outcome, check(world.client, listed[0], steps=None, report=1))
    return outcome


def poison(world: World, times: int) -> Outcome:
    """A job that kills its process every time ends after `max_attempts`, told why; the worker lives."""
    outcome = Outcome("a job that kills its worker process each time", times)
    pids = {agent.name: agent.process and agent.process.pid for agent in world.agents}
    for _ in range(times):
        done = world.client.wait(world.client.submit(specs.with_source("faults/Poison", harmless=False)).id, WAIT)
        story = check(world.client, done.id, steps=None, report=1)
        count(outcome, story, wanted=State.FAILED)
        failure = story.job.failure
        if (story.job.attempt, story.job.failed_attempts) != (3, 3) or failure is None or failure.code != "worker_lost":
            outcome.problems.append(f"{done.id}: attempt {story.job.attempt}, {failure}")
        elif "SIGKILL" not in failure.message:
            outcome.problems.append(f"{done.id} does not say how: {failure.message}")
        another_runs(world, outcome)
    if pids != {agent.name: agent.process and agent.process.pid for agent in world.agents if agent.alive}:
        outcome.problems.append("an agent did not live")
    return outcome


def out_of_memory(world: World, times: int) -> Outcome:
    """At its limit a runner fails with `out_of_memory`; a bare SIGKILL is `worker_lost`, and tried again."""
    outcome = Outcome("out of memory", times)
    wanting = {
        "TensorFlow": specs.short(step="faults/Hungry"),
        "a limit of the process": specs.with_source("faults/Hoarder", mebibytes=4096),
    }
    for _ in range(times):
        for what, spec in wanting.items():
            done = world.client.wait(world.client.submit(spec).id, WAIT)
            story = check(world.client, done.id, steps=None, report=1)
            count(outcome, story, wanted=State.FAILED)
            if story.codes() != {"out_of_memory"}:
                outcome.problems.append(f"{what}: {story.codes()}, {done.failure}")
        job = saved(world, world.client.submit(specs.job()))
        runner = world.runner_of(job)
        assert runner is not None
        at = time.time()
        killed([runner])
        world.client.wait(job.id, WAIT)
        story = check(world.client, job.id, steps=specs.STEPS, report=specs.REPORT)
        count(outcome, story)
        if story.codes() != {"worker_lost"} or (again := story.rewound(2)) is None:
            outcome.problems.append(f"a bare SIGKILL: {story.codes()}, attempt {story.job.attempt}")
        else:
            outcome.recovered(again.at.timestamp() - at)
    return outcome


def wrong_clock(world: World, times: int) -> Outcome:
    """A worker's clock is an hour ahead, or behind: nothing changes, and every time that is told is the service's."""
    outcome = Outcome("clock ±1 h on a worker", times)
    for number in range(times):
        seconds = (3600, -3600)[number % 2]
        name = f"clock-{number + 1}"
        python = python_with_clock(world.folder / name, seconds)
        told = subprocess.run([python, "-I", "-c", "import time; print(time.time())"], capture_output=True, check=True)
        assert abs(float(told.stdout) - time.time() - seconds) < 60
        agent = world.add_agent(name, "--label", f"clock={name}", python=python)
        try:
            eventually(lambda agent=agent: agent.ready, START_SECONDS, f"{name} is ready")
            began = datetime.now(UTC)
            job = saved(world, world.client.submit(specs.job(resources={"worker_labels": {"clock": name}})))
            runner = world.runner_of(job)
            assert runner is not None
            at = time.time()
            killed([runner])
            done = world.client.wait(job.id, WAIT)
            ended = datetime.now(UTC)
            story = check(world.client, job.id, steps=specs.STEPS, report=specs.REPORT)
            count(outcome, story)
            if done.worker != name or story.job.attempt != 2:
                outcome.problems.append(f"{job.id} was done by {done.worker} in attempt {story.job.attempt}")
            if wrong := [event for event in story.events if not began <= event.at <= ended]:
                outcome.problems.append(f"{len(wrong)} events at {wrong[0].at}, not between {began} and {ended}")
            if (again := story.rewound(2)) is not None:
                outcome.recovered(again.at.timestamp() - at)
        finally:
            world.retire(agent)
    return outcome
