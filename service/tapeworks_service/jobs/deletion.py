"""Deletes a finished job with all that hangs on it."""

from __future__ import annotations

from sqlalchemy import RowMapping, delete, select

from tapeworks.errors import ProblemCode
from tapeworks.schemas.jobs import FINAL, State
from tapeworks_service.database.engine import Transaction
from tapeworks_service.database.tables import assets, jobs, upload_parts, uploads
from tapeworks_service.problems import Problem
from tapeworks_service.queue.inputs import users_of
from tapeworks_service.storage.deletions import schedule_delete


async def remove(tx: Transaction, row: RowMapping) -> None:
    """Delete the row of a job that is locked; its files are noted to follow. Raises 409 `conflict`, `in_use`."""
    if State(row["state"]) not in FINAL:
        hint = "Cancel it first, and wait until it has ended."
        raise Problem(ProblemCode.CONFLICT, f"the job is {row['state']}", hint=hint, extra={"state": row["state"]})
    if (looked_at := await tx.one(select(assets).where(assets.c.job_id == row["id"]))) is not None:
        hint = f"It is deleted with its upload: DELETE /v1/{looked_at['kind']}s/{looked_at['id']}."
        raise Problem(ProblemCode.IN_USE, f"it says what the {looked_at['kind']} {looked_at['name']!r} is", hint=hint)
    users = sorted({user["job_id"] for user in await users_of(tx, row)})
    if users:
        detail = f"{users[0]} starts from it" if len(users) == 1 else f"{len(users)} jobs start from it"
        hint = "Wait until they have ended, or cancel them."
        raise Problem(ProblemCode.IN_USE, detail, hint=hint, extra={"used_by": users[:100]})
    prefixes = [f"{row['project_id']}/jobs/{row['id']}"]
    unfinished = select(uploads.c.id).where(uploads.c.project_id == row["project_id"], uploads.c.job_id == row["id"])
    for upload in await tx.all(unfinished):
        prefixes.append(f"{row['project_id']}/uploads/{upload['id']}")
        await tx.execute(delete(upload_parts).where(upload_parts.c.upload_id == upload["id"]))
    await tx.execute(delete(jobs).where(jobs.c.id == row["id"], jobs.c.state == row["state"]))
    await schedule_delete(tx, prefixes)
