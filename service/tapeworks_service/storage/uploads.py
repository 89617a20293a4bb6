"""Uploads by parts: each part with its SHA-256, in any order, resumed at a part boundary.

Parts are written to their places in one object under `PROJECT/uploads/{id}/`; completing reads the whole again and
moves it to an immutable key, below the attempt's folder or among the project's files.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

from sqlalchemy import RowMapping, delete, select, update

from tapeworks.errors import Finding, ProblemCode
from tapeworks.schemas.worker_protocol import ManifestFile, Upload, UploadRequest
from tapeworks_service.database.engine import Database, Transaction
from tapeworks_service.database.tables import artifacts, checkpoints, upload_parts, uploads
from tapeworks_service.ids import new_id
from tapeworks_service.problems import Problem, invalid_value, not_found
from tapeworks_service.storage.deletions import schedule_delete
from tapeworks_service.storage.store import Digest, Store


def whole_key(upload: RowMapping) -> str:
    """Where its bytes lie until the upload is complete."""
    return f"{upload['project_id']}/uploads/{upload['id']}/whole"


def part_count(upload: RowMapping) -> int:
    """How many parts the file has; an empty file has one empty part."""
    return max(1, -(-int(upload["bytes"]) // int(upload["part_bytes"])))


def part_size(upload: RowMapping, number: int) -> int:
    """How many bytes part `number` (from 1) must have."""
    if number < part_count(upload):
        return int(upload["part_bytes"])
    return int(upload["bytes"] - (number - 1) * upload["part_bytes"])


async def begin_own(tx: Transaction, project_id: str, wanted: UploadRequest, *, part_bytes: int) -> RowMapping:
    """The project's upload of these bytes: a new one, or the one that is there already, whoever began it."""
    same = (
        uploads.c.project_id == project_id,
        uploads.c.job_id.is_(None),
        uploads.c.sha256 == wanted.sha256,
        uploads.c.bytes == wanted.bytes,
    )
    if (known := await tx.one(select(uploads).where(*same))) is not None:
        return known
    upload_id = new_id("up")
    row = {
        "project_id": project_id, "id": upload_id, "bytes": wanted.bytes, "sha256": wanted.sha256,
        # Not the digest: bytes that are deleted and sent again must not meet their own deletion.
        "part_bytes": part_bytes, "key": f"{project_id}/files/{upload_id}",
        "created_at": await tx.now(), "completed_at": None,
    }  # fmt: skip
    await tx.execute(tx.insert(uploads).values(row).on_conflict_do_nothing())
    begun = await tx.one(select(uploads).where(*same))
    if begun is None:  # another instance inserted it, and this transaction began before
        raise Problem(ProblemCode.UNAVAILABLE, "the same file is being uploaded by another request")
    return begun


async def find(tx: Transaction, upload_id: str) -> RowMapping:
    """An upload's row. Raises 404."""
    row = await tx.one(select(uploads).where(uploads.c.id == upload_id))
    if row is None:
        raise not_found("upload", upload_id)
    return row


async def status(tx: Transaction, upload: RowMapping) -> Upload:
    """What is there and what is missing."""
    stored = {row["number"] for row in await _parts(tx, upload["id"])}
    count, completed = part_count(upload), upload["completed_at"] is not None
    return Upload(
        id=upload["id"],
        bytes=upload["bytes"],
        sha256=upload["sha256"],
        part_bytes=upload["part_bytes"],
        parts=count,
        missing=[] if completed else [number for number in range(1, count + 1) if number not in stored],
        completed=completed,
    )


async def checked_status(database: Database, store: Store, upload: RowMapping, status: Upload) -> Upload:
    """The status of an upload as the store has it. Where its bytes are gone, all parts are missing again.

    A database that was restored may be newer, or older, than the files beside it. Raises 503.
    """
    if len(status.missing) == status.parts or await store.first(whole_key(upload), upload["key"]) is not None:
        return status
    return await start_over(database, upload)


async def start_over(database: Database, upload: RowMapping) -> Upload:
    """Forget the parts of an upload whose bytes are gone: they are sent again, to the same place."""
    async with database.write() as tx:
        await tx.execute(delete(upload_parts).where(upload_parts.c.upload_id == upload["id"]))
        await tx.execute(update(uploads).where(uploads.c.id == upload["id"]).values(completed_at=None))
        return await status(tx, await find(tx, upload["id"]))


async def _parts(tx: Transaction, upload_id: str) -> list[RowMapping]:
    statement = select(upload_parts).where(upload_parts.c.upload_id == upload_id).order_by(upload_parts.c.number)
    return await tx.all(statement)


