"""The service and one worker on one machine: uvicorn here, the worker's agent as a child process.

Everything is written below one folder: the database and artifacts of the service, `worker/` of the
worker, `logs/`, and `server.json` with the address while the server runs. One server per folder.

The agent is started when the service listens, again when it ends or stops answering, and is stopped before the service
is, so that it can still hand its jobs back. It holds the read end of a pipe: when this process ends,
however it ends, the pipe closes and the agent ends itself with all it started.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn

from tapeworks.supervisor import Supervisor
from tapeworks_service.server import Server
from tapeworks_service.settings import StartRefused
from tapeworks_service.wakeups import WakeHub

DRAIN_SECONDS = 3
"""How long open answers (streams, long polls) are waited for."""


@dataclass(frozen=True)
class WorkerOptions:
    """The settings of the embedded worker."""

    components: Sequence[Path] = ()
    data_roots: Sequence[Path] = ()
    remote_files: Sequence[str] = ()
    connections_file: Path | None = None
    cpu_slots: int | None = None
    key_file: Path | None = None

    def command(self, server: str, work_dir: Path) -> list[str]:
        """The agent's command line."""
        line = [sys.executable, "-m", "tapeworks_workers", "--server", server, "--work-dir", str(work_dir)]
        for path in self.components:
            line += ["--components", str(path)]
        for root in self.data_roots:
            line += ["--data-root", str(root)]
        for address in self.remote_files:
            line += ["--remote-files", address]
        if self.connections_file is not None:
            line += ["--connections-file", str(self.connections_file)]
        if self.cpu_slots is not None:
            line += ["--cpu-slots", str(self.cpu_slots)]
        if self.key_file is not None:
            line += ["--key-file", str(self.key_file)]
        return line


class EmbeddedWorker(Supervisor):
    """The agent's process, kept alive by a thread until `stop`. Where it cannot be started this process ends."""

    def __init__(self, command: list[str], log: Path, tell: Callable[[str], object], *, silence_seconds: float) -> None:
        super().__init__(
            command,
            log=log,
            tell=tell,
            give_up=lambda: os.kill(os.getpid(), signal.SIGTERM),
            silence_seconds=silence_seconds,
        )


class EmbeddedServer(Server):
    """The service's server with a worker beside it."""

    def __init__(
        self, config: uvicorn.Config, hub: WakeHub, worker: EmbeddedWorker | None, listening: Callable[[], object]
    ) -> None:
        super().__init__(config, hub)
        self._worker, self._listening = worker, listening
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told_to_stop = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, say so, start the worker."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.started and not self._told_to_stop:
            self._listening()
            if self._worker is not None:
                self._worker.start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal stops the worker, then the service; a second one does it by force."""
        if self._told_to_stop:
            if self._worker is not None:
                self._worker.kill()
            self.should_exit = self.force_exit = True
            return
        self._told_to_stop = True
        threading.Thread(target=self._stop, name="stop").start()

    def _stop(self) -> None:
        if self._worker is not None:
            self._worker.stop()
        self.should_exit = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._hub.close)  # nobody is kept waiting


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """The folder for this process alone. Raises `StartRefused` where another server has it, or nobody can write."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / "logs").mkdir(exist_ok=True)
        lock = (folder / "serve.lock").open("w")
    except OSError as error:
        raise StartRefused(f"cannot write in {folder}: {error.strerror}; choose another --data-dir") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartRefused(f"another server runs in {folder}: choose another --data-dir, or stop it") from None
        yield


@contextmanager
def announced(folder: Path) -> Iterator[Callable[[str], None]]:
    """Writes `server.json`; it is gone when the server is."""
    file = folder / "server.json"

    def announce(url: str) -> None:
        beside = folder / ".server.json"
        beside.write_text(json.dumps({"url": url, "pid": os.getpid()}) + "\n")
        beside.replace(file)

    try:
        yield announce
    finally:
        file.unlink(missing_ok=True)


def bound(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `StartRefused` where the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise StartRefused(f"cannot listen on {host}:{port}: {error.strerror}") from error
    listening.listen(1024)
    return listening
