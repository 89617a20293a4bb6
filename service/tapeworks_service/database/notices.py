"""Tells the other service instances of a PostgreSQL database what was woken, and hears of it from them.

LISTEN and NOTIFY only make a wait shorter: whoever waits looks again by itself, so a notice that is lost, and a
connection that is down for a while, cost time and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress

import asyncpg
import structlog
from sqlalchemy import URL, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from tapeworks_service.waking import Hub

CHANNEL = "tapeworks"
AGAIN_SECONDS = 1.0
_LONGEST_BYTES = 7_900
"""PostgreSQL takes 8 000 bytes a notice."""

log = structlog.get_logger(__name__)


async def notify(connection: AsyncConnection, topics: Iterable[str]) -> None:
    """Send topics with the commit of the connection's transaction."""
    payload = "\n".join(sorted(topics))
    if payload and len(payload) <= _LONGEST_BYTES:
        await connection.execute(select(func.pg_notify(CHANNEL, payload)))


@asynccontextmanager
async def listening(url: URL, hub: Hub) -> AsyncIterator[None]:
    """Wake whoever waits here for what other instances tell, while the block runs."""
    task = asyncio.create_task(_listen(url, hub))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _listen(url: URL, hub: Hub) -> None:
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    while True:
        try:
            await _hear(plain, hub)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            log.debug("no_notices_for_a_while", error=str(error))
        await asyncio.sleep(AGAIN_SECONDS)


async def _hear(url: str, hub: Hub) -> None:
    """Until the connection ends."""
    ended = asyncio.Event()
    connection = await asyncpg.connect(url, timeout=10)
    try:
        connection.add_termination_listener(lambda _: ended.set())
        await connection.add_listener(CHANNEL, lambda *told: hub.wake(told[3].split("\n")))
        await ended.wait()
    finally:
        connection.terminate()
