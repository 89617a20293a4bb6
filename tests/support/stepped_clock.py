"""A service process whose wall clock, and whose database's, can be stepped while it runs."""

from __future__ import annotations

import mmap
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.support.postgres import Postgres

BOOT = """
import mmap, runpy, struct, sys, time
with open(sys.argv.pop(1), "rb") as file:
    shift = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
seconds = lambda: struct.unpack("d", shift[:8])[0]
_time, _time_ns, _gettime = time.time, time.time_ns, time.clock_gettime
time.time = lambda: _time() + seconds()
time.time_ns = lambda: _time_ns() + int(seconds() * 10**9)
time.clock_gettime = lambda clock: _gettime(clock) + (seconds() if clock == time.CLOCK_REALTIME else 0)
sys.argv[0] = "tapeworks_service"
runpy.run_module("tapeworks_service", run_name="__main__")
"""
"""The service, with the wall clock of its process shifted by the number in a file."""
STEPPED = (
    "CREATE SCHEMA stepped",
    "CREATE TABLE stepped.shift (seconds double precision)",
    "INSERT INTO stepped.shift VALUES (0)",
    "CREATE FUNCTION stepped.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$"
    " SELECT pg_catalog.clock_timestamp() + make_interval(secs => (SELECT seconds FROM stepped.shift)) $$",
)
"""A database's clock that can be stepped: found before PostgreSQL's own by the search path."""


@dataclass
class SteppedService:
    """A running service."""

    client: httpx.Client
    process: subprocess.Popen[bytes]
    _file: Path
    _server: Postgres | None
    _database: str
    shift: float = 0.0

    def step(self, seconds: float) -> None:
        """Move both wall clocks at once."""
        self.shift += seconds
        with self._file.open("r+b") as file, mmap.mmap(file.fileno(), 8) as shared:
            shared[:8] = struct.pack("d", self.shift)
        if self._server is not None:
            statement = f"UPDATE stepped.shift SET seconds = {self.shift}"  # noqa: S608
            self._server.execute(statement, self._database)


@contextmanager
def stepped_service(folder: Path, server: Postgres | None, **settings: object) -> Iterator[SteppedService]:
    """Run one, on SQLite without a server."""
    file, log, database = folder / "shift", folder / "service.log", ""
    file.write_bytes(struct.pack("d", 0.0))
    given: dict[str, object] = {"data_dir": folder / "data", **settings}
    if server is not None:
        given["database_url"] = server.create()
        database = str(given["database_url"]).partition("@/")[2].partition("?")[0]
        for statement in STEPPED:
            server.execute(statement, database)
        server.execute(f"ALTER DATABASE {database} SET search_path = public, stepped, pg_catalog")
    environment = os.environ | {f"TAPEWORKS_{name.upper()}": str(value) for name, value in given.items()}
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-c", BOOT, str(file)], env=environment, stdout=out, stderr=out)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{given['port']}", timeout=60) as client:
            _await_answer(client, process, log)
            yield SteppedService(client, process, file, server, database)
    finally:
        process.kill()
        process.wait()


def _await_answer(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 30
    while True:
        assert process.poll() is None, log.read_text()
        try:
            if client.get("/healthz").is_success:
                return
        except httpx.TransportError:
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
