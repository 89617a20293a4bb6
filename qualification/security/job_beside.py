"""A job of another project that trains on the same worker while something is tried, and how long it stood still."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tapeworks.client.client import Client
from tapeworks.schemas.jobs import State
from tapeworks_service.auth import keys
from tapeworks_service.settings import ServiceSettings
from tests.support.serving import Served, endless, eventually

SECONDS = 180
POLL_SECONDS = 0.05


def key_of_project(data: Path, project: str) -> str:
    """A new key that reads and submits, of a server with this folder of data."""

    async def made() -> str:
        async with keys.opened(ServiceSettings(data_dir=data)) as database, database.write() as tx:
            _, text = await keys.create(tx, name=project, project=project, scopes=["read", "submit"])
            return str(text)

    return asyncio.run(made())


@contextmanager
def other_project(served: Served) -> Iterator[Client]:
    """A client of another project of the same server."""
    with Client(served.url, key_of_project(served.data, "beside")) as client:
        yield client


class JobBeside:
    """A job that trains until the end. Its progress is polled by a thread of its own."""

    def __init__(self, client: Client, job_id: str) -> None:
        self.id = job_id
        self.wrong: list[str] = []
        """What happened to the job that must not happen."""
        self._client = client
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._step, self._since, self._longest = -1, time.monotonic(), 0.0
        self._watch = threading.Thread(target=self._poll)

    def longest_pause(self) -> float:
        """Seconds without progress at worst since the last call, seen by the API; a worker reports each half second."""
        with self._lock:
            now = time.monotonic()
            longest = max(self._longest, now - self._since)
            self._longest, self._since = 0.0, now
        return longest

    def __enter__(self) -> JobBeside:
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watch.join()

    def _poll(self) -> None:
        while not self._over.wait(POLL_SECONDS):
            job = self._client.get(self.id)
            if job.state is not State.RUNNING or job.attempt != 1:
                self.wrong.append(f"the job beside is {job.state} in attempt {job.attempt}: {job.failure}")
                return
            with self._lock:
                now = time.monotonic()
                if job.progress.step != self._step:
                    self._longest = max(self._longest, now - self._since)
                    self._step, self._since = job.progress.step, now


@contextmanager
def job_beside(client: Client) -> Iterator[JobBeside]:
    """Start such a job and wait until it trains; cancel it in the end."""
    job = client.submit(endless())
    try:
        eventually(lambda: client.get(job.id).progress.step > 0, SECONDS, "the job beside trains")
        with JobBeside(client, job.id) as beside:
            yield beside
    finally:
        client.cancel(job.id)
        client.wait(job.id, SECONDS)
