"""Opens the database, brings it up to date, and hands out transactions.

SQLite is read in the loop's own thread (`inline.py`), and written by one connection (`groups.py`) that begins
IMMEDIATE, so a transaction never has to be upgraded (and fail) half-way. PostgreSQL has one engine for both; what a
transaction wakes is told to the other instances too (`notices.py`).
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import asyncpg
import structlog
from sqlalchemy import (
    URL,
    Connection,
    CursorResult,
    Engine,
    Executable,
    RowMapping,
    Select,
    create_engine,
    event,
    func,
    make_url,
    select,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from tapeworks_service.database.clock import epoch_now
from tapeworks_service.database.groups import GroupWriter
from tapeworks_service.database.inline import InlineConnection, Looks
from tapeworks_service.database.migrations import upgrade
from tapeworks_service.database.notices import listening, notify
from tapeworks_service.settings import StartRefused
from tapeworks_service.waking import Hub

START_SECONDS = 30.0
"""How long a service that starts waits for its database."""
COMMAND_SECONDS = 60.0
"""No statement takes so long; a connection whose other end is gone without a word does."""
TURN_SECONDS = 30.0
"""How long a request waits for its turn while others use every connection: a burst is no outage."""

INLINE_BUSY_MS = 100
"""How long a read may hold the event loop while another process recovers the log; there is nothing else to wait for."""

_NOW = select(epoch_now())

log = structlog.get_logger(__name__)


class DatabaseAway(Exception):
    """The database takes no connection now."""


AWAY = (DatabaseAway, DBAPIError, PoolTimeout)
"""What it looks like when the database does not answer: to be tried again."""


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

    async def one(self, statement: Executable) -> RowMapping | None:
        """The first row, or None."""
        return (await self.connection.execute(statement)).mappings().first()

    async def all(self, statement: Executable) -> list[RowMapping]:
        """All rows."""
        return list((await self.connection.execute(statement)).mappings())

    def insert(self, table: Any) -> Any:
        """An INSERT of the database's own dialect: one that can say ON CONFLICT."""
        return (postgresql if self.on_postgresql else sqlite).insert(table)

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

    def __init__(self, url: str, *, hub: Hub, busy_seconds: float) -> None:
        self.url = _parsed(url)
        self._hub = hub
        self._busy_seconds = busy_seconds
        self.stalled_at = float("-inf")
        """When a write last had to wait for long, or could not begin: leases could not be renewed until then."""
        self._exit = AsyncExitStack()
        self._sqlite: _Sqlite | None = None
        self._postgresql: AsyncEngine

    @property
    def poll_seconds(self) -> float:
        """How long a waiting request trusts in being woken: other instances cannot wake it."""
        return 10.0 if self.url.get_backend_name() == "sqlite" else 1.0

    async def open(self) -> None:
        """Connect and upgrade. Raises `StartRefused` where another service holds the SQLite file."""
        backend = self.url.get_backend_name()
        if backend == "sqlite":
            self._lock(Path(self.url.database or ""))
            self._sqlite = await self._exit.enter_async_context(_sqlite(self.url, self._busy_seconds))
        elif backend == "postgresql":
            self._postgresql = _postgresql(self.url, self._busy_seconds)
            self._exit.push_async_callback(self._postgresql.dispose)
            await self._upgrade()
            await self._exit.enter_async_context(listening(self.url, self._hub))
        else:
            raise StartRefused(f"{backend} is not a database that Tapeworks knows: use sqlite or postgresql")

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
                    raise StartRefused(f"the database does not answer: {away}") from away
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
            async with _connected(self._postgresql) as connection:
                yield Transaction(connection)

    async def look(self, statement: Select[Any], parameters: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The first row of a query of plain columns that is made over and over: a constant, with parameters."""
        if self._sqlite is not None:
            return self._sqlite.looks.first(statement, parameters)
        async with _connected(self._postgresql) as connection:
            row = (await connection.execute(statement, parameters)).mappings().first()
            return None if row is None else {str(name): value for name, value in row.items()}

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Transaction]:
        """A transaction: committed at the end of the block, rolled back when it raises; wakes after the commit."""
        async with AsyncExitStack() as stack:
            connection = await self._begun(stack)
            transaction = Transaction(connection)
            yield transaction
            if isinstance(connection, AsyncConnection):
                await notify(connection, transaction.topics)
        self._hub.wake(transaction.topics)

    async def _begun(self, stack: AsyncExitStack) -> AsyncConnection | InlineConnection:
        """A connection in a writing transaction; notes where that was long in coming."""
        began = time.monotonic()
        try:
            writing = _begun(self._postgresql) if self._sqlite is None else self._sqlite.writer.transaction()
            connection: AsyncConnection | InlineConnection = await stack.enter_async_context(writing)
        except AWAY:
            self.stalled_at = time.monotonic()
            raise
        if time.monotonic() - began > self._busy_seconds / 2:
            self.stalled_at = time.monotonic()
        return connection

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


@dataclass(frozen=True)
class _Sqlite:
    """The connections to a SQLite file."""

    writer: GroupWriter
    reader: Engine
    looks: Looks


@asynccontextmanager
async def _sqlite(url: URL, busy_seconds: float) -> AsyncIterator[_Sqlite]:
    """Bring a file up to date, and open it."""
    busy = f"busy_timeout={int(busy_seconds * 1000)}"
    async with AsyncExitStack() as stack:
        migrating = _sqlite_engine(url, "BEGIN IMMEDIATE", busy)
        stack.callback(migrating.dispose)
        await asyncio.to_thread(_migrate, migrating)
        reading = _sqlite_engine(url, "BEGIN DEFERRED", f"busy_timeout={INLINE_BUSY_MS}", "query_only=ON")
        stack.callback(reading.dispose)
        writing = _sqlite_engine(url, None, busy)
        stack.callback(writing.dispose)
        writer = await stack.enter_async_context(GroupWriter(writing, turn_seconds=TURN_SECONDS))
        yield _Sqlite(writer, reading, stack.enter_context(Looks(reading)))


def _migrate(engine: Engine) -> None:
    with engine.begin() as connection:
        upgrade(connection)


def _sqlite_engine(url: URL, begin: str | None, busy: str, *pragmas: str) -> Engine:
    """Connections to the file; `begin`: how they begin their transactions, None where others do that."""
    engine = create_engine(url.set(drivername="sqlite"), max_overflow=-1, connect_args={"check_same_thread": False})
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


def _postgresql(url: URL, busy_seconds: float) -> AsyncEngine:
    settings = {
        "application_name": "tapeworks",
        "lock_timeout": str(int(busy_seconds * 1000)),
        # A service that was stopped in the middle of a transaction must not hold its locks for ever.
        "idle_in_transaction_session_timeout": "60000",
    }
    return create_async_engine(
        url,
        pool_size=10,
        max_overflow=10,
        pool_timeout=TURN_SECONDS,
        pool_pre_ping=True,  # the server may have been restarted since
        connect_args={"timeout": busy_seconds, "command_timeout": COMMAND_SECONDS, "server_settings": settings},
    )


@asynccontextmanager
async def _begun(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    async with _connected(engine) as connection, connection.begin():
        yield connection


@asynccontextmanager
async def _connected(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection. Raises `DatabaseAway`: the driver's own errors while it connects are no `DBAPIError`."""
    try:
        connection = await engine.connect()
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise DatabaseAway(f"{type(error).__name__}: {error}") from error
    try:
        yield connection
    except (TimeoutError, ConnectionError) as error:  # a statement was cut off: the driver does not wrap these
        raise DatabaseAway(f"{type(error).__name__}: {error}") from error
    finally:
        await connection.close()


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except ArgumentError:
        # Said without the text: a URL that is nearly right holds a password.
        raise StartRefused(
            "the database URL cannot be read: write postgresql+asyncpg://USER@HOST/NAME or sqlite+aiosqlite:///FILE"
        ) from None
