"""An attempt's uploads: begun with its lease, and read by those who may."""

from __future__ import annotations

from sqlalchemy import RowMapping, func, insert, select

from tapeworks.schemas.report_limits import LIMITS
from tapeworks.schemas.worker_protocol import LEASE_HEADER, UploadRequest
from tapeworks_service.auth.callers import Caller
from tapeworks_service.database.engine import Transaction
from tapeworks_service.database.tables import uploads
from tapeworks_service.ids import new_id
from tapeworks_service.problems import invalid_value, not_found
from tapeworks_service.queue.fence import Fence, lock_held, read_held
from tapeworks_service.queue.report_quota import exceeded
from tapeworks_service.storage.uploads import find


async def begin(
    tx: Transaction, fence: Fence, wanted: UploadRequest, *, part_bytes: int, most: int = LIMITS.uploads
) -> RowMapping:
    """The attempt's upload of this file: a new one, or the one begun before. Raises 404, 409; 403 above `most`."""
    job = await lock_held(tx, fence)
    same = (
        uploads.c.project_id == job["project_id"],
        uploads.c.job_id == job["id"],
        uploads.c.attempt == fence.attempt,
        uploads.c.path == wanted.path,
        uploads.c.sha256 == wanted.sha256,
        uploads.c.bytes == wanted.bytes,
    )
    known = await tx.one(select(uploads).where(*same))
    if known is not None:
        return known
    of_attempt = (uploads.c.project_id == job["project_id"], uploads.c.job_id == job["id"])
    there = await tx.one(select(func.count().label("count")).where(*of_attempt, uploads.c.attempt == fence.attempt))
    if there is not None and there["count"] >= most:
        raise exceeded("uploads", there["count"] + 1, most)
    upload_id = new_id("up")
    row = {
        "project_id": job["project_id"], "job_id": job["id"], "id": upload_id, "attempt": fence.attempt,
        "path": wanted.path, "bytes": wanted.bytes, "sha256": wanted.sha256, "part_bytes": part_bytes,
        # The id makes the key immutable: a file of the same name with other bytes gets one of its own.
        "key": f"{job['project_id']}/jobs/{job['id']}/attempts/{fence.attempt}/{upload_id}/{wanted.path}",
        "created_at": await tx.now(), "completed_at": None,
    }  # fmt: skip
    await tx.execute(insert(uploads).values(row))
    return await find(tx, upload_id)


async def of_caller(tx: Transaction, upload_id: str, caller: Caller, token: str | None) -> RowMapping:
    """An upload that a caller may go on with: its project's own, or that of an attempt whose lease it shows.

    Raises 403, 404, 409 `lease_lost`.
    """
    upload = await readable(tx, upload_id, caller)
    if upload["job_id"] is not None:
        if token is None:
            raise invalid_value(f"/{LEASE_HEADER}", f"an attempt's upload needs the header {LEASE_HEADER}")
        await read_held(tx, Fence(upload["job_id"], upload["attempt"], token))
    return upload


async def readable(tx: Transaction, upload_id: str, caller: Caller) -> RowMapping:
    """An upload that a caller may look at: a project's own is there for no other. Raises 404."""
    upload = await find(tx, upload_id)
    if upload["job_id"] is None:
        allowed = "submit" in caller.scopes and upload["project_id"] == caller.project_id
    else:
        allowed = "worker" in caller.scopes
    if not allowed:
        raise not_found("upload", upload_id)
    return upload
