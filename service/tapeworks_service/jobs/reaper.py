"""Ends attempts whose worker fell silent, and tidies up.

An attempt is silent when its lease was not renewed for a lease's time while this service watched it, by the monotonic
clock. After a start, after the database came back and after the event loop stood still, every lease has its whole time
again: workers could not renew meanwhile, and an outage must not reap every job.
"""

from __future__ import annotations

import asyncio
import time

import structlog
from sqlalchemy import delete, select

from tapeworks_service.artifacts.deletions import delete_noted
from tapeworks_service.context import Context
from tapeworks_service.database.engine import AWAY, Transaction
from tapeworks_service.database.tables import lease_requests
from tapeworks_service.jobs import queue
from tapeworks_service.jobs.clock_steps import ClockStep, end_impossible_pauses, move_rows
from tapeworks_service.jobs.lease_watch import HeldLease, LeaseWatch

log = structlog.get_logger(__name__)

_REQUEST_SECONDS = 86_400.0
"""How long a lease request is remembered: far longer than anybody resends it, and than a clock is set back or ahead."""


async def reap_forever(house: Context) -> None:
    """Run until cancelled."""
    watch = LeaseWatch(house.settings.lease_seconds)
    started = False
    while True:
        await asyncio.sleep(house.settings.reaper_seconds)
        try:
            if not started:
                async with house.database.write() as tx:
                    await end_impossible_pauses(tx, longest_pause=queue.LONGEST_PAUSE_SECONDS)
                started = True
            await _round(house, watch)
            await delete_noted(house.database, house.store)
        except AWAY as error:
            log.error("reaper_waits_for_the_database", error=str(error.__cause__ or error))
            watch.forget()


async def _round(house: Context, watch: LeaseWatch) -> None:
    async with house.database.read() as tx:
        step = await house.clock.step(tx)
        old = lease_requests.c.created_at < await tx.now() - _REQUEST_SECONDS
        forgotten = await tx.one(select(lease_requests.c.request_id).where(old).limit(1)) is not None
        overdue = step is None and await queue.any_overdue(tx)
        held = await queue.held_leases(tx)
    if step is not None:
        await _account_for(house, step)
        return
    if _outage(house):
        watch.forget()
    silent = watch.silent(held)
    if not (forgotten or overdue or silent):
        return
    async with house.database.write() as tx:
        reaped = await _reaped(tx, house, silent)
        await tx.execute(delete(lease_requests).where(old))
    for job_id in reaped:
        log.warning("lease_reaped", job_id=job_id)
        house.measures.reaped.inc()


async def _reaped(tx: Transaction, house: Context, silent: dict[HeldLease, float]) -> list[str]:
    if await house.clock.step(tx) is not None or _outage(house):  # while the lock was waited for
        return []
    return await queue.reap(tx, silent, retry_seconds=house.settings.retry_seconds)


def _outage(house: Context) -> bool:
    """Whether workers could not renew at some time of the last lease: the database stalled, or the event loop."""
    return house.loop.stalled or time.monotonic() < house.database.stalled_at + house.settings.lease_seconds


async def _account_for(house: Context, step: ClockStep) -> None:
    async with house.database.write() as tx:
        await move_rows(tx, step, longest_pause=queue.LONGEST_PAUSE_SECONDS, lease_seconds=house.settings.lease_seconds)
    house.clock.accounted(step)
    house.workers.forget()
    house.measures.steps.inc()
