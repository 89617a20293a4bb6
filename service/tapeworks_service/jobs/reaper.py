"""Ends attempts whose worker fell silent, and tidies up.

It begins one lease after the service started, and again one lease after the database came back:
workers could not renew meanwhile, and an outage must not reap every job.
"""

from __future__ import annotations

import asyncio
import time

import structlog
from sqlalchemy import delete, select

from tapeworks_service.artifacts.deletions import delete_noted
from tapeworks_service.context import Context
from tapeworks_service.database.engine import AWAY
from tapeworks_service.database.tables import lease_requests
from tapeworks_service.jobs import queue

log = structlog.get_logger(__name__)

_REQUEST_SECONDS = 3600.0
"""How long a lease request is remembered: far longer than anybody resends it."""


async def reap_forever(house: Context) -> None:
    """Run until cancelled."""
    settings = house.settings
    begins = time.monotonic() + settings.lease_seconds
    while True:
        await asyncio.sleep(settings.reaper_seconds)
        try:
            if time.monotonic() >= begins:
                await _round(house)
            await delete_noted(house.database, house.store)
        except AWAY as error:
            log.error("reaper_waits_for_the_database", error=str(error.__cause__ or error))
            begins = time.monotonic() + settings.lease_seconds


async def _round(house: Context) -> None:
    async with house.database.read() as tx:
        old = lease_requests.c.created_at < await tx.now() - _REQUEST_SECONDS
        forgotten = await tx.one(select(lease_requests.c.request_id).where(old).limit(1))
        idle = forgotten is None and not await queue.anything_to_reap(tx)
    if idle:
        return
    async with house.database.write() as tx:
        # What the lock was waited for is time in which nobody could renew.
        stalled = time.monotonic() < house.database.stalled_at + house.settings.lease_seconds
        reaped = [] if stalled else await queue.reap(tx, retry_seconds=house.settings.retry_seconds)
        await tx.execute(delete(lease_requests).where(old))
    for job_id in reaped:
        log.warning("lease_reaped", job_id=job_id)
        house.measures.reaped.inc()
