"""Looking at jobs: one that did not change costs a few columns of its row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import RowMapping, select

from tapeworks.jobs import State
from tapeworks_service.context import Context
from tapeworks_service.database.engine import Transaction
from tapeworks_service.database.looks import Look
from tapeworks_service.database.tables import jobs
from tapeworks_service.jobs.bodies import GLANCE, Key
from tapeworks_service.jobs.streams import job_of
from tapeworks_service.jobs.waiting import reason_of
from tapeworks_service.problems import not_found

_GLANCE = Look(jobs.c.id, GLANCE)


async def glance(house: Context, project_id: str, job_id: str) -> Mapping[str, Any]:
    """`GLANCE` of a project's job. Raises 404."""
    row = await house.database.look(_GLANCE, job_id)
    if row is None or row["project_id"] != project_id:
        raise not_found("job", job_id)
    return row


async def body_of(house: Context, project_id: str, row: Mapping[str, Any]) -> tuple[bytes, Key]:
    """The object of a job at which somebody glanced, and what it is the object of. Raises 404."""
    if row["state"] != State.QUEUED.value:
        key = (row["id"], row["revision"], None)
        if (body := house.bodies.get(key)) is not None:
            return body, key
    return await house.bodies.making.get((project_id, row["id"], row["revision"]), _made(house, project_id, row["id"]))


async def _made(house: Context, project_id: str, job_id: str) -> tuple[bytes, Key]:
    async with house.database.read() as tx:
        whole = await job_of(tx, project_id, job_id)
        reason = reason_of(whole, await waiting(tx, house, [whole]))
    return house.bodies.made(whole, reason), (whole["id"], whole["revision"], reason)


async def bodies_of(tx: Transaction, house: Context, rows: Sequence[RowMapping]) -> list[bytes]:
    """The objects of many jobs at which somebody glanced in this reading transaction."""
    reasons = await waiting(tx, house, rows)
    known = {row["id"]: house.bodies.get((row["id"], row["revision"], reason_of(row, reasons))) for row in rows}
    missing = [job_id for job_id, body in known.items() if body is None]
    if missing:
        for whole in await tx.all(select(jobs).where(jobs.c.id.in_(missing))):
            known[whole["id"]] = house.bodies.made(whole, reason_of(whole, reasons))
    return [body for body in known.values() if body is not None]


async def waiting(tx: Transaction, house: Context, rows: Sequence[Mapping[Any, Any]]) -> dict[str, str]:
    """Why those of the jobs wait that no worker can take."""
    if not any(row["state"] == State.QUEUED.value for row in rows):
        return {}
    workers = await house.workers.read(tx, lost_after=house.settings.lease_seconds)
    return await house.waiting.reasons(tx, rows, [one for one in workers if not one.lost], house.catalogues)
