"""What the tests of workers share: waiting for conditions, a real service and a real worker as processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.support.agent_stage import Stage, staged


def wait_until(condition: Callable[[], Any], *, seconds: float = 120, what: str = "") -> Any:
    """Wait for a condition and return what it gave; a test that waits for something never sleeps for luck."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not seen within {seconds} s: {what or condition}")
        time.sleep(0.05)
    return found


@pytest.fixture(scope="session")
def until() -> Callable[..., Any]:
    """`until(condition, seconds=120, what="")`: what the condition gave."""
    return wait_until


def has_ended(pid: int) -> bool:
    """Whether a process has ended; one that nobody waited for yet has."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@pytest.fixture(scope="session")
def gone() -> Callable[[int], bool]:
    """`gone(pid)`."""
    return has_ended


def free_port() -> int:
    """A port that nobody listens on now: a service that is stopped and started again keeps it."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@dataclass
class Service:
    """A service of its own, with short leases, that can be stopped and started again."""

    folder: Path
    lease_seconds: int = 3
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    settings: dict[str, str] = field(default_factory=dict)
    """Further ones."""

    def __post_init__(self) -> None:
        self.api = httpx.Client(base_url=self.url, timeout=60)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        settings = {
            "DATA_DIR": str(self.folder),
            "PORT": str(self.port),
            "LEASE_SECONDS": str(self.lease_seconds),
            "HEARTBEAT_SECONDS": "1",
            "REAPER_SECONDS": "1",
            **self.settings,
        }
        environment = os.environ | {f"TAPEWORKS_{name}": value for name, value in settings.items()}
        command = [sys.executable, "-m", "tapeworks_service"]
        with (self.folder / "service.log").open("ab") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        wait_until(self._alive, what="the service answers")

    def _alive(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "service.log").read_text()[-2000:]
        try:
            return self.api.get("/healthz").is_success
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)
            self.process = None

    def submit(self, spec: dict[str, Any]) -> str:
        answer = self.api.post("/v1/jobs", json=spec)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        answer = self.api.get(f"/v1/jobs/{job_id}")
        assert answer.is_success, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def data(self, path: str) -> list[dict[str, Any]]:
        """All of a list of the API, page by page."""
        found: list[dict[str, Any]] = []
        after: dict[str, Any] = {}
        while True:
            page = self.api.get(path, params={"limit": 200, **after}).json()
            found += page["data"]
            if not page.get("has_more"):
                return found
            after = {"after": page["next"]}

    def until(self, job_id: str, condition: Callable[[dict[str, Any]], Any], *, seconds: float = 180) -> dict[str, Any]:
        """The job, as soon as the condition holds."""
        seen: dict[str, Any] = {}

        def look() -> bool:
            seen.update(self.job(job_id))
            return bool(condition(seen))

        try:
            wait_until(look, seconds=seconds)
        except AssertionError as error:
            short = {key: seen.get(key) for key in ("state", "attempt", "phase", "progress", "failure", "checkpoints")}
            raise AssertionError(f"{error}: {short}") from error
        return seen


@dataclass
class WorkerProcess:
    """A worker as a process."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def children(self) -> list[psutil.Process]:
        """Zygotes and runners: all are the agent's own children."""
        return psutil.Process(self.pid).children()

    def runners(self) -> list[int]:
        """Processes that work in an attempt's folder."""
        found = []
        for child in self.children():
            try:
                if "/attempts/" in child.cwd():
                    found.append(child.pid)
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        return found

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it, and wait; its exit status."""
        self.process.send_signal(number)
        return self.process.wait(60)


@contextmanager
def running_worker(service: Service, folder: Path, *options: str, **environment: str) -> Iterator[WorkerProcess]:
    """A worker that is registered."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "worker.log"
    command = [sys.executable, "-m", "tapeworks_workers", "--server", service.url, "--work-dir", str(folder / "work")]
    began = log.stat().st_size if log.exists() else 0
    with log.open("ab") as out:
        process = subprocess.Popen([*command, *options], stdout=out, stderr=out, env=os.environ | environment)
    try:

        def ready() -> bool:
            text = log.read_text()[began:]
            assert process.poll() is None, text[-3000:]
            return "worker ready" in text

        wait_until(ready, seconds=120, what="the worker is ready")
        yield WorkerProcess(process, log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            process.wait(60)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service, for the tests of one file."""
    with running_service(tmp_path_factory.mktemp("service")) as own:
        yield own


@contextmanager
def running_service(folder: Path, **settings: Any) -> Iterator[Service]:
    """A service that answers."""
    own = Service(folder, **settings)
    own.start()
    try:
        yield own
    finally:
        own.stop()
        own.api.close()


@pytest.fixture(scope="module")
def patient_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The same, whose leases do not run out while a test is slow."""
    with running_service(tmp_path_factory.mktemp("service"), lease_seconds=120) as own:
        yield own


@pytest.fixture(scope="session")
def start_worker() -> Callable[..., AbstractContextManager[WorkerProcess]]:
    """`with start_worker(service, folder, *options, **environment) as worker`."""
    return running_worker


@pytest.fixture(scope="module")
def stage(patient_service: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(patient_service, tmp_path_factory.mktemp("stage")) as found:
        yield found
