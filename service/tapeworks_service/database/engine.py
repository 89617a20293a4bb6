"""Opens the database, brings it up to date, and hands out transactions.

SQLite has connections that read and one that writes (`sqlite.py`). PostgreSQL has one engine for both
(`postgresql.py`); what a transaction wakes is sent to the other instances too (`notices.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, cast

import structlog
from sqlalchemy import URL, CursorResult, Executable, RowMapping, func, make_url, select, text
from sqlalchemy.dialects import postgresql as postgresql_dialect
from sqlalchemy.dialects import sqlite as sqlite_dialect
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from tapeworks_service.database.clock import epoch_now
from tapeworks_service.database.inline_connection import InlineConnection
from tapeworks_service.database.migrations import upgrade
from tapeworks_service.database.notify import Notifier
from tapeworks_service.database.postgresql import DatabaseAway, begun, beside_the_pool, connected, postgresql
from tapeworks_service.database.shared_reads import KeyedQuery, SharedReads
from tapeworks_service.database.sqlite import Sqlite, sqlite
from tapeworks_service.settings import StartRefused
from tapeworks_service.wakeups import WakeHub

START_SECONDS = 30.0
"""How long a service that starts waits for its database."""

_NOW = select(epoch_now())

log = structlog.get_logger(__name__)


AWAY = (DatabaseAway, DBAPIError, PoolTimeout)
"""What it looks like when the database does not respond: to be tried again."""


class Transaction:
    """One transaction: everything that a request reads or writes."""

    def __init__(self, connection: AsyncConnection | InlineConnection) -> None:
        self.connection = connection
        self.topics: set[str] = set()
        self._now: float | None = None

    async def now(self) -> float:
        """The database's time, the same within a transaction. Seconds since 1970."""
        if self._now is None:  # SQLite has no clock but this machine's
            self._now = float((await self.execute(_NOW)).scalar_one()) if self.on_postgresql else time.time()
        return self._now

    async def execute(self, statement: Executable, parameters: Any = None) -> CursorResult[Any]:
        """Execute one statement."""
        return await self.connection.execute(statement, parameters)

    async def one(self, statement: Executable, parameters: Any = None) -> RowMapping | None:
        """The first row, or None."""
        return (await self.connection.execute(statement, parameters)).mappings().first()

    async def all(self, statement: Executable) -> list[RowMapping]:
        """All rows."""
        return list((await self.connection.execute(statement)).mappings())

    def insert(self, table: Any) -> Any:
        """An INSERT of the database's own dialect: one that can say ON CONFLICT."""
        return (postgresql_dialect if self.on_postgresql else sqlite_dialect).insert(table)

    @property
    def on_postgresql(self) -> bool:
        """Whether several transactions may write at once."""
        return bool(self.connection.dialect.name == "postgresql")

    async def alone(self, name: str) -> None:
        """Let one transaction of this name run at a time, on any instance; SQLite has one writer anyway."""
        if self.on_postgresql:
            await self.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))

    def wake(self, topic: str) -> None:
        """Wake those who wait for this topic, once the transaction is committed."""
        self.topics.add(topic)


class Database:
    """The engines and the lock of one service process."""

    def __init__(self, url: str, *, hub: WakeHub, busy_seconds: float) -> None:
        self.url = _parsed(url)
        self._hub = hub
        self._notices = Notifier(hub)
        self._busy_seconds = busy_seconds
        self.stalled_at = float("-inf")
        """When a write last had to wait for long, or could not begin: leases could not be renewed until then."""
        self._exit = AsyncExitStack()
        self._sqlite: Sqlite | None = None
        self._postgresql: AsyncEngine
        self._autocommit: AsyncEngine
        """The same connections."""
        self._shared = SharedReads(self._one_statement)

    @property
    def poll_seconds(self) -> float:
        """How long a waiting request trusts in being woken: other instances cannot wake it."""
        return 10.0 if self.url.get_backend_name() == "sqlite" else 1.0

    async def open(self, *, serves: bool = True) -> None:
        """Connect and upgrade. Raises `StartRefused` where another service holds the SQLite file.

        `serves`: as the service itself; a command may write beside it.
        """
        backend = self.url.get_backend_name()
        if backend == "sqlite":
            self._sqlite = await self._exit.enter_async_context(sqlite(self.url, self._busy_seconds, serves=serves))
        elif backend == "postgresql":
            self._postgresql = postgresql(self.url, self._busy_seconds)
            self._autocommit = self._postgresql.execution_options(isolation_level="AUTOCOMMIT")
            self._exit.push_async_callback(self._postgresql.dispose)
            beside = beside_the_pool(self.url, self._busy_seconds)
            await self._upgrade()
            await self._exit.enter_async_context(self._notices.heard(beside))
        else:
            raise StartRefused(f"{backend} is not a supported database: use sqlite or postgresql")

    async def _upgrade(self) -> None:
        """Bring PostgreSQL's schema up to date. One that is still starting is waited for. Raises `StartRefused`."""
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                async with self.write() as tx:
                    await tx.execute(text("SET LOCAL lock_timeout = 0"))
                    await tx.alone("migrations")  # several services may start at once, and one migrates
                    await cast("AsyncConnection", tx.connection).run_sync(upgrade)
                return
            except DatabaseAway as away:
                if time.monotonic() > until:
                    raise StartRefused(f"the database does not respond: {away}") from away
                log.warning("waiting_for_the_database", error=str(away))
                await asyncio.sleep(1)

    async def close(self) -> None:
        """Close all connections and give the lock back."""
        await self._exit.aclose()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Transaction]:
        """A transaction that changes nothing."""
        if self._sqlite is not None:
            with self._sqlite.reader.connect() as inline:
                yield Transaction(InlineConnection(inline))
        else:
            async with connected(self._postgresql) as connection:
                yield Transaction(connection)

    @asynccontextmanager
    async def _one_statement(self) -> AsyncIterator[Transaction]:
        """A transaction for one read: without BEGIN and ROLLBACK, which cost PostgreSQL more than the statement."""
        if self._sqlite is not None:
            async with self.read() as tx:
                yield tx
        else:
            async with connected(self._autocommit) as connection:
                yield Transaction(connection)

    async def read_row(self, query: KeyedQuery, key: str) -> Mapping[str, Any] | None:
        """The row of a key, as it is now or was committed a moment later. Many that ask at once share one read."""
        return await self._shared.first(query, key)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Transaction]:
        """A transaction: committed at the end of the block, rolled back when it raises; wakes after the commit."""
        async with AsyncExitStack() as stack:
            connection = await self._begun(stack)
            transaction = Transaction(connection)
            yield transaction
            if isinstance(connection, AsyncConnection):
                await self._notices.tell(connection, transaction.topics)
        self._hub.wake(transaction.topics)

    async def _begun(self, stack: AsyncExitStack) -> AsyncConnection | InlineConnection:
        """A connection in a writing transaction; notes where that was long in coming."""
        began = time.monotonic()
        try:
            writing = begun(self._postgresql) if self._sqlite is None else self._sqlite.writer.transaction()
            connection: AsyncConnection | InlineConnection = await stack.enter_async_context(writing)
        except AWAY:
            self.stalled_at = time.monotonic()
            raise
        if time.monotonic() - began > self._busy_seconds / 2:
            self.stalled_at = time.monotonic()
        return connection


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except ArgumentError:
        # Said without the text: a URL that is nearly right holds a password.
        raise StartRefused(
            "the database URL cannot be read: write postgresql+asyncpg://USER@HOST/NAME or sqlite+aiosqlite:///FILE"
        ) from None
