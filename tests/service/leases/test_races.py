"""Two that act on an attempt at the same moment: one of them wins, whole, and the other changes nothing.

Each race is one that a queue has lost before: a finished job was failed by a pruner that had read it as running, a
sweep wrote over what ended after it looked, a job failed twice for one silence.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from tapeworks.schemas.jobs import HELD, State
from tapeworks_service.problems import Problem
from tapeworks_service.queue import queue
from tests.support.queues import LOST, Queue

TIMES = 12
"""So often each race is run, the two in either order."""


async def at_once(number: int, one: Awaitable[Any], other: Awaitable[Any]) -> tuple[Any, Any]:
    """What each of two gave, or the problem that it was answered with."""
    calls = [one, other] if number % 2 else [other, one]
    given = await asyncio.gather(*calls, return_exceptions=True)
    for problem in given:
        if isinstance(problem, BaseException) and not isinstance(problem, Problem):
            raise problem
    first, second = given if number % 2 else reversed(given)
    return first, second


async def renewed(one: Queue, fence: Any) -> bool:
    async with one.database.write() as tx:
        await queue.renew(tx, fence, lease_seconds=20.0)
    return True


async def failures(one: Queue, job_id: str) -> int:
    row = await one.row(job_id)
    return int(row["failed_attempts"])


def test_a_job_that_finishes_while_it_is_reaped_is_not_both(on_queue: Any) -> None:
    async def body(one: Queue) -> None:
        for number in range(TIMES):
            job_id = await one.add()
            fence = await one.must_claim(lease_seconds=-1.0)
            ended, reaped = await at_once(number, one.finish(fence, "succeeded"), one.reap())
            row = await one.row(job_id)
            if ended is State.SUCCEEDED:
                assert (reaped, row["state"], row["failed_attempts"]) == ([], "succeeded", 0)
                assert (await one.states(job_id))[-1] == "succeeded"
            else:
                assert (ended.code, reaped) == ("lease_lost", [job_id])
                assert (row["state"], row["failed_attempts"]) == ("queued", 1)
                await one.finish(await one.must_claim(), "succeeded")
            assert (await one.states(job_id)).count("succeeded") == 1

    on_queue(body)


def test_one_silence_is_one_failure_however_many_sweep(on_queue: Any) -> None:
    async def body(one: Queue) -> None:
        for _ in range(TIMES):
            job_id = await one.add()
            await one.must_claim(lease_seconds=-1.0)
            swept = await asyncio.gather(*(one.reap() for _ in range(4)))
            assert [found for reaped in swept for found in reaped] == [job_id]
            assert await failures(one, job_id) == 1
            await one.finish(await one.must_claim(), "succeeded")

    on_queue(body)


def test_a_renewed_lease_is_not_reaped_and_a_reaped_one_is_not_renewed(on_queue: Any) -> None:
    async def body(one: Queue) -> None:
        for number in range(TIMES):
            job_id = await one.add()
            fence = await one.must_claim(lease_seconds=-1.0)
            kept, reaped = await at_once(number, renewed(one, fence), one.reap())
            assert (kept is True) == (reaped == []), (kept, reaped)
            row = await one.row(job_id)
            assert row["state"] in {state.value for state in HELD} if kept is True else row["state"] == "queued"
            await one.finish(fence if kept is True else await one.must_claim(), "succeeded")

    on_queue(body)


@pytest.mark.parametrize("outcome", ["succeeded", "failed", "released"])
def test_an_ending_that_is_sent_twice_at_once_is_one(on_queue: Any, outcome: str) -> None:
    async def body(one: Queue) -> None:
        failure = LOST if outcome == "failed" else None
        for number in range(TIMES):
            job_id = await one.add()
            fence = await one.must_claim()
            both = await at_once(number, one.finish(fence, outcome, failure), one.finish(fence, outcome, failure))
            refusals = [given for given in both if isinstance(given, Problem)]
            assert [given.code for given in refusals] == ["lease_lost"], both
            assert await failures(one, job_id) == (outcome == "failed")
            if outcome != "succeeded":
                await one.finish(await one.must_claim(), "succeeded")

    on_queue(body)


def test_a_job_that_is_cancelled_while_it_is_claimed_ends_cancelled(on_queue: Any) -> None:
    async def body(one: Queue) -> None:
        for number in range(TIMES):
            job_id = await one.add()
            fence, _ = await at_once(number, one.claim(), one.cancel(job_id))
            row = await one.row(job_id)
            if fence is None:
                assert row["state"] == "cancelled"
            else:
                assert (row["state"], row["requested"]) == ("starting", "cancel"), "its worker is told"
                assert await one.finish(fence, "released") is State.CANCELLED
            assert (await one.states(job_id))[-1] == "cancelled"
            assert await one.claim() is None

    on_queue(body)


def test_who_was_away_for_longer_than_its_lease_changes_nothing_of_its_successor(on_queue: Any) -> None:
    async def body(one: Queue) -> None:
        for number in range(TIMES):
            job_id = await one.add()
            zombie = await one.must_claim(lease_seconds=-1.0)
            assert await one.reap() == [job_id]
            second = await one.must_claim()
            late, ended = await at_once(number, one.finish(zombie, "failed", LOST), one.finish(second, "succeeded"))
            assert (late.code, ended) == ("lease_lost", State.SUCCEEDED)
            row = await one.row(job_id)
            assert (row["state"], row["attempt"], row["failed_attempts"]) == ("succeeded", 2, 1)

    on_queue(body)
