"""A randomised run against everything: .venv/bin/python -m benchmarks.chaos --minutes 10 --seed 1

Keeps agents and small jobs of several kinds going while a user cancels, pauses, resumes and submits again, and while
service, agents, zygotes, runners and database are killed, stopped and started by a seed. Then it stops injuring, waits
for every acknowledged job, and checks the invariants from the database, the event logs and the store alone. Prints
seed, injuries, jobs, attempts, worst recovery and verdict; ends with 1 where an invariant is violated.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from benchmarks.chaos.injuries import Injuries
from benchmarks.chaos.invariants import attempts, violations
from benchmarks.chaos.specs import KINDS
from qualification.faults.cases import first_again, undisturbed
from qualification.faults.checks import Story, weights
from qualification.faults.worlds import Leases, World
from tapeworks.errors import ApiError, Conflict, Unavailable
from tapeworks.schemas.jobs import FINAL, State
from tests.support.paths import ROOT
from tests.support.postgres import postgres

LEASES = Leases(lease=5.0, heartbeat=1.0, reaper=1.0, busy=2.0)
WINDOW = 4
"""Unfinished jobs for each agent."""
END_SECONDS = 420.0
"""How long everything may take to end once nothing is injured any more."""
UNFINISHED = [state for state in State if state not in FINAL]


@dataclass
class Load:
    """The jobs: submitted as others finish, and a user who meddles with them."""

    world: World
    seed: int
    most: int
    window: int
    known: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Acknowledged job → its spec."""
    kinds: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    def submit_on(self) -> None:
        """Submit until told to stop, or until there were enough."""
        chance = random.Random(self.seed + 1)
        while not self._stop.wait(0.2) and len(self.known) < self.most:
            try:
                unfinished = sum(1 for _ in self.world.client.list(state=UNFINISHED))
            except ApiError:
                continue
            for _ in range(self.window - unfinished):
                kind = chance.choice(list(KINDS))
                spec = KINDS[kind](chance)
                if not self._acknowledged(spec, str(UUID(int=chance.getrandbits(128)))):
                    return
                self.kinds[kind] += 1

    def _acknowledged(self, spec: dict[str, Any], key: str) -> bool:
        """Submit until it is acknowledged: the same key, so that it is one job."""
        while not self._stop.is_set():
            try:
                job = self.world.client.submit(spec, idempotency_key=key)
            except Unavailable:
                continue
            self.known[job.id] = spec
            self.keys[job.id] = key
            return True
        return False

    def meddle_on(self) -> None:
        """Cancel, pause, resume and submit again, until told to stop."""
        chance = random.Random(self.seed + 2)
        while not self._stop.wait(chance.uniform(0.3, 1.5)):
            if self.known:
                job_id = chance.choice(list(self.known)[-2 * self.window :])
                what = chance.choices(("cancel", "pause", "resume", "submit again"), (1, 3, 6, 2))[0]
                self._ask(what, job_id)

    def _ask(self, what: str, job_id: str) -> None:
        try:
            if what == "submit again":
                again = self.world.client.submit(self.known[job_id], idempotency_key=self.keys[job_id])
                if again.id != job_id:
                    self.problems.append(f"{job_id} was submitted again and is {again.id}")
            else:
                getattr(self.world.client, what)(job_id)
        except (Unavailable, Conflict):
            return  # away, or not in this state
        self.asked[what] += 1

    def stop(self) -> None:
        """No more; both threads return."""
        self._stop.set()

    def resume_all(self) -> None:
        """Nothing stays paused."""
        for job in list(self.world.client.list(state=State.PAUSED)):
            self._ask("resume", job.id)


def ended(load: Load) -> list[str]:
    """Wait until every acknowledged job is final; those that are not in time."""
    end = time.monotonic() + END_SECONDS
    while time.monotonic() < end:
        load.resume_all()
        left = [job_id for job_id in load.known if not load.world.client.get(job_id).finished]
        if not left:
            return []
        time.sleep(1)
    return left


def main(options: argparse.Namespace) -> int:
    """Run, wait, check, print; the exit code."""
    folder = ROOT / "build" / "chaos" / options.database
    shutil.rmtree(folder, ignore_errors=True)
    if options.database == "postgresql":
        with postgres() as server:
            return run(options, World(folder / "world", options.database, LEASES, server))
    return run(options, World(folder / "world", options.database, LEASES))


def run(options: argparse.Namespace, world: World) -> int:
    """In one world."""
    world.start_service()
    for number in range(options.agents):
        world.add_agent(f"agent-{number + 1}", "--cpu-slots", "1")
    world.need_agents(options.agents)
    load = Load(world, options.seed, options.jobs, WINDOW * options.agents)
    injuries = Injuries(world, options.seed)
    began = time.monotonic()
    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(job) for job in (load.submit_on, load.meddle_on, injuries.run)]
        time.sleep(60 * options.minutes)
        for part in (injuries, load):
            part.stop()
        for one in running:
            one.result()
    world.need_agents(options.agents)
    late = ended(load)
    problems = [f"{job_id} is not final {END_SECONDS:g} s after the last injury" for job_id in late]
    stories = [Story.of(world.client, job_id) for job_id in load.known]
    recoveries = [recovery for story in stories for recovery in recovered(story, injuries.known)]
    problems += compared(world, load, stories)
    world.close()
    problems += [*load.problems, *injuries.problems, *world.left, *violations(world, list(load.known))]
    tell(options, load, injuries, time.monotonic() - began)
    print(f"jobs by state: {dict(Counter(story.job.state.value for story in stories))}")
    print(f"attempts: {attempts(stories)}")
    print(f"worst recovery: {max(recoveries, default=0.0):.1f} s, {len(recoveries)} known")
    print(f"processes left: {len(world.left)}")
    print("\n".join(["verdict: " + ("VIOLATED" if problems else "holds"), *problems]))
    return 1 if problems else 0


def recovered(story: Story, injured: list[tuple[float, str]]) -> list[float]:
    """Seconds from each injury that the job survived until it trained again."""
    found = []
    for at, job_id in injured:
        attempt = max((event.attempt for event in story.events if event.at.timestamp() <= at), default=0)
        again = first_again(story, at) if job_id == story.job.id else None
        if again is not None and again.attempt > attempt:
            found.append(again.at.timestamp() - at)
    return found


def compared(world: World, load: Load, stories: list[Story]) -> list[str]:
    """Deterministic jobs that did not end with the weights of an undisturbed run, and failures with a defect's code."""
    found = []
    for story in stories:
        job = story.job
        if job.state is State.FAILED and (job.failure is None or job.failure.code != "worker_lost"):
            found.append(f"{job.id} failed: {job.failure}")
        spec = load.known[job.id]
        if job.state is State.SUCCEEDED and spec["training"].get("deterministic") and spec["export"] is None:
            if weights(world.http, job) != undisturbed(world, spec):
                found.append(f"{job.id}: its weights are not those of an undisturbed run")
    return found


def tell(options: argparse.Namespace, load: Load, injuries: Injuries, seconds: float) -> None:
    """What was done."""
    print(f"seed {options.seed}, {options.minutes:g} min on {options.database}, {seconds:.0f} s in all")
    print(f"injuries: {dict(injuries.counts)}, {sum(injuries.counts.values())} in all")
    print(f"asked: {dict(load.asked)}")
    print(f"jobs: {len(load.known)} acknowledged, {dict(load.kinds)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--agents", type=int, default=4)
    sys.exit(main(parser.parse_args()))
