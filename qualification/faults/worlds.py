"""A world: one database, one service and some agents, in processes that can be killed, stopped and started again."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from sqlalchemy import make_url

from qualification.faults.disks import MIB, Disks
from qualification.faults.processes import (
    MARK,
    allow_many_files,
    family,
    folder_of,
    held_locks,
    killed,
    left_behind,
    send,
)
from tapeworks.client.client import Client
from tapeworks.schemas.jobs import Job
from tests.support.postgres import Postgres, postgres
from tests.support.serving import eventually

COMPONENTS = Path(__file__).parent / "components"
START_SECONDS = 240
END_SECONDS = 60
SLOTS = 2
"""Jobs at once on each agent."""
LOCK = (
    "import sqlite3, sys\n"
    "database = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)\n"
    "database.execute('BEGIN EXCLUSIVE'); print('locked', flush=True); sys.stdin.read(); database.rollback()\n"
)


@dataclass(frozen=True)
class Leases:
    """How soon silence means something. The defaults are the service's."""

    lease: float = 20.0
    heartbeat: float = 5.0
    reaper: float = 5.0
    busy: float = 5.0

    def environment(self) -> dict[str, str]:
        """As settings of the service."""
        return {
            "TAPEWORKS_LEASE_SECONDS": str(self.lease),
            "TAPEWORKS_HEARTBEAT_SECONDS": str(self.heartbeat),
            "TAPEWORKS_REAPER_SECONDS": str(self.reaper),
            "TAPEWORKS_BUSY_SECONDS": str(self.busy),
        }


SHORT = Leases(lease=3.0, heartbeat=1.0, reaper=0.5, busy=1.0)


READY = '"worker ready"'


