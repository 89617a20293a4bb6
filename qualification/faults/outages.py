"""Rows of the fault table in which the service or its database is away."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx

from qualification.faults import specs
from qualification.faults.cases import WAIT, Case, count, gather, training, undisturbed
from qualification.faults.checks import check
from qualification.faults.outcome import Outcome
from qualification.faults.worlds import World
from tapeworks.client.client import Client
from tapeworks.errors import Unavailable
from tapeworks.schemas.jobs import Job
from tests.support.serving import eventually

AWAY_SECONDS = 1.5
"""From a kill of the service until somebody starts it again."""
SUBMITTERS = 4
SUBMITTED, FEW = 5, 3
"""Jobs of each of them around a kill, in `make faults` and in the tests."""
PAUSE_SECONDS = 0.25


def service_killed(world: World, times: int) -> Outcome:
    """`kill -9` of the service while jobs run, wait and are submitted, and streams are followed."""
    outcome = Outcome("kill -9 the service under load", times)
    spec = specs.job()
    wanted = undisturbed(world, spec)
    most = SUBMITTED if times > 1 else FEW
    for _ in range(times):
        jobs = [training(world, world.client.submit(spec)) for _ in world.agents]
        with ThreadPoolExecutor(len(jobs) + SUBMITTERS) as pool:
            followed = [pool.submit(_follow, world, job) for job in jobs]
            stop = threading.Event()
            submitted = [pool.submit(_submit, world, stop, number, most) for number in range(SUBMITTERS)]
            time.sleep(0.5)  # the load
            at = time.time()
            world.kill_service()
            time.sleep(AWAY_SECONDS)
            world.start_service()
            outcome.recovered(_goes_on(world, jobs[0]) - at)
            stop.set()
            acknowledged = [job_id for one in submitted for job_id in one.result()]
            streams = [one.result() for one in followed]
        for job, stream in zip(jobs, streams, strict=True):
            story = gather(world, outcome, Case(world.client.get(job.id), at, 0), spec, weights_wanted=wanted)
            if stream != [event.seq for event in story.events]:
                outcome.problems.append(f"{job.id}: its stream gave {len(stream)} of {len(story.events)} events")
            if story.job.attempt != 1:
                outcome.problems.append(f"{job.id} did not go on: attempt {story.job.attempt}")
        for job_id in acknowledged:
            world.client.wait(job_id, WAIT)
            count(outcome, check(world.client, job_id, steps=None, report=specs.REPORT))
        outcome.notes = [f"{len(acknowledged)} submitted around the last kill"]
    outcome.repeated = None
    return outcome


def database_away(world: World, times: int, seconds: float) -> Outcome:
    """The database is away: 503 with `Retry-After`; training goes on, then everything does; no attempt is lost."""
    outcome = Outcome(f"database away for {seconds:g} s", times)
    spec = specs.job(steps=int((seconds + 8) * 200), milliseconds=5.0)
    for _ in range(times):
        jobs = [training(world, world.client.submit(spec)) for _ in world.agents]
        with world.database_away():
            end = time.monotonic() + seconds
            answers = [httpx.post(f"{world.url}/v1/jobs", json=specs.short(), timeout=60)]
            if world.server is not None:
                answers.append(httpx.get(f"{world.url}/v1/jobs", timeout=60))
            for answer in answers:
                if answer.status_code != 503 or not answer.headers.get("Retry-After", "").isdigit():
                    outcome.problems.append(
                        f"{answer.request.method} was answered {answer.status_code}: {answer.text[:200]}"
                    )
            if httpx.get(f"{world.url}/healthz", timeout=30).status_code != 200:
                outcome.problems.append("the service is not alive without its database")
            time.sleep(max(0.0, end - time.monotonic()))
        back = time.time()
        later = eventually(lambda: _accepted(world), 60, "a job is accepted")
        for job in jobs:
            outcome.recovered(_goes_on(world, job) - back)
        for job in jobs:
            story = gather(world, outcome, Case(world.client.wait(job.id, WAIT), back, 0), spec)
            if story.job.attempt != 1:
                outcome.problems.append(f"{job.id} lost its attempt: {story.job.attempt}")
        world.client.wait(later, WAIT)
        count(outcome, check(world.client, later, steps=None, report=specs.REPORT))
    outcome.repeated = None
    return outcome


def _follow(world: World, job: Job) -> list[int]:
    """The numbers of the events that one follower saw, from the first to the last."""
    with Client(world.url) as client:
        return [event.seq for event in client.events(job.id, follow=True)]


def _submit(world: World, stop: threading.Event, number: int, most: int) -> list[str]:
    """Submit jobs until told to stop; those that were acknowledged."""
    known = []
    with Client(world.url) as client:
        while not stop.is_set() and len(known) < most:
            try:
                known.append(client.submit(specs.short(name=f"load {number}")).id)
            except Unavailable:
                pass  # not acknowledged: nothing was promised
            stop.wait(PAUSE_SECONDS)
    return known


def _accepted(world: World) -> str | None:
    try:
        return world.client.submit(specs.short()).id
    except Unavailable:
        return None


def _goes_on(world: World, job: Job) -> float:
    """When the job was seen to tell something that it did not tell before."""
    told = world.client.get(job.id)

    def moved() -> bool:
        try:
            now = world.client.get(job.id)
        except Unavailable:
            return False
        return now.finished or now.progress.step > told.progress.step

    eventually(moved, 60, f"{job.id} goes on")
    return time.time()
