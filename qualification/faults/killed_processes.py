"""Rows of the fault table in which processes die, or stand still."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import psutil

from qualification.faults import specs
from qualification.faults.cases import Case, another_runs, gather, saved, suffer, training, undisturbed
from qualification.faults.checks import reached
from qualification.faults.outcome import Outcome
from qualification.faults.processes import killed, send
from qualification.faults.worlds import World
from tapeworks.schemas.jobs import Job, State
from tests.support.serving import eventually

EXPORTED = 10
"""One job in so many publishes a model."""


def runner_killed(world: World, times: int) -> Outcome:
    """`kill -9` of a runner mid-step, at a random moment after a checkpoint."""
    outcome = Outcome("kill -9 a runner mid-step", times)
    chance = random.Random(7)

    def fault(job: Job, number: int) -> float:
        now = saved(world, job)
        time.sleep(chance.uniform(0, 0.3))  # the moment is the fault's, not a wait for something
        return _kill_runner(world, now)

    exported = Outcome(outcome.fault, -(-times // EXPORTED))
    stories = suffer(world, exported, fault, specs.job(export={}))
    if outcome.times > exported.times:
        outcome.times -= exported.times
        stories += suffer(world, outcome, fault, specs.job())
        exported = _together(outcome, exported)
    exported.problems += [
        f"{one.job.id}: no attempt was worker_lost" for one in stories if "worker_lost" not in one.codes()
    ]
    return exported


def checkpoint_killed(world: World, times: int) -> Outcome:
    """`kill -9` of a runner while a checkpoint is being written aside."""
    outcome = Outcome("kill -9 during a checkpoint write", times)
    caught: list[bool] = []

    def fault(job: Job, number: int) -> float:
        now = saved(world, job)
        folder = world.attempt_folder(now) / "checkpoints"
        runner = world.runner_of(now)
        assert runner is not None
        end = time.monotonic() + 60
        while not (unfinished := _unfinished(folder)) and time.monotonic() < end and runner.is_running():
            time.sleep(0.0002)
        at = time.time()
        killed([runner])
        caught.append(bool(unfinished))
        return at

    # Larger weights take longer to write than to find.
    stories = suffer(world, outcome, fault, specs.job(hidden=(512, 512), milliseconds=4.0))
    outcome.notes.append(f"{sum(caught)} of {len(caught)} caught in the write")
    if not any(caught):
        outcome.problems.append("no checkpoint was caught in the write")
    for story in stories:  # every checkpoint that is listed is whole: its download has its digest
        assert story.job.checkpoints.latest is not None
    return outcome


def agent_killed(world: World, times: int) -> Outcome:
    """`kill -9` of an agent: its runner dies with it, the job goes on at another, or here once it is back."""
    outcome = Outcome("kill -9 an agent", times)
    spec = specs.job()
    wanted = undisturbed(world, spec)
    for _ in range(times):
        job = saved(world, world.client.submit(spec))
        agent = world.agent_of(job)
        family = agent.family[1:]
        before, at = reached(world.client, job.id), time.time()
        agent.kill()
        _, alive = psutil.wait_procs(family, 10)
        outcome.problems += [f"{one} outlived its agent" for one in alive]
        agent.begin()
        gather(world, outcome, Case(world.client.wait(job.id, 240), at, before), spec, weights_wanted=wanted)
        world.need_agents(len(world.agents))
    return outcome


def zygotes_killed(world: World, times: int) -> Outcome:
    """`kill -9` of the zygotes of an agent: its job goes on, and the next one starts from new ones."""
    outcome = Outcome("kill -9 the zygotes (base, engine, component)", times)
    spec = specs.job()
    wanted = undisturbed(world, spec)
    for number in range(times):
        job = training(world, world.client.submit(spec))
        agent = world.agent_of(job)
        zygotes = agent.zygotes()
        if len(zygotes) != 3:
            outcome.problems.append(f"{len(zygotes)} zygotes")
        # All, then each alone: they need each other.
        chosen = (zygotes, *([one] for one in zygotes))[number % 4]
        killed(chosen)
        at = time.time()
        outcome.recovered(another_runs(world, outcome))
        eventually(lambda agent=agent: len(agent.zygotes()) == 3, 120, "the zygotes are replaced")
        outcome.recovered(time.time() - at)
        story = gather(world, outcome, Case(world.client.wait(job.id, 240), at, 0), spec, weights_wanted=wanted)
        if story.job.attempt != 1:
            outcome.problems.append(f"{job.id} ended with its zygote: attempt {story.job.attempt}")
    return outcome


def worker_stopped(world: World, times: int) -> Outcome:
    """SIGSTOP of a whole worker past its lease, then SIGCONT: the zombie changes nothing and ends its runner."""
    outcome = Outcome("SIGSTOP a worker past its lease, then SIGCONT", times)
    spec = specs.job(steps=2400)
    wanted = undisturbed(world, spec)
    for _ in range(times):
        job = saved(world, world.client.submit(spec))
        agent = world.agent_of(job)
        lost_before = agent.told("lease is lost")
        runner = world.runner_of(job)
        before, at = reached(world.client, job.id), time.time()
        frozen = agent.family
        send(frozen, signal.SIGSTOP)
        try:
            again = training(world, job, attempt=2)
        finally:
            send(frozen, signal.SIGCONT)
        assert runner is not None
        assert again.worker != agent.name
        _, alive = psutil.wait_procs([runner], 15)
        outcome.problems += [f"the zombie's runner {one} goes on" for one in alive]
        story = gather(world, outcome, Case(world.client.wait(job.id, 240), at, before), spec, weights_wanted=wanted)
        if story.job.attempt != 2:
            outcome.problems.append(f"{job.id} ended in attempt {story.job.attempt}")
        if agent.told("lease is lost") == lost_before:
            outcome.problems.append(f"{agent.name} was not told that its lease is lost")
        another_runs(world, outcome)
    return outcome


def handed_on(world: World, times: int) -> Outcome:
    """A job is paused and resumed, then its worker is stopped in order: another ends it with the same bytes."""
    outcome = Outcome("pause and resume, then SIGTERM of the worker", times)
    spec = specs.job(steps=2400)
    wanted = undisturbed(world, spec)
    for _ in range(times):
        job = training(world, world.client.submit(spec))
        world.client.pause(job.id)
        eventually(lambda job=job: world.client.get(job.id).state is State.PAUSED, 30, f"{job.id} is paused")
        world.client.resume(job.id)
        job = training(world, job, attempt=2)
        agent, before, at = world.agent_of(job), reached(world.client, job.id), time.time()
        if code := agent.stop():
            outcome.problems.append(f"{agent.name} ended with {code}")
        job = training(world, job, attempt=3)
        if job.worker == agent.name:
            outcome.problems.append(f"{job.id} is said to be at {agent.name}, which is gone")
        agent.begin()
        story = gather(world, outcome, Case(world.client.wait(job.id, 240), at, before), spec, weights_wanted=wanted)
        if (story.job.attempt, story.job.failed_attempts) != (3, 0):
            outcome.problems.append(f"{job.id}: attempt {story.job.attempt}, {story.job.failed_attempts} failed")
        world.need_agents(len(world.agents))
    return outcome


def _kill_runner(world: World, job: Job) -> float:
    runner = world.runner_of(job)
    assert runner is not None, f"{job.id} has no runner"
    at = time.time()
    killed([runner])
    return at


def _unfinished(folder: Path) -> list[Path]:
    """What is written aside just now."""
    try:
        return [path for path in folder.iterdir() if path.name.startswith(".")]
    except FileNotFoundError:
        return []


def _together(one: Outcome, other: Outcome) -> Outcome:
    one.times += other.times
    one.jobs += other.jobs
    one.lost += other.lost
    one.published_twice += other.published_twice
    one.problems += other.problems
    if other.recovery is not None:
        one.recovered(other.recovery)
    if other.repeated is not None:
        one.again(other.repeated)
    return one
