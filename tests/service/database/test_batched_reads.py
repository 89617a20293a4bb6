"""Looks at rows that are gathered into one query: who shares one, and what errors and cancellations do."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tapeworks_service.database.batched_reads import BatchedReads, KeyedQuery
from tapeworks_service.database.tables import jobs
from tapeworks_service.jobs.stream_tails import StreamTailCache
from tapeworks_service.single_flight import SingleFlight

JOBS = KeyedQuery(jobs.c.id, (jobs.c.id, jobs.c.state))


class Rows:
    """Answers with a row for each key that does not begin with `no`; a query waits until it is let go."""

    def __init__(self) -> None:
        self.queries: list[list[str]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.broken = False

    async def fetch(self, look: KeyedQuery, keys: Sequence[str]) -> Sequence[Mapping[str, Any]]:
        self.queries.append(list(keys))
        await self.open.wait()
        if self.broken:
            raise ConnectionError("gone")
        return [{"id": key, "state": f"state of {key}"} for key in keys if not key.startswith("no")]


def test_those_who_ask_in_the_same_moment_share_a_query() -> None:
    async def main() -> None:
        rows = Rows()
        looks = BatchedReads(rows.fetch)
        keys = ["a", "b", "a", "none", "a"]
        found = await asyncio.gather(*(looks.first(JOBS, key) for key in keys))
        assert [row and row["state"] for row in found] == [
            "state of a", "state of b", "state of a", None, "state of a",
        ]  # fmt: skip
        assert rows.queries == [["a", "b", "none"]]

    asyncio.run(main())


def test_who_asks_while_a_query_is_on_its_way_is_in_the_next_one() -> None:
    """What was read for others before a question was asked is no answer to it."""

    async def main() -> None:
        rows = Rows()
        rows.open.clear()
        looks = BatchedReads(rows.fetch)
        early = asyncio.create_task(looks.first(JOBS, "a"))
        while not rows.queries:
            await asyncio.sleep(0)
        late = [asyncio.create_task(looks.first(JOBS, key)) for key in ("a", "b")]
        await asyncio.sleep(0)
        rows.open.set()
        await asyncio.gather(early, *late)
        assert rows.queries == [["a"], ["a", "b"]]

    asyncio.run(main())


def test_an_error_reaches_all_who_asked_and_the_next_look_works() -> None:
    async def main() -> None:
        rows = Rows()
        looks = BatchedReads(rows.fetch)
        rows.broken = True
        told = await asyncio.gather(*(looks.first(JOBS, key) for key in "ab"), return_exceptions=True)
        assert [type(one) for one in told] == [ConnectionError, ConnectionError]
        rows.broken = False
        assert await looks.first(JOBS, "a") == {"id": "a", "state": "state of a"}

    asyncio.run(main())


def test_one_who_gives_up_leaves_the_others() -> None:
    async def main() -> None:
        rows = Rows()
        rows.open.clear()
        looks = BatchedReads(rows.fetch)
        first, second = (asyncio.create_task(looks.first(JOBS, "a")) for _ in range(2))
        while not rows.queries:
            await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        rows.open.set()
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
        assert await joined.get("a", work()) == 3, "what has ended is done anew"

    asyncio.run(main())
