"""What `chaos.py` does to a world: every injury by chance, from one seed, one after the other."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

from qualification.faults.processes import GONE, killed, send
from qualification.faults.worlds import Agent, World
from tapeworks.errors import ApiError
from tapeworks.schemas.jobs import State

PAUSE = (0.5, 3.0)
"""Seconds between two injuries."""
WEIGHTS = {
    "runner killed": 8,
    "agent killed": 2,
    "agent stopped in order": 2,
    "zygote killed": 3,
    "worker frozen past its lease": 2,
    "service killed": 2,
    "service stopped in order": 1,
    "database away": 2,
}


@dataclass
class Injuries:
    """Injures until told to stop, then heals everything."""

    world: World
    seed: int
    counts: Counter[str] = field(default_factory=Counter)
    known: list[tuple[float, str]] = field(default_factory=list)
    """(time, job) of what was done to a job that ran."""
    problems: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Until `stop`."""
        chance = random.Random(self.seed)
        while not self._stop.wait(chance.uniform(*PAUSE)):
            what = chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
            try:
                if self._injure(what, chance):
                    self.counts[what] += 1
            except Exception as error:
                self.problems.append(f"{what}: {type(error).__name__}: {error}")
            self._heal(chance)

    def stop(self) -> None:
        """No more; `run` returns."""
        self._stop.set()

    def _injure(self, what: str, chance: random.Random) -> bool:
        """Whether there was something to injure."""
        agent = chance.choice(self.world.agents)
        if not agent.alive:
            return False
        if what == "runner killed":
            return self._hit(agent, agent.runners()[:1])
        if what == "zygote killed":
            zygotes = agent.zygotes()
            killed(chance.sample(zygotes, min(len(zygotes), chance.randint(1, 2))))
            return bool(zygotes)
        if what == "agent killed":
            self._note(agent)
            agent.kill()
        elif what == "agent stopped in order":
            assert agent.process is not None
            agent.process.terminate()
            if code := agent.process.wait(60):
                # Killed in the first moments of its life, before it minds signals, it ends by the signal.
                self.problems += [] if code == -signal.SIGTERM else [f"{agent.name} ended with {code}"]
        elif what == "worker frozen past its lease":
            self._note(agent)
            frozen = agent.family
            send(frozen, signal.SIGSTOP)
            self._stop.wait(self.world.leases.lease + chance.uniform(0.5, 3.0))
            send(frozen, signal.SIGCONT)
        elif what == "database away":
            self._away(chance)
        else:
            self._service(what, chance)
        return True

    def _hit(self, agent: Agent, runners: list[object]) -> bool:
        self._note(agent)
        killed(runners)  # type: ignore[arg-type]
        return bool(runners)

    def _note(self, agent: Agent) -> None:
        """The jobs that run there now."""
        at = time.time()
        with suppress(ApiError, *GONE):
            running = self.world.client.list(state=State.RUNNING)
            self.known += [(at, job.id) for job in running if job.worker == agent.name]

    def _service(self, what: str, chance: random.Random) -> None:
        if what == "service killed":
            self.world.kill_service()
        else:
            assert self.world.service is not None
            self.world.service.terminate()
            if code := self.world.service.wait(60):
                self.problems.append(f"the service ended with {code}")
        time.sleep(chance.uniform(0, 3.0))
        self.world.start_service()

    def _away(self, chance: random.Random) -> None:
        server = self.world.server
        if server is not None and chance.random() < 0.5:
            server.kill()
            time.sleep(chance.uniform(0, 4.0))
            server.start()
            return
        with self.world.database_away():
            time.sleep(chance.uniform(1.0, 2 * self.world.leases.lease))

    def _heal(self, chance: random.Random) -> None:
        """Start again what is down: always the service, agents by and by."""
        service = self.world.service
        if service is not None and service.poll() is not None:
            self.problems.append(f"the service ended by itself with {service.poll()}")
            self.world.start_service()
        for agent in self.world.agents:
            if not agent.alive and (self._stop.is_set() or chance.random() < 0.7):
                agent.begin()
