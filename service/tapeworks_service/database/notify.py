"""Tells the other service instances of a PostgreSQL database what was woken, and hears of it from them.

LISTEN and NOTIFY only make a wait shorter: whoever waits looks again by itself, so a notice that is lost, and a
connection that is down for a while, cost time and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress

import structlog
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from tapeworks_service.database.postgresql import DatabaseAway, drivers_errors, let_go, taken
from tapeworks_service.ids import new_id
from tapeworks_service.wakeups import WakeHub

CHANNEL = "tapeworks"
AGAIN_SECONDS = 1.0
_LONGEST_BYTES = 7_900
"""PostgreSQL takes 8 000 bytes a notice."""

log = structlog.get_logger(__name__)


class Notifier:
    """Those of one instance. It wakes its own by itself, so it does not listen to its own notifications."""

    def __init__(self, hub: WakeHub) -> None:
        self._hub = hub
        self._instance = new_id("instance")

    async def tell(self, connection: AsyncConnection, topics: Iterable[str]) -> None:
        """Send topics with the commit of the connection's transaction."""
        payload = "\n".join((self._instance, *sorted(topics)))
        if topics and len(payload) <= _LONGEST_BYTES:
            await connection.execute(select(func.pg_notify(CHANNEL, payload)))

    @asynccontextmanager
    async def heard(self, engine: AsyncEngine) -> AsyncIterator[None]:
        """Wake whoever waits here for what other instances tell, while the block runs."""
        task = asyncio.create_task(self._listen(engine))
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _listen(self, engine: AsyncEngine) -> None:
        while True:
            try:
                await self._hear(engine)
            except DatabaseAway as away:
                log.debug("no_notices_for_a_while", error=str(away))
            await asyncio.sleep(AGAIN_SECONDS)

    async def _hear(self, engine: AsyncEngine) -> None:
        """Until the connection ends."""
        ended = asyncio.Event()
        connection = await taken(engine)
        try:
            connection.add_termination_listener(lambda _: ended.set())
            with drivers_errors():
                await connection.add_listener(CHANNEL, lambda *arguments: self._heard(arguments[3]))
            await ended.wait()
        finally:
            await let_go(connection)

    def _heard(self, payload: str) -> None:
        instance, *topics = payload.split("\n")
        if instance != self._instance:
            self._hub.wake(topics)
