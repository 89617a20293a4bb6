"""The connections to PostgreSQL, which several services share."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from sqlalchemy import URL, event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from tapeworks_service.database.inline import json_text

COMMAND_SECONDS = 60.0
"""No statement takes so long; a connection whose other end is gone without a word does."""
TURN_SECONDS = 30.0
"""How long a request waits for its turn while others use every connection: a burst is no outage."""
IDLE_SECONDS = 5.0
"""A connection that was not used for so long is asked whether it still is one: the server may have been restarted."""


class DatabaseAway(Exception):
    """The database takes no connection now."""


def postgresql(url: URL, busy_seconds: float) -> AsyncEngine:
    """The engine, with its pool."""
    settings = {
        "application_name": "tapeworks",
        "lock_timeout": str(int(busy_seconds * 1000)),
        # A service that was stopped in the middle of a transaction must not hold its locks for ever.
        "idle_in_transaction_session_timeout": "60000",
    }
    engine = create_async_engine(
        url,
        pool_size=10,
        max_overflow=10,
        pool_timeout=TURN_SECONDS,
        json_serializer=json_text,
        connect_args={"timeout": busy_seconds, "command_timeout": COMMAND_SECONDS, "server_settings": settings},
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


@asynccontextmanager
async def begun(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection in a transaction that is committed in the end. Raises `DatabaseAway`."""
    async with connected(engine) as connection, connection.begin():
        yield connection


@asynccontextmanager
async def connected(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
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
