"""The queue's guards, on a real database: who may move a job, in which order jobs go, what an ending leads to."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import update

from tapeworks.errors import FailureCode, ProblemCode
from tapeworks.schemas.jobs import Failure, State
from tapeworks_service.database.engine import Transaction
from tapeworks_service.database.tables import jobs
from tapeworks_service.queue import queue, user_requests
from tapeworks_service.queue.fence import Fence, lock_held
from tapeworks_service.queue.scheduling import RequirementsCache
from tapeworks_service.workers.repository import WorkerRow
from tests.service.queue.test_requirements import worker
from tests.support.queues import LOST, Queue, refused

WRONG = Failure(code=FailureCode.INVALID_DATA, message="label 12")


def test_only_the_holder_moves_a_job(on_queue: Any) -> None:
    async def body(one: Queue) -> None:
        job_id = await one.add()
        fence = await one.must_claim()
        strangers = [
            Fence(job_id, fence.attempt, "guessed"),
            Fence(job_id, fence.attempt + 1, fence.token),
            Fence(job_id, fence.attempt - 1, fence.token),
        ]
        for stranger in strangers:
            assert await refused(one.advance(stranger, State.RUNNING)) is ProblemCode.LEASE_LOST
            assert await refused(one.finish(stranger, "succeeded")) is ProblemCode.LEASE_LOST
        assert (await one.row(job_id))["state"] == "starting"
        await one.advance(fence, State.RUNNING)
        assert await one.finish(fence, "succeeded") is State.SUCCEEDED
        assert await refused(one.finish(fence, "failed", WRONG)) is ProblemCode.LEASE_LOST
        assert await one.states(job_id) == ["queued", "starting", "running", "succeeded"]

    on_queue(body)


def test_an_attempt_moves_only_forward(on_queue: Any) -> None:
    async def body(one: Queue) -> None:
        job_id = await one.add()
        fence = await one.must_claim()
        moves = (State.RUNNING, State.EXPORTING, State.RUNNING, State.STARTING, State.SUCCEEDED, State.VERIFYING)
        for state in moves:
            await one.advance(fence, state)
        assert await one.states(job_id) == ["queued", "starting", "running", "exporting", "verifying"]

    on_queue(body)


def test_a_row_that_changed_after_it_was_read_is_not_overwritten(on_queue: Any) -> None:
    async def body(one: Queue) -> None:
        await one.add()
        fence = await one.must_claim()
        async with one.database.read() as tx:
            stale = await lock_held(tx, fence)
        await one.finish(fence, "released")

        async def late() -> None:
            async with one.database.write() as tx:
                await queue.finish(tx, stale, queue.AttemptOutcome("succeeded"), retry_seconds=0.0)

        assert await refused(late()) is ProblemCode.LEASE_LOST
        assert (await one.row(fence.job_id))["state"] == "queued"

    on_queue(body)


def test_order_is_priority_then_submission(on_queue: Any) -> None:
    async def body(one: Queue) -> None:
        low, first, second, high = [await one.add(priority=priority) for priority in (-5, 0, 0, 7)]
        claimed = [(await one.must_claim()).job_id for _ in range(4)]
        assert claimed == [high, first, second, low]
        assert await one.claim() is None

    on_queue(body)


def test_projects_take_turns_within_a_priority(on_queue: Any) -> None:
    async def body(one: Queue) -> None:
        many = [await one.add() for _ in range(4)]
        few = [await one.add(project="other") for _ in range(2)]
        claimed = [(await one.must_claim()).job_id for _ in range(6)]
        assert claimed == [many[0], few[0], many[1], few[1], many[2], many[3]]

    on_queue(body)


def test_a_retryable_failure_is_retried_until_attempts_run_out(on_queue: Any) -> None:
    async def body(one: Queue) -> None:
        job_id = await one.add(max_attempts=2)
        assert await one.finish(await one.must_claim(), "failed", LOST) is State.QUEUED
        row = await one.row(job_id)
        assert (row["attempt"], row["failed_attempts"], row["token_hash"]) == (1, 1, None)
        assert await one.finish(await one.must_claim(), "failed", LOST) is State.FAILED
        row = await one.row(job_id)
        assert (row["attempt"], row["failed_attempts"]) == (2, 2)
        assert row["document"]["failure"]["code"] == "worker_lost"
        assert row["document"]["failure"]["attempt"] == 2
        assert row["finished_at"] is not None

    on_queue(body)


def test_a_failure_that_is_not_retryable_ends_the_job(on_queue: Any) -> None:
    async def body(one: Queue) -> None:
        job_id = await one.add()
        assert await one.finish(await one.must_claim(), "failed", WRONG) is State.FAILED
        assert (await one.row(job_id))["document"]["failure"]["hint"], "the code's own hint is filled in"

    on_queue(body)


def test_a_pause_before_a_retry_is_kept(on_queue: Any) -> None:
    async def body(one: Queue) -> None:
        job_id = await one.add()
        fence = await one.must_claim()
        async with one.database.write() as tx:
            row = await lock_held(tx, fence)
            await queue.finish(tx, row, queue.AttemptOutcome("failed", LOST), retry_seconds=1000.0)
        assert await one.claim() is None
        row = await one.row(job_id)
        assert row["not_before"] == pytest.approx(row["queued_at"] + 60.0), "a minute at most"

    on_queue(body)


def test_handing_back_costs_no_attempt(on_queue: Any) -> None:
    async def body(one: Queue) -> None:
        job_id = await one.add(max_attempts=1)
        for _ in range(3):
            assert await one.finish(await one.must_claim(), "released") is State.QUEUED
        row = await one.row(job_id)
        assert (row["attempt"], row["failed_attempts"]) == (3, 0)

    on_queue(body)


def test_cancel_is_at_once_where_nobody_holds_the_job(on_queue: Any) -> None:
    async def body(one: Queue) -> None:
        job_id = await one.add()
        await one.cancel(job_id)
        assert await one.states(job_id) == ["queued", "cancelled"]
        assert await one.claim() is None
        assert await refused(one.cancel(job_id)) is ProblemCode.CONFLICT

    on_queue(body)


@pytest.mark.parametrize("outcome", ["cancelled", "released", "failed", "paused"])
def test_a_cancel_that_was_asked_for_holds_however_the_attempt_ends(on_queue: Any, outcome: str) -> None:
    async def body(one: Queue) -> None:
        job_id = await one.add()
        fence = await one.must_claim()
        await one.cancel(job_id)
        await one.cancel(job_id)
        row = await one.row(job_id)
        assert (row["state"], row["requested"], row["event_seq"]) == ("starting", "cancel", 3)
        assert await one.finish(fence, outcome, LOST) is State.CANCELLED
        assert (await one.row(job_id))["requested"] == "none"

    on_queue(body)


def test_an_attempt_that_succeeds_before_it_hears_of_the_cancel_succeeded(on_queue: Any) -> None:
    async def body(one: Queue) -> None:
        job_id = await one.add()
        fence = await one.must_claim()
        await one.cancel(job_id)
        assert await one.finish(fence, "succeeded") is State.SUCCEEDED

    on_queue(body)


def test_silence_is_reaped_and_fenced_off(on_queue: Any) -> None:
    async def body(one: Queue) -> None:
        job_id = await one.add()
        silent = await one.must_claim(lease_seconds=-1.0)
        living = await one.add()
        await one.must_claim()
        assert await one.reap() == [job_id]
        assert (await one.row(living))["state"] == "starting"
        assert await one.states(job_id) == ["queued", "starting", "queued"]
        second = await one.must_claim()
        assert (second.job_id, second.attempt) == (job_id, 2)
        assert await refused(one.finish(silent, "succeeded")) is ProblemCode.LEASE_LOST

    on_queue(body)


def test_an_expired_lease_that_nobody_reaped_can_be_renewed(on_queue: Any) -> None:
    async def body(one: Queue) -> None:
        await one.add()
        fence = await one.must_claim(lease_seconds=-1.0)
        async with one.database.write() as tx:
            await queue.renew(tx, fence, lease_seconds=20.0)
        assert await one.reap() == []

    on_queue(body)


def test_a_silent_attempt_whose_cancel_was_asked_for_is_cancelled(on_queue: Any) -> None:
    async def body(one: Queue) -> None:
        job_id = await one.add()
        await one.must_claim(lease_seconds=-1.0)
        await one.cancel(job_id)
        await one.reap()
        assert (await one.row(job_id))["state"] == "cancelled"

    on_queue(body)


def test_a_job_whose_time_is_over_gets_no_further_attempt(on_queue: Any) -> None:
    async def body(one: Queue) -> None:
        job_id = await one.add(timeout_seconds=10.0)
        fence = await one.must_claim()
        await one.finish(fence, "failed", LOST)
        async with one.database.write() as tx:
            await tx.execute(update(jobs).values(started_at=jobs.c.started_at - 11))
        assert await one.reap() == []
        row = await one.row(job_id)
        assert (row["state"], row["document"]["failure"]["code"]) == ("failed", "timeout")

    on_queue(body)


def test_which_queued_needs_a_worker_suits_is_remembered_by_what_it_is(on_queue: Any) -> None:
    async def body(one: Queue) -> None:
        cache = RequirementsCache()

        async def racks(machine: WorkerRow) -> list[str]:
            async with one.database.read() as tx:
                found = await cache.suitable(tx, machine, frozenset())
            return sorted(value for _, needs in found for _, value in needs.labels)

        a, b = worker(labels={"rack": "a"}), worker(labels={"rack": "b"})
        await one.add(rack="a")
        assert [await racks(machine) for machine in (a, b, worker())] == [["a"], [], []]
        await one.add(rack="b")
        assert [await racks(machine) for machine in (a, b, worker())] == [["a"], ["b"], []]
        assert await racks(worker(labels={"rack": "a"}, devices=[])) == []
        assert await one.claim(machine=a) is not None
        assert await racks(a) == []
        assert await racks(b) == ["b"]

    on_queue(body)


def test_many_claims_at_once_get_a_job_each(on_queue: Any) -> None:
    async def body(one: Queue) -> None:
        added = {await one.add() for _ in range(8)}
        fences = await asyncio.gather(*(one.claim() for _ in range(12)))
        claimed = [fence.job_id for fence in fences if fence is not None]
        assert sorted(claimed) == sorted(added)

    on_queue(body)


def test_a_failed_transaction_wakes_nobody_and_leaves_nothing(on_queue: Any) -> None:
    async def body(one: Queue) -> None:
        job_id = await one.add()

        async def half(tx: Transaction) -> None:
            await user_requests.cancel(tx, job_id, project_id="default")
            raise RuntimeError("half-way")

        with pytest.raises(RuntimeError):
            async with one.database.write() as tx:
                await half(tx)
        assert (await one.row(job_id))["state"] == "queued"
        assert await one.states(job_id) == ["queued"]

    on_queue(body)
