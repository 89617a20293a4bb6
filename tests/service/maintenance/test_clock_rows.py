"""What a step of the clock does to rows, seen on a real database past HTTP."""

from __future__ import annotations

from typing import Any

from sqlalchemy import update

from tapeworks_service.database.clock_steps import ClockStep, ClockWatch, move_rows
from tapeworks_service.database.tables import jobs
from tapeworks_service.queue.lease_watch import HeldLease, LeaseWatch
from tests.support.queues import Queue


async def moved(one: Queue, step: ClockStep) -> None:
    async with one.database.write() as tx:
        await move_rows(tx, step, longest_pause=60.0, lease_seconds=20.0)


def test_services_that_see_the_same_step_move_the_rows_once(on_queue: Any) -> None:
    async def body(one: Queue) -> None:
        job_id = await one.add()
        await one.must_claim()
        later = await one.add()
        async with one.database.write() as tx:
            began = await tx.now() - 100.0
            await tx.execute(update(jobs).where(jobs.c.id == job_id).values(started_at=began))
        for _ in range(2):
            await moved(one, ClockStep(3600.0, within=5.0))
        assert (await one.row(job_id))["started_at"] == began + 3600.0
        assert (await one.row(later))["started_at"] is None
        await moved(one, ClockStep(-60.0, within=5.0))
        assert (await one.row(job_id))["started_at"] == began + 3540.0, "another step"

    on_queue(body)


def test_what_was_dated_after_the_step_stays(on_queue: Any) -> None:
    async def body(one: Queue) -> None:
        await one.add()
        fence = await one.must_claim()
        before = await one.row(fence.job_id)
        await moved(one, ClockStep(3600.0, within=5.0))
        after = await one.row(fence.job_id)
        assert (after["started_at"], after["lease_expires_at"]) == (before["started_at"], before["lease_expires_at"])

    on_queue(body)


def test_a_clock_that_drifts_has_no_step_and_one_that_jumps_has_one_until_it_is_accounted_for(on_queue: Any) -> None:
    async def body(one: Queue) -> None:
        monotonic = 1000.0
        watch = ClockWatch(lambda: monotonic)
        for _ in range(5):
            async with one.database.read() as tx:
                assert await watch.step(tx) is None
            monotonic += 0.5  # the wall clock falls behind by half a second each time
        monotonic -= 100.0
        for _ in range(2):
            async with one.database.read() as tx:
                step = await watch.step(tx)
            assert step is not None
            assert 95 < step.seconds < 105
        watch.accounted(step)
        async with one.database.read() as tx:
            assert await watch.step(tx) is None

    on_queue(body)


def test_a_lease_is_silent_once_it_stood_still_for_its_whole_time() -> None:
    now = 0.0
    watch = LeaseWatch(20.0, lambda: now)
    first, renewed = HeldLease("job", 1, 5.0), HeldLease("job", 1, 6.0)
    assert watch.silent([first]) == {}
    now = 19.0
    assert watch.silent([renewed]) == {}, "another value: it was renewed"
    now = 38.0
    assert watch.silent([renewed]) == {}
    now = 39.0
    assert watch.silent([renewed]) == {renewed: 20.0}
    watch.forget()
    assert watch.silent([renewed]) == {}, "it has its whole time again"
