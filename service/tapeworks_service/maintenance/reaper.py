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

from tapeworks_service.context import Context
from tapeworks_service.database.clock_steps import ClockStep, end_impossible_pauses, move_rows
from tapeworks_service.database.engine import AWAY, Transaction
from tapeworks_service.database.tables import lease_requests
from tapeworks_service.queue import queue
from tapeworks_service.queue.lease_watch import HeldLease, LeaseWatch
from tapeworks_service.storage.deletions import delete_noted

log = structlog.get_logger(__name__)

_REQUEST_SECONDS = 86_400.0
"""How long a lease request is remembered: far longer than anybody resends it, and than a clock is set back or ahead."""


async def reap_forever(context: Context) -> None:
    """Run until cancelled."""
    watch = LeaseWatch(context.settings.lease_seconds)
    started = False
    while True:
        await asyncio.sleep(context.settings.reaper_seconds)
        try:
            if not started:
                async with context.database.write() as tx:
                    await end_impossible_pauses(tx, longest_pause=queue.LONGEST_PAUSE_SECONDS)
                started = True
            await _round(context, watch)
            await delete_noted(context.database, context.store)
        except AWAY as error:
            log.error("reaper_waits_for_the_database", error=str(error.__cause__ or error))
            watch.forget()


async def _round(context: Context, watch: LeaseWatch) -> None:
    async with context.database.read() as tx:
        step = await context.clock.step(tx)
        old = lease_requests.c.created_at < await tx.now() - _REQUEST_SECONDS
        forgotten = await tx.one(select(lease_requests.c.request_id).where(old).limit(1)) is not None
        overdue = step is None and await queue.any_overdue(tx)
        held = await queue.held_leases(tx)
    if step is not None:
        await _account_for(context, step)
        return
    if _outage(context):
        watch.forget()
    silent = watch.silent(held)
    if not (forgotten or overdue or silent):
        return
    async with context.database.write() as tx:
        reaped = await _reaped(tx, context, silent)
        await tx.execute(delete(lease_requests).where(old))
    for job_id in reaped:
        log.warning("lease_reaped", job_id=job_id)
        context.measures.reaped.inc()


async def _reaped(tx: Transaction, context: Context, silent: dict[HeldLease, float]) -> list[str]:
    if await context.clock.step(tx) is not None or _outage(context):  # while the lock was waited for
        return []
    return await queue.reap(tx, silent, retry_seconds=context.settings.retry_seconds)


def _outage(context: Context) -> bool:
    """Whether workers could not renew at some time of the last lease: the database stalled, or the event loop."""
    return context.loop.stalled or time.monotonic() < context.database.stalled_at + context.settings.lease_seconds


async def _account_for(context: Context, step: ClockStep) -> None:
    async with context.database.write() as tx:
        await move_rows(
            tx, step, longest_pause=queue.LONGEST_PAUSE_SECONDS, lease_seconds=context.settings.lease_seconds
        )
    context.clock.accounted(step)
    context.workers.forget()
    context.measures.steps.inc()
