"""Reads of one row that many ask for: who shares one, and what errors and cancellations do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tapeworks_service.database.shared_reads import KeyedQuery, SharedReads
from tapeworks_service.database.tables import jobs
from tapeworks_service.jobs.stream_tails import StreamTailCache
from tapeworks_service.single_flight import SingleFlight

JOBS = KeyedQuery(jobs.c.id, (jobs.c.id, jobs.c.state))


class Reads:
    """Begins transactions that answer with a row for each key that does not begin with `no`; a read has begun once a
    connection is there, and ends when it is let go."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.open, self.connected = asyncio.Event(), asyncio.Event()
        self.open.set()
        self.connected.set()
        self.broken = False

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Any]:
        await self.connected.wait()
        yield self

    async def one(self, statement: Any, parameters: Mapping[str, str]) -> Mapping[str, Any] | None:
        key = parameters["key"]
        self.keys.append(key)
        await self.open.wait()
        if self.broken:
            raise ConnectionError("gone")
        return None if key.startswith("no") else {"id": key, "state": f"state of {key}"}


def test_those_who_ask_before_a_read_begins_share_it() -> None:
    async def main() -> None:
        reads = Reads()
        shared = SharedReads(reads.begin)
        reads.connected.clear()
        asking = [asyncio.create_task(shared.first(JOBS, key)) for key in ("a", "b", "a", "none")]
        await asyncio.sleep(0)
        asking.append(asyncio.create_task(shared.first(JOBS, "a")))
        await asyncio.sleep(0)
        reads.connected.set()
        found = await asyncio.gather(*asking)
        assert [row and row["state"] for row in found] == [
            "state of a", "state of b", "state of a", None, "state of a",
        ]  # fmt: skip
        assert reads.keys == ["a", "b", "none"]

    asyncio.run(main())


def test_who_asks_while_a_read_runs_has_one_of_its_own() -> None:
    """What was read for others before a question was asked is no answer to it."""

    async def main() -> None:
        reads = Reads()
        reads.open.clear()
        shared = SharedReads(reads.begin)
        early = asyncio.create_task(shared.first(JOBS, "a"))
        while not reads.keys:
            await asyncio.sleep(0)
        late = [asyncio.create_task(shared.first(JOBS, key)) for key in ("a", "b", "a")]
        await asyncio.sleep(0)
        reads.open.set()
        await asyncio.gather(early, *late)
        assert reads.keys == ["a", "b", "a"]

    asyncio.run(main())


def test_an_error_reaches_all_who_asked_and_the_next_read_works() -> None:
    async def main() -> None:
        reads = Reads()
        shared = SharedReads(reads.begin)
        reads.broken = True
        results = await asyncio.gather(*(shared.first(JOBS, key) for key in "aab"), return_exceptions=True)
        assert [type(one) for one in results] == [ConnectionError] * 3
        reads.broken = False
        assert await shared.first(JOBS, "a") == {"id": "a", "state": "state of a"}

    asyncio.run(main())


def test_a_read_that_cannot_begin_fails_for_all_who_asked() -> None:
    @asynccontextmanager
    async def away() -> AsyncIterator[Any]:
        raise ConnectionError("away")
        yield

    async def main() -> None:
        shared = SharedReads(away)
        for _ in range(2):
            results = await asyncio.gather(*(shared.first(JOBS, "a") for _ in range(2)), return_exceptions=True)
            assert [type(one) for one in results] == [ConnectionError] * 2

    asyncio.run(main())


def test_one_who_gives_up_leaves_the_others() -> None:
    async def main() -> None:
        reads = Reads()
        reads.open.clear()
        shared = SharedReads(reads.begin)
        first, second = (asyncio.create_task(shared.first(JOBS, "a")) for _ in range(2))
        while not reads.keys:
            await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        reads.open.set()
        assert (await second or {})["state"] == "state of a"

    asyncio.run(main())


def test_tails_forget_the_oldest() -> None:
    tails = StreamTailCache()
    for number in range(300):
        tails.put(("events", "project", "job", number, number + 1), [(number + 1, "{}")])
    assert tails.get(("events", "project", "job", 299, 300)) == [(300, "{}")]
    assert tails.get(("events", "project", "job", 0, 1)) is None


def test_work_that_several_ask_for_is_done_once() -> None:
    async def main() -> None:
        joined: SingleFlight[str, int] = SingleFlight()
        done, opened = 0, asyncio.Event()

        async def work(fails: bool = False) -> int:
            nonlocal done
            await opened.wait()
            done += 1
            if fails:
                raise ValueError("no")
            return done

        first, second, third = (asyncio.create_task(joined.get("a", work())) for _ in range(3))
        other = asyncio.create_task(joined.get("b", work(fails=True)))
        await asyncio.sleep(0)
        first.cancel()
        opened.set()
        assert await second == await third
        assert done == 2
        with pytest.raises(asyncio.CancelledError):
            await first
        with pytest.raises(ValueError, match="no"):
            await other
        assert await joined.get("a", work()) == 3, "finished work is done again"

    asyncio.run(main())
