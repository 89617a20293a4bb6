"""Looking at jobs: one that did not change costs a few columns of its row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import RowMapping, select

from tapeworks.schemas.jobs import State
from tapeworks_service.api.jobs.record_streams import job_of
from tapeworks_service.context import Context
from tapeworks_service.database.engine import Transaction
from tapeworks_service.database.shared_reads import KeyedQuery
from tapeworks_service.database.tables import jobs
from tapeworks_service.jobs.response_cache import GLANCE, Key
from tapeworks_service.problems import not_found
from tapeworks_service.queue.unschedulable import reason_of

_GLANCE = KeyedQuery(jobs.c.id, GLANCE)


async def read_summary(context: Context, project_id: str, job_id: str) -> Mapping[str, Any]:
    """`GLANCE` of a project's job. Raises 404."""
    row = await context.database.read_row(_GLANCE, job_id)
    if row is None or row["project_id"] != project_id:
        raise not_found("job", job_id)
    return row


async def body_of(context: Context, project_id: str, row: Mapping[str, Any]) -> tuple[bytes, Key]:
    """The object of a job at which somebody glanced, and what it is the object of. Raises 404."""
    if row["state"] != State.QUEUED.value:
        key = (row["id"], row["revision"], None)
        if (body := context.bodies.get(key)) is not None:
            return body, key
    return await context.bodies.making.get(
        (project_id, row["id"], row["revision"]), _made(context, project_id, row["id"])
    )


async def _made(context: Context, project_id: str, job_id: str) -> tuple[bytes, Key]:
    async with context.database.read() as tx:
        whole = await job_of(tx, project_id, job_id)
        reason = reason_of(whole, await waiting(tx, context, [whole]))
    return context.bodies.made(whole, reason), (whole["id"], whole["revision"], reason)


async def bodies_of(tx: Transaction, context: Context, rows: Sequence[RowMapping]) -> list[bytes]:
    """The objects of many jobs at which somebody glanced in this reading transaction."""
    reasons = await waiting(tx, context, rows)
    known = {row["id"]: context.bodies.get((row["id"], row["revision"], reason_of(row, reasons))) for row in rows}
    missing = [job_id for job_id, body in known.items() if body is None]
    if missing:
        for whole in await tx.all(select(jobs).where(jobs.c.id.in_(missing))):
            known[whole["id"]] = context.bodies.made(whole, reason_of(whole, reasons))
    return [body for body in known.values() if body is not None]


async def waiting(tx: Transaction, context: Context, rows: Sequence[Mapping[Any, Any]]) -> dict[str, str]:
    """Why those of the jobs wait that no worker can take."""
    if not any(row["state"] == State.QUEUED.value for row in rows):
        return {}
    workers = await context.workers.read(tx, lost_after=context.settings.lease_seconds)
    return await context.waiting.reasons(tx, rows, [one for one in workers if not one.lost], context.catalogues)