@dataclass
class Agent:
    """A worker's agent, alive or dead."""

    name: str
    folder: Path
    command: list[str]
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    _ready_before: int = 0

    def begin(self) -> None:
        """Start the process; `ready` waits for it."""
        self._ready_before = self.told(READY)  # an earlier life may have ended before it was ready
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, env=self.environment, stdout=log, stderr=log)

    def told(self, text: str) -> int:
        """How often its log says so."""
        return self.log.read_text().count(text) if self.log.exists() else 0

    @property
    def ready(self) -> bool:
        """Whether this life of it has registered."""
        if self.process is None or self.process.poll() is not None:
            raise AssertionError(f"the agent {self.name} ended:\n{self.log.read_text()[-3000:]}")
        return self.told(READY) > self._ready_before

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self.process is not None and self.process.poll() is None

    @property
    def family(self) -> list[psutil.Process]:
        """The agent and all its processes."""
        assert self.process is not None
        return family(psutil.Process(self.process.pid))

    def runners(self, job_id: str = "") -> list[psutil.Process]:
        """Processes of an attempt, the oldest first: its runner, then verifiers."""
        found = [one for one in self.family[1:] if f"/attempts/{job_id}" in folder_of(one)]
        return sorted(found, key=lambda one: one.create_time())

    def zygotes(self) -> list[psutil.Process]:
        """Those of the base, the engine and the components."""
        return [one for one in self.family[1:] if "/attempts/" not in folder_of(one)]

    def kill(self) -> None:
        """`kill -9` of the agent alone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            send(self.family, signal.SIGCONT)
            self.process.terminate()
        return self.process.wait(END_SECONDS)


@dataclass
class World:
    """One installation. Close it: what still runs then is `left`."""

    folder: Path
    database: str
    leases: Leases = field(default_factory=Leases)
    server: Postgres | None = None
    small: bool = False
    """Small disks for the store, the SQLite file and the workers."""
    python: str = sys.executable
    disks: Disks | None = None
    service: subprocess.Popen[bytes] | None = None
    agents: list[Agent] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)
    """What undisturbed runs ended with, by the text of their spec."""

    def __post_init__(self) -> None:
        allow_many_files()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.data, self.work = self.folder / "data", self.folder / "work"
        self.file = self.folder / "sqlite" / "tapeworks.db"
        if self.small:
            sizes = {self.data: 256 * MIB, self.work: 256 * MIB, self.file.parent: 64 * MIB}
            self.disks = Disks(sizes)
        self.url_of_database = f"sqlite+aiosqlite:///{self.file}" if self.server is None else self.server.create()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = Client(self.url, timeout=60)
        self.http = httpx.Client(base_url=self.url, timeout=60)

    # ── the service and its database ─────────────────────────────────────────────────────────────

    def start_service(self) -> None:
        """Start it, on the same port every time, and wait until it answers."""
        self.begin_service()
        eventually(self.answers, 60, "the service answers")

    def begin_service(self) -> None:
        """Start its process."""
        settings = {
            "TAPEWORKS_DATA_DIR": str(self.data),
            "TAPEWORKS_DATABASE_URL": self.url_of_database,
            "TAPEWORKS_PORT": str(self.port),
            "TAPEWORKS_RESERVE_BYTES": str(8 * MIB),
            **self.leases.environment(),
        }
        with (self.folder / "service.log").open("ab") as log:
            command = self._inside([sys.executable, "-m", "tapeworks_service"])
            self.service = subprocess.Popen(command, env=self._environment(settings), stdout=log, stderr=log)

    def answers(self) -> bool:
        """Whether the service is there."""
        assert self.service is not None
        assert self.service.poll() is None, (self.folder / "service.log").read_text()[-3000:]
        with suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/healthz", timeout=5).status_code == 200
        return False

    def kill_service(self) -> None:
        """`kill -9`."""
        assert self.service is not None
        self.service.kill()
        self.service.wait()

    @contextmanager
    def database_away(self) -> Iterator[None]:
        """Nothing can be written for the time of a block: PostgreSQL is stopped, or another process locks the file."""
        if self.server is not None:
            self.server.stop()
            try:
                yield
            finally:
                self.server.start()
            return
        command = self._inside([sys.executable, "-c", LOCK, str(self.file)])
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as locker:
            assert locker.stdout is not None
            assert locker.stdout.readline() == b"locked\n"
            try:
                yield
            finally:
                locker.communicate()

    def execute(self, statement: str) -> list[dict[str, Any]]:
        """One statement on the database, past the service; its rows. JSON columns are text."""
        if self.server is not None:
            database = str(make_url(self.url_of_database).database)
            return self.server.execute(statement, database=database)
        with closing(sqlite3.connect(self.file, timeout=60)) as connection, connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(statement)]

    # ── agents ───────────────────────────────────────────────────────────────────────────────────

    def add_agent(
        self, name: str, *options: str, python: str | Path = sys.executable, settings: Mapping[str, str] | None = None
    ) -> Agent:
        """A new agent, begun."""
        folder = self.work / name
        command = [str(python), "-m", "tapeworks_workers", "--server", self.url, "--id", name]
        command += ["--work-dir", str(folder), "--components", str(COMPONENTS), "--cpu-slots", str(SLOTS), *options]
        environment = self._environment({"TAPEWORKS_WORKER_RESERVE_BYTES": str(8 * MIB), **(settings or {})})
        agent = Agent(name, folder, self._inside(command), environment, self.folder / f"{name}.log")
        agent.begin()
        self.agents.append(agent)
        return agent

    def need_agents(self, count: int) -> list[Agent]:
        """So many agents, all of them ready."""
        while len(self.agents) < count:
            self.add_agent(f"agent-{len(self.agents) + 1}")
        for agent in self.agents:
            if not agent.alive:
                agent.begin()
        for agent in self.agents:
            eventually(lambda agent=agent: agent.ready, START_SECONDS, f"{agent.name} is ready")
        return self.agents

    def retire(self, agent: Agent) -> None:
        """Stop an agent for good."""
        self.agents.remove(agent)
        if code := agent.stop():
            self.left.append(f"the agent {agent.name} ended with {code}")

    def agent_of(self, job: Job) -> Agent:
        """The agent that holds a job."""
        return next(agent for agent in self.agents if agent.name == job.worker)

    def runner_of(self, job: Job) -> psutil.Process | None:
        """A job's runner, None while there is none."""
        return next(iter(self.agent_of(job).runners(job.id)), None)

    def reach(self, path: Path) -> Path:
        """A file of the world, as this process can open it."""
        return path if self.disks is None else self.disks.reach(path)

    def attempt_folder(self, job: Job) -> Path:
        """Where the runner of a job's newest attempt writes."""
        return self.reach(self.agent_of(job).folder / "attempts" / f"{job.id}.{job.attempt}" / "run")

    # ── the end ──────────────────────────────────────────────────────────────────────────────────

    def close(self) -> None:
        """Stop everything in order; what does not stop is told in `left`, and killed."""
        self.client.close()
        self.http.close()
        for agent in [agent for agent in self.agents if agent.alive]:
            self._ended(agent.name, agent.stop)
        if self.service is not None and self.service.poll() is None:
            self.service.terminate()
            self._ended("the service", lambda: self.service.wait(END_SECONDS))  # type: ignore[union-attr]
        self.left += self._hung()
        if self.disks is not None:
            self.disks.close()

    def _ended(self, what: str, stop: object) -> None:
        try:
            code = stop()  # type: ignore[operator]
        except subprocess.TimeoutExpired:
            self.left.append(f"{what} did not stop within {END_SECONDS} s")
        else:
            self.left += [f"{what} ended with {code}"] if code else []

    def _hung(self) -> list[str]:
        mark = str(self.folder)
        end = time.monotonic() + 5  # what was killed just now is still being cleared away
        while (left := left_behind(mark)) and time.monotonic() < end:
            time.sleep(0.1)
        told = [f"{one.pid} {one.name()}: {' '.join(one.cmdline())[-100:]}" for one in left]
        killed(left)
        return told + [f"{file} is locked" for file in held_locks(self.reach(self.folder))]

    def _inside(self, command: list[str]) -> list[str]:
        return command if self.disks is None else self.disks.command(*command)

    def _environment(self, settings: Mapping[str, str]) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TAPEWORKS_")}
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
        return {**kept, **quiet, **settings, MARK: str(self.folder)}


@dataclass
class Worlds:
    """The worlds of one database, made when a row first asks for one."""

    folder: Path
    database: str
    leases: Leases
    server: Postgres | None
    made: dict[str, World] = field(default_factory=dict)

    def get(self, kind: str) -> World:
        """`plain`: as it comes; `small`: with small disks; `bare`: a service without workers."""
        if kind not in self.made:
            leases = Leases() if kind == "bare" else self.leases
            world = World(self.folder / kind, self.database, leases, self.server, small=kind == "small")
            self.made[kind] = world
            world.start_service()
            world.need_agents({"plain": 2, "small": 1, "bare": 0}[kind])
        return self.made[kind]


@contextmanager
def worlds(folder: Path, database: str, leases: Leases, left: list[str]) -> Iterator[Worlds]:
    """The worlds of one database; `left` grows by what they leave behind."""
    with postgres() if database == "postgresql" else _nothing() as server:
        made = Worlds(folder, database, leases, server)
        try:
            yield made
        finally:
            for world in made.made.values():
                world.close()
                left += world.left


@contextmanager
def _nothing() -> Iterator[None]:
    yield None
