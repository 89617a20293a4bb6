"""The connections to a SQLite file: one that writes, and those that read.

It is read in the loop's own thread (`inline.py`), and written by one connection (`groups.py`) that begins IMMEDIATE, so
a transaction never has to be upgraded (and fail) half-way. One service process has a file.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event

from tapeworks_service.database.group_commit import GroupWriter
from tapeworks_service.database.inline_connection import json_text
from tapeworks_service.database.migrations import upgrade
from tapeworks_service.settings import StartRefused

TURN_SECONDS = 30.0
"""How long a request waits for its turn while others write: a burst is no outage."""
INLINE_BUSY_MS = 100
"""How long a read may hold the event loop while another process recovers the log; there is nothing else to wait for."""


@dataclass(frozen=True)
class Sqlite:
    """The connections to a SQLite file."""

    writer: GroupWriter
    reader: Engine


@asynccontextmanager
async def sqlite(url: URL, busy_seconds: float, *, serves: bool) -> AsyncIterator[Sqlite]:
    """Bring a file up to date, and open it. Raises `StartRefused` where another service holds it."""
    busy = f"busy_timeout={int(busy_seconds * 1000)}"
    async with AsyncExitStack() as stack:
        if serves:
            stack.enter_context(_locked(Path(url.database or "")))
        migrating = _engine(url, "BEGIN IMMEDIATE", busy)
        stack.callback(migrating.dispose)
        await asyncio.to_thread(_migrate, migrating)
        reading = _engine(url, "BEGIN DEFERRED", f"busy_timeout={INLINE_BUSY_MS}", "query_only=ON")
        stack.callback(reading.dispose)
        writing = _engine(url, None, busy)
        stack.callback(writing.dispose)
        writer = await stack.enter_async_context(GroupWriter(writing, turn_seconds=TURN_SECONDS))
        yield Sqlite(writer, reading)


def _migrate(engine: Engine) -> None:
    with engine.begin() as connection:
        upgrade(connection)


def _engine(url: URL, begin: str | None, busy: str, *pragmas: str) -> Engine:
    """Connections to the file; `begin`: how they begin their transactions, None where others do that."""
    engine = create_engine(
        url.set(drivername="sqlite"),
        max_overflow=-1,
        json_serializer=json_text,
        connect_args={"check_same_thread": False},
    )
    wanted = (busy, "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", *pragmas)

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself: _begin does
        cursor = connection.cursor()
        for pragma in wanted:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if begin is not None:
            connection.exec_driver_sql(begin)

    return engine


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(f"{file}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise StartRefused(
            f"another service uses {file}: stop it, or give this service another --data-dir "
            "(several services share a PostgreSQL database, not a SQLite file)"
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)
