"""The connections to PostgreSQL, which several services share."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, cast

import asyncpg
from sqlalchemy import URL, event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from tapeworks_service.database.inline_connection import json_text

COMMAND_SECONDS = 60.0
"""No statement takes so long; a connection whose other end is gone without a word does."""
TURN_SECONDS = 30.0
"""How long a request waits for its turn while others use every connection: a burst is no outage."""
IDLE_SECONDS = 5.0
"""A connection that was not used for so long is asked whether it still is one: the server may have been restarted."""

_GOODBYE_SECONDS = 1.0


class DatabaseAway(Exception):
    """The database takes no connection now."""


def postgresql(url: URL, busy_seconds: float) -> AsyncEngine:
    """The engine, with its pool."""
    engine = create_async_engine(
        url,
        pool_size=10,
        max_overflow=10,
        pool_timeout=TURN_SECONDS,
        json_serializer=json_text,
        connect_args=_connect_args(busy_seconds),
    )

    @event.listens_for(engine.sync_engine, "checkin")
    def _used(_connection: Any, record: Any) -> None:
        record.info["used_at"] = time.monotonic()

    @event.listens_for(engine.sync_engine, "checkout")
    def _check(connection: Any, record: Any, _proxy: Any) -> None:
        if time.monotonic() - record.info.get("used_at", time.monotonic()) < IDLE_SECONDS:
            return
        try:
            engine.sync_engine.dialect.do_ping(connection)
        except engine.sync_engine.dialect.loaded_dbapi.Error as error:
            raise DisconnectionError from error  # the pool connects anew

    return engine


def beside_the_pool(url: URL, busy_seconds: float) -> AsyncEngine:
    """An engine whose every connection is a new one, for `taken`."""
    return create_async_engine(url, poolclass=NullPool, connect_args=_connect_args(busy_seconds))


def _connect_args(busy_seconds: float) -> dict[str, Any]:
    settings = {
        "application_name": "tapeworks",
        "lock_timeout": str(int(busy_seconds * 1000)),
        # A service that was stopped in the middle of a transaction must not hold its locks for ever.
        "idle_in_transaction_session_timeout": "60000",
    }
    return {"timeout": busy_seconds, "command_timeout": COMMAND_SECONDS, "server_settings": settings}


@asynccontextmanager
async def begun(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection in a transaction that is committed in the end. Raises `DatabaseAway`."""
    async with connected(engine) as connection, connection.begin():
        yield connection


@asynccontextmanager
async def connected(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection. Raises `DatabaseAway`: the driver's own errors while it connects are no `DBAPIError`."""
    with drivers_errors():
        connection = await engine.connect()
    try:
        yield connection
    except (TimeoutError, ConnectionError) as error:  # a statement was cut off: the driver does not wrap these
        raise DatabaseAway(f"{type(error).__name__}: {error}") from error
    finally:
        await connection.close()


async def taken(engine: AsyncEngine) -> asyncpg.Connection:
    """A new connection of the driver's own, made as the engine makes them. Raises `DatabaseAway`."""
    with drivers_errors(engine.sync_engine.dialect.loaded_dbapi.Error):  # `connect` would make a DBAPIError of it
        pooled = await engine.raw_connection()
    connection = cast("asyncpg.Connection", pooled.driver_connection)
    pooled.detach()
    return connection


async def let_go(connection: asyncpg.Connection) -> None:
    """Close what was taken, whatever state it is in."""
    try:
        with drivers_errors():
            await connection.close(timeout=_GOODBYE_SECONDS)
    except DatabaseAway:
        connection.terminate()


@contextmanager
def drivers_errors(*others: type[Exception]) -> Iterator[None]:
    """Those of the driver itself, and others, as `DatabaseAway`."""
    try:
        yield
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, *others) as error:
        raise DatabaseAway(f"{type(error).__name__}: {error}") from error
