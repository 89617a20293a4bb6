"""Collects what nothing refers to: files without a row, and rows that nobody asks for any more.

A crash between a file and its row leaves a file; nothing else does, so a sweep rarely finds any. It takes only what
has been there for an hour: what is being written has its row first. Several instances may sweep at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import structlog
from sqlalchemy import and_, delete, exists, select
from sqlalchemy.exc import IntegrityError

from tapeworks.schemas.jobs import FINAL, JobKind
from tapeworks_service.assets.repository import drop_file
from tapeworks_service.context import Context
from tapeworks_service.database.engine import AWAY, Database, Transaction
from tapeworks_service.database.tables import artifacts, assets, checkpoints, fits, job_inputs, jobs, uploads, workers
from tapeworks_service.jobs.deletion import remove
from tapeworks_service.leases.attempts import prune
from tapeworks_service.problems import Problem
from tapeworks_service.queue.fence import lock
from tapeworks_service.storage.store import PROBE, Store
from tapeworks_service.workers.repository import IS_HELD

OLD_SECONDS = 3600.0
LOST_SECONDS = 86_400.0
"""A worker that was not heard of for so long is forgotten, and an upload that became nothing."""
AT_ONCE = 100
_FINAL = [state.value for state in FINAL]

log = structlog.get_logger(__name__)


async def sweep_forever(context: Context) -> None:
    """Run until cancelled."""
    while True:
        await asyncio.sleep(context.settings.sweep_seconds)
        try:
            await sweep_rows(context.database, keep_validations=context.settings.keep_validations_seconds)
            swept = await sweep_files(context.database, context.store)
            log.info("swept", files=swept)
        except (*AWAY, Problem) as error:
            log.error("sweep_put_off", error=str(error))


async def sweep_files(database: Database, store: Store, *, older: float = OLD_SECONDS) -> int:
    """Delete files that no row refers to; how many. Raises 503 where the store does not answer."""
    swept = 0
    async for batch in store.objects():
        before = time.time() - older
        keys = [key for key, changed in batch if changed < before and key != PROBE]
        if not keys:
            continue
        async with database.read() as tx:
            known = await _referred_to(tx, keys)
        for key in keys:
            if key not in known:
                log.warning("file_without_a_row", key=key)
                await store.delete(key)
                swept += 1
    return swept


async def _referred_to(tx: Transaction, keys: Sequence[str]) -> set[str]:
    """Those that a row names, and parts of uploads that are there."""
    known: set[str] = set()
    for table in (artifacts, assets, checkpoints, uploads, job_inputs):
        known.update(row["key"] for row in await tx.all(select(table.c.key).where(table.c.key.in_(keys))))
    parts = {key: key.split("/")[2] for key in keys if key.split("/")[1:2] == ["uploads"] and key.count("/") == 3}
    there = select(uploads.c.id).where(uploads.c.id.in_(set(parts.values())))
    open_uploads = {row["id"] for row in await tx.all(there)}
    return known | {key for key, upload in parts.items() if upload in open_uploads}


async def sweep_rows(database: Database, *, keep_validations: float) -> None:
    """Delete rows that have served their purpose."""
    async with database.write() as tx:
        now = await tx.now()
        mine = and_(assets.c.project_id == uploads.c.project_id, assets.c.key == uploads.c.key)
        unused = (uploads.c.job_id.is_(None), uploads.c.created_at < now - LOST_SECONDS, ~exists().where(mine))
        for row in await tx.all(select(uploads).where(*unused).limit(AT_ONCE).with_for_update(skip_locked=True)):
            await drop_file(tx, row)
        works = exists().where(jobs.c.worker_id == workers.c.id, IS_HELD)
        await tx.execute(delete(workers).where(workers.c.heartbeat_at < now - LOST_SECONDS, ~works))
        over = (jobs.c.kind == JobKind.VALIDATE.value, jobs.c.state.in_(_FINAL))
        old = select(jobs).where(*over, jobs.c.finished_at < now - keep_validations).limit(AT_ONCE)
        for row in await tx.all(old.with_for_update(skip_locked=True)):
            await remove(tx, row)
    try:
        async with database.write() as tx:
            await tx.execute(delete(fits).where(~exists().where(jobs.c.fit_key == fits.c.fit_key)))
    except IntegrityError:
        log.debug("needs_are_needed_again")  # a job came meanwhile
    await _prune_sources(database)


async def _prune_sources(database: Database) -> None:
    """Checkpoints that were kept beyond `keep` for jobs that have ended since."""
    ended = (jobs.c.project_id == job_inputs.c.project_id, jobs.c.id == job_inputs.c.job_id, jobs.c.state.in_(_FINAL))
    pinned = (checkpoints.c.project_id == job_inputs.c.project_id, checkpoints.c.id == job_inputs.c.checkpoint_id)
    sources = select(checkpoints.c.job_id).distinct().where(*pinned, exists().where(*ended)).limit(AT_ONCE)
    async with database.read() as tx:
        found = [row["job_id"] for row in await tx.all(sources)]
    for job_id in found:
        async with database.write() as tx:
            await prune(tx, await lock(tx, job_id))
