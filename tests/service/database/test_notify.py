"""What services on one PostgreSQL tell each other, and the connection on which rows are looked at."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from sqlalchemy import insert

from tapeworks_service.database.engine import AWAY, Database
from tapeworks_service.database.shared_reads import KeyedQuery
from tapeworks_service.database.tables import projects
from tapeworks_service.wakeups import WakeHub
from tests.support.postgres import Postgres

PROJECT = KeyedQuery(projects.c.id, (projects.c.id, projects.c.created_at))


class Heard(WakeHub):
    """Keeps what it was woken for."""

    def __init__(self) -> None:
        super().__init__()
        self.topics: list[str] = []

    def wake(self, topics: Iterable[str]) -> None:
        self.topics += topics


@asynccontextmanager
async def instance(url: str) -> AsyncIterator[tuple[Database, Heard]]:
    hub = Heard()
    database = Database(url, hub=hub, busy_seconds=5)
    await database.open()
    try:
        yield database, hub
    finally:
        await database.close()


async def tell(database: Database, topic: str) -> None:
    async with database.write() as tx:
        tx.wake(topic)


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not reached():
            await asyncio.sleep(0.01)


def test_an_instance_wakes_its_own_once_and_the_others(postgres_server: Postgres) -> None:
    url = postgres_server.create()

    async def main() -> None:
        async with instance(url) as (a, heard_by_a), instance(url) as (b, heard_by_b):
            for teller, hub in ((a, heard_by_b), (b, heard_by_a)):
                async with asyncio.timeout(30):
                    while "ready" not in hub.topics:  # told until the other listens
                        await tell(teller, "ready")
            await tell(a, "of a")
            await tell(b, "of b")
            await until(lambda: "of b" in heard_by_a.topics and "of a" in heard_by_b.topics)
            # Notices come in the order of their commits: that of a has been at a too.
            assert heard_by_a.topics.count("of a") == 1

    asyncio.run(main())


def test_looks_go_on_once_the_server_has_closed_their_connection(postgres_server: Postgres) -> None:
    url = postgres_server.create()

    async def main() -> None:
        async with instance(url) as (database, _):
            async with database.write() as tx:
                await tx.execute(insert(projects).values(id="one", created_at=12.0))
            assert dict(await database.read_row(PROJECT, "one") or {}) == {"id": "one", "created_at": 12.0}
            assert await database.read_row(PROJECT, "two") is None
            await asyncio.to_thread(
                postgres_server.execute,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tapeworks'",
            )
            failed = 0
            while True:
                try:
                    assert await database.read_row(PROJECT, "one") is not None
                    break
                except AWAY:
                    failed += 1
                    assert failed < 2, "the look after one that failed is on another connection"

    asyncio.run(main())
