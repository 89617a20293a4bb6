"""Opens the database, brings it up to date, and hands out transactions.

SQLite has two engines: readers are deferred and `query_only`, the one writer begins IMMEDIATE, so
a transaction never has to be upgraded (and fail) half-way. PostgreSQL has one engine for both.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, CursorResult, Executable, RowMapping, event, make_url, select
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from tapeworks_service.database.clock import epoch_now
from tapeworks_service.database.migrations import upgrade
from tapeworks_service.settings import StartRefused
from tapeworks_service.waking import Hub


class Transaction:
    """One transaction: everything that a request reads or writes."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.connection = connection
        self.topics: set[str] = set()
        self._now: float | None = None

    async def now(self) -> float:
        """The database's time, the same within a transaction. Seconds since 1970."""
        if self._now is None:
            self._now = float((await self.connection.execute(select(epoch_now()))).scalar_one())
        return self._now

    async def execute(self, statement: Executable, parameters: Any = None) -> CursorResult[Any]:
        """Execute one statement."""
        return await self.connection.execute(statement, parameters)

    async def one(self, statement: Executable) -> RowMapping | None:
        """The first row, or None."""
        return (await self.connection.execute(statement)).mappings().first()

    async def all(self, statement: Executable) -> list[RowMapping]:
        """All rows."""
        return list((await self.connection.execute(statement)).mappings())

    def wake(self, topic: str) -> None:
        """Wake those who wait for this topic, once the transaction is committed."""
        self.topics.add(topic)


class Database:
    """The engines and the lock of one service process."""

    def __init__(self, url: str, *, hub: Hub, busy_seconds: float) -> None:
        self.url = _parsed(url)
        self._hub = hub
        self._busy_seconds = busy_seconds
        self._exit = AsyncExitStack()
        self._reader: AsyncEngine
        self._writer: AsyncEngine

    @property
    def poll_seconds(self) -> float:
        """How long a waiting request trusts in being woken: other instances cannot wake it."""
        return 10.0 if self.url.get_backend_name() == "sqlite" else 1.0

    async def open(self) -> None:
        """Connect and upgrade. Raises `StartRefused` where another service holds the SQLite file."""
        backend = self.url.get_backend_name()
        if backend == "sqlite":
            self._lock(Path(self.url.database or ""))
            self._writer = self._sqlite(writer=True)
            self._reader = self._sqlite(writer=False)
        elif backend == "postgresql":
            self._writer = self._reader = create_async_engine(self.url, pool_timeout=self._busy_seconds)
        else:
            raise StartRefused(f"{backend} is not a database that Tapeworks knows: use sqlite or postgresql")
        self._exit.push_async_callback(self._writer.dispose)
        self._exit.push_async_callback(self._reader.dispose)
        async with self._writer.begin() as connection:
            await connection.run_sync(upgrade)

    async def close(self) -> None:
        """Close all connections and give the lock back."""
        await self._exit.aclose()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Transaction]:
        """A transaction that changes nothing."""
        async with self._reader.connect() as connection:
            yield Transaction(connection)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Transaction]:
        """A transaction: committed at the end of the block, rolled back when it raises; wakes after the commit."""
        async with self._writer.begin() as connection:
            transaction = Transaction(connection)
            yield transaction
        self._hub.wake(transaction.topics)

    def _lock(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(f"{file}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._exit.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StartRefused(
                f"another service uses {file}: stop it, or give this one a --data-dir of its own "
                "(several services share a PostgreSQL database, not a SQLite file)"
            ) from None

    def _sqlite(self, *, writer: bool) -> AsyncEngine:
        size = 1 if writer else 4
        engine = create_async_engine(
            self.url, pool_size=size, max_overflow=0, pool_timeout=self._busy_seconds, pool_use_lifo=True
        )
        busy = int(self._busy_seconds * 1000)
        pragmas = (f"busy_timeout={busy}", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON")
        begin = "BEGIN IMMEDIATE" if writer else "BEGIN DEFERRED"

        @event.listens_for(engine.sync_engine, "connect")
        def _connect(connection: Any, _record: Any) -> None:
            connection.isolation_level = None  # the driver begins nothing by itself: _begin does
            cursor = connection.cursor()
            for pragma in pragmas if writer else (*pragmas, "query_only=ON"):
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()

        @event.listens_for(engine.sync_engine, "begin")
        def _begin(connection: Connection) -> None:
            connection.exec_driver_sql(begin)

        return engine


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except ArgumentError:
        # Said without the text: a URL that is nearly right holds a password.
        raise StartRefused("the database URL cannot be read: write sqlite+aiosqlite:///FILE") from None