async def store_part(
    database: Database, store: Store, upload: RowMapping, number: int, *, data: bytes, sha256: str
) -> None:
    """Check one part and keep it; the same part again replaces itself. Raises 422, 503, 507."""
    if not 1 <= number <= part_count(upload):
        raise invalid_value("/number", f"part {number} of {part_count(upload)}")
    if len(data) != part_size(upload, number):
        raise invalid_value("", f"part {number} has {len(data)} bytes, not {part_size(upload, number)}")
    actual = await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())
    if actual != sha256:
        raise Problem(ProblemCode.DIGEST_MISMATCH, f"part {number} has the sha-256 {actual}, not {sha256}")
    if upload["completed_at"] is not None:
        return
    await store.write_at(whole_key(upload), (number - 1) * upload["part_bytes"], data)
    async with database.write() as tx:
        values: dict[str, Any] = {"bytes": len(data), "sha256": actual}
        row = tx.insert(upload_parts).values(upload_id=upload["id"], number=number, **values)
        await tx.execute(row.on_conflict_do_update(index_elements=["upload_id", "number"], set_=values))


async def complete(database: Database, store: Store, upload: RowMapping) -> Upload:
    """Put the parts together and read the whole again; idempotent. Raises 409, 422, 503, 507."""
    async with database.read() as tx:
        state = await status(tx, upload)
    if state.completed:
        return state
    if state.missing:
        listed = ", ".join(str(number) for number in state.missing[:20])
        raise Problem(ProblemCode.CONFLICT, f"parts are missing: {listed}", extra={"missing": state.missing[:1000]})
    # Another request, or one that a crash ended before its row said so, may have moved it already.
    place = await store.first(whole_key(upload), upload["key"])
    digest = await store.digest(place) if place is not None else Digest(0, "")
    if (digest.bytes, digest.sha256) != (upload["bytes"], upload["sha256"]):
        async with database.write() as tx:
            await tx.execute(delete(upload_parts).where(upload_parts.c.upload_id == upload["id"]))
        detail = f"the complete file has {digest.bytes} bytes and the sha-256 {digest.sha256}, not {upload['sha256']}"
        raise Problem(ProblemCode.DIGEST_MISMATCH, detail, hint="Send all parts again.")
    if place == whole_key(upload):
        await store.move(place, upload["key"])
    async with database.write() as tx:
        await tx.execute(update(uploads).where(uploads.c.id == upload["id"]).values(completed_at=await tx.now()))
        await tx.execute(delete(upload_parts).where(upload_parts.c.upload_id == upload["id"]))
    return state.model_copy(update={"completed": True, "missing": []})


async def drop_unreferenced(tx: Transaction, job: RowMapping) -> None:
    """When an attempt has ended: uploads that became neither a checkpoint nor an artifact, with their files."""
    own = (uploads.c.project_id == job["project_id"], uploads.c.job_id == job["id"])
    kept = [
        select(table.c.key).where(table.c.project_id == job["project_id"], table.c.job_id == job["id"])
        for table in (artifacts, checkpoints)
    ]
    for upload in await tx.all(select(uploads).where(*own, *(uploads.c.key.not_in(keys) for keys in kept))):
        await tx.execute(delete(upload_parts).where(upload_parts.c.upload_id == upload["id"]))
        await tx.execute(delete(uploads).where(uploads.c.project_id == job["project_id"], uploads.c.id == upload["id"]))
        await schedule_delete(tx, [f"{upload['project_id']}/uploads/{upload['id']}", upload["key"]])


async def completed_file(tx: Transaction, job: RowMapping, file: ManifestFile, *, pointer: str) -> RowMapping:
    """The completed upload that a manifest names. Raises 422 where it is not that file of this attempt."""
    row = await tx.one(select(uploads).where(uploads.c.project_id == job["project_id"], uploads.c.id == file.upload_id))
    wrong = None
    if row is None or (row["job_id"], row["attempt"]) != (job["id"], job["attempt"]):
        wrong = "is not an upload of this attempt"
    elif row["completed_at"] is None:
        wrong = "is not complete"
    elif (row["path"], row["bytes"], row["sha256"]) != (file.path, file.bytes, file.sha256):
        wrong = "is another file"
    if row is None or wrong is not None:
        message = f"{file.path}: the upload {file.upload_id} {wrong}"
        finding = Finding(pointer, ProblemCode.INVALID_VALUE, message, "Upload and complete it, then finish again.")
        raise Problem(ProblemCode.INVALID_REQUEST, message, errors=[finding])
    return row
