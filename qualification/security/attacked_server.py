"""A server that takes uploaded packages, with a key, a secret in its environment, and files that nobody must see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tapeworks.client.client import Client
from tapeworks_workers.sandbox.isolation import FIRST_UID, USERS
from tests.support.serving import Served, serving

KEY = "tw_" + "secret" * 7
CANARY = "canary-in-the-environment"
DISK_BYTES = 256 << 20
PACKAGE = Path(__file__).parent / "package"


@dataclass
class House:
    """The server, and where its secrets are."""

    served: Served
    key_file: Path
    """The worker's key."""
    private: Path
    """A file of the operator, beside everything."""

    @property
    def client(self) -> Client:
        """One with every right."""
        return self.served.client

    @property
    def work_dir(self) -> Path:
        """The worker's."""
        return self.served.data / "worker"

    def inhabitants(self) -> list[psutil.Process]:
        """Processes of this server's worker that have the user of a sandbox."""
        found = []
        for process in self.served.worker_processes():
            try:
                users = range(FIRST_UID, FIRST_UID + USERS)
                if process.uids().real in users and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found


@contextmanager
def housed(folder: Path) -> Iterator[House]:
    """A ready server."""
    private = folder / "private.txt"
    private.write_text("of the operator\n")
    given = {
        "TAPEWORKS_ALLOW_PACKAGES": "1",
        "TAPEWORKS_API_KEY": KEY,
        "TAPEWORKS_WORKER_SANDBOX_DISK_BYTES": str(DISK_BYTES),
        "OPERATORS_SECRET": CANARY,
    }
    with serving(folder / "data", "--cpu-slots", "2", environment=given, key=KEY) as served:
        yield House(served, served.data / "worker.key", private)
