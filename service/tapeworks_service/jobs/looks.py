"""Looking at jobs: a job that did not change costs three columns of its row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import RowMapping, bindparam, select

from tapeworks.jobs import State
from tapeworks_service.context import Context
from tapeworks_service.database.tables import jobs
from tapeworks_service.jobs.bodies import Key
from tapeworks_service.jobs.listing import reasons_waiting
from tapeworks_service.jobs.streams import job_of
from tapeworks_service.problems import not_found

GLANCE = (jobs.c.id, jobs.c.revision, jobs.c.state, jobs.c.fit_key)
"""What says whether a job's object is known."""
_ONE = select(*GLANCE).where(jobs.c.project_id == bindparam("project"), jobs.c.id == bindparam("job"))


async def glance(house: Context, project_id: str, job_id: str) -> Mapping[str, Any]:
    """`GLANCE` of a project's job. Raises 404."""
    row = await house.database.look(_ONE, {"project": project_id, "job": job_id})
    if row is None:
        raise not_found("job", job_id)
    return row


async def body_of(house: Context, project_id: str, row: Mapping[str, Any]) -> tuple[bytes, Key]:
    """The object of a job at which somebody glanced, and what it is the object of. Raises 404."""
    if row["state"] != State.QUEUED.value:
        key = (row["id"], row["revision"], None)
        if (body := house.bodies.get(key)) is not None:
            return body, key
    async with house.database.read() as tx:
        whole = await job_of(tx, project_id, row["id"])
        reasons = await reasons_waiting(tx, [whole], house.catalogues, lost_after=house.settings.lease_seconds)
    reason = reason_of(whole, reasons)
    return house.bodies.made(whole, reason), (whole["id"], whole["revision"], reason)


def reason_of(row: RowMapping, reasons: dict[str, str]) -> str | None:
    """Why a job waits; only queued ones do."""
    return reasons.get(row["fit_key"]) if row["state"] == State.QUEUED.value else None
