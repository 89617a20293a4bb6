"""A real `tapeworks serve` in a process of its own, its processes, and specs to send it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
from typer.testing import CliRunner, Result

from tapeworks.cli.main import app
from tapeworks.client.client import Client
from tapeworks.schemas.jobs import Job, State

COMPONENTS = Path(__file__).parent / "components"
READY_SECONDS = 240
T = TypeVar("T")


@dataclass
class Served:
    """A running server and its worker."""

    url: str
    data: Path
    process: subprocess.Popen[bytes]
    key: str | None = None
    client: Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = Client(self.url, self.key)

    @property
    def agent(self) -> psutil.Process:
        """The worker's agent: the only child of the server."""
        (agent,) = psutil.Process(self.process.pid).children()
        return agent

    def worker_processes(self) -> set[psutil.Process]:
        """What the agent started and adopted: zygotes, runners, verifiers."""
        return set(self.agent.children(recursive=True))

    def run(self, spec: dict[str, Any], *, timeout: float = 240) -> Job:
        """Submit a spec and wait for its end."""
        return self.client.wait(self.client.submit(spec).id, timeout)

    def tapeworks(self, *arguments: str, expect: int | None = 0) -> Result:
        """Run the command line against this server. `expect`: how it ends; None: however."""
        key = [] if self.key is None else ["--key", self.key]
        done = CliRunner().invoke(app, ["--url", self.url, *key, *arguments], env={"COLUMNS": "120"})
        assert expect in (None, done.exit_code), f"{arguments}: {done.exit_code}\n{done.stdout}\n{done.stderr}"
        return done


@contextmanager
def serving(
    data: Path, *options: str, environment: Mapping[str, str] | None = None, key: str | None = None
) -> Iterator[Served]:
    """Start the server on a free port, wait until it is ready, stop it in the end. `key`: for its client."""
    data.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tapeworks.cli.main", "serve", "--port", "0", "--data-dir", str(data), *options]
    with (data / "serve.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **(environment or {})})
    try:
        url = eventually(lambda: _ready(process, data), READY_SECONDS, "the server is ready")
        served = Served(url, data, process, key)
        with served.client:
            yield served
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        code = process.wait(90)
    assert code == 0, f"serve ended with {code}"


def _ready(process: subprocess.Popen[bytes], data: Path) -> str | None:
    log = data / "logs" / "worker.log"
    assert process.poll() is None, f"serve ended with {process.returncode}"
    file = data / "server.json"
    if not file.exists():
        return None
    url = str(json.loads(file.read_text())["url"])
    answer = httpx.get(f"{url}/readyz")
    assert answer.status_code in (200, 503), f"{answer.text}\n{log.read_text()[-4000:] if log.exists() else ''}"
    return url if answer.status_code == 200 else None


def eventually(condition: Callable[[], T | None], seconds: float, what: str) -> T:
    """The first true value that the condition gives."""
    end = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.05)


def spec(
    *, pipeline: Sequence[dict[str, Any]] = (), export: dict[str, Any] | None = None, **over: Any
) -> dict[str, Any]:
    """A small job on the digits; exports nothing unless asked to."""
    return {
        "data": {"source": "digits", "pipeline": [*pipeline, {"op": "batch", "batch_size": 32}]},
        "model": {"component": "mlp", "config": {"hidden": [16], "outputs": 10}},
        "optimizer": "keras/Adam",
        "loss": "focal",
        "training": {"epochs": 1},
        "export": export,
        **over,
    }


def endless(**training: Any) -> dict[str, Any]:
    """A job that goes on until it is stopped; it tells and saves its state often. No call of it takes long."""
    own = {"max_steps": 100_000_000, "report_every_steps": 50, "execution": {"plan": "loop"}}
    return spec(pipeline=[{"op": "repeat"}], training={**own, **training})


def running(served: Served, job: Job, *, step: int = 1) -> Job:
    """The job, once it has made so many steps."""

    def there() -> Job | None:
        now = served.client.get(job.id)
        assert not now.finished, f"{now.state}: {now.failure}"
        return now if now.state is State.RUNNING and now.progress.step >= step else None

    return eventually(there, 120, f"{job.id} has made {step} steps")
