"""What an attempt's calls do: answer a lease, announce a checkpoint, end the attempt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import RowMapping, insert, select

from tapeworks.errors import ProblemCode
from tapeworks.schemas.report_limits import ReportLimits
from tapeworks.schemas.worker_protocol import CheckpointAnnouncement, Finish, LeaseRequest, ManifestFile
from tapeworks_service.catalogue.cache import CatalogueCache
from tapeworks_service.database.engine import Transaction
from tapeworks_service.database.queries import checkpoints_of
from tapeworks_service.database.tables import artifacts, checkpoints, installation, lease_requests
from tapeworks_service.database.tables import uploads as upload_rows
from tapeworks_service.ids import new_id
from tapeworks_service.jobs.serializers import checkpoint_document
from tapeworks_service.leases.record_ingestion import append, merged_facts
from tapeworks_service.problems import Problem, invalid_value
from tapeworks_service.queue import queue
from tapeworks_service.queue.fence import Fence, holds, lease_lost, lease_token, lock, lock_held, read_held
from tapeworks_service.queue.inputs import input_documents, resumed_from, users_of
from tapeworks_service.queue.record_log import NewEvent
from tapeworks_service.queue.report_quota import check_events
from tapeworks_service.queue.scheduling import RequirementsCache
from tapeworks_service.storage import uploads
from tapeworks_service.storage.deletions import schedule_delete
from tapeworks_service.workers.repository import WorkerRow

_RESUME_CHOICES = 5


async def lease_secret(tx: Transaction) -> bytes:
    """The installation's secret that lease tokens are made from; written when the service first started."""
    statement = select(installation.c.value).where(installation.c.name == "lease_secret")
    return bytes((await tx.execute(statement)).scalar_one())


# ── a lease ──────────────────────────────────────────────────────────────────────────────────────


async def satisfied_needs(
    tx: Transaction, worker: WorkerRow, wanted: LeaseRequest, catalogues: CatalogueCache, known: RequirementsCache
) -> dict[str, int]:
    """Fit key → GPUs taken, of the queued needs that the worker's free devices satisfy."""
    if worker.draining or not (wanted.free_gpus or wanted.free_cpus):
        return {}
    components = (await catalogues.known(tx, worker.catalogue_digest)).keys
    free: dict[str, Any] = {"free_gpus": wanted.free_gpus, "free_cpus": wanted.free_cpus}
    return {
        key: needs.gpus_on(worker)
        for key, needs in await known.suitable(tx, worker, components)
        if needs.fits_now(worker, **free)
    }


async def leased_before(tx: Transaction, wanted: LeaseRequest, *, secret: bytes) -> tuple[bool, dict[str, Any] | None]:
    """Whether this request was answered before, and its lease where it still holds."""
    request = await tx.one(
        select(lease_requests).where(
            lease_requests.c.worker_id == wanted.worker_id, lease_requests.c.request_id == wanted.request_id
        )
    )
    if request is None:
        return False, None
    job_id, attempt = request["job_id"], request["attempt"]
    token = lease_token(secret, job_id=job_id, attempt=attempt, request_id=wanted.request_id)
    try:
        row = await read_held(tx, Fence(job_id, attempt, token))
    except Problem:
        return True, None
    return True, await lease_document(tx, row, token)


async def take(
    tx: Transaction, wanted: LeaseRequest, satisfied: dict[str, int], *, secret: bytes, lease_seconds: float
) -> dict[str, Any] | None:
    """Claim a job for a worker; None where none waits."""
    who = queue.Claim(wanted.worker_id, wanted.request_id, secret, lease_seconds)
    claimed = await queue.claim(tx, who, satisfied)
    if claimed is None:
        return None
    row, token = claimed
    await tx.execute(
        insert(lease_requests).values(
            worker_id=wanted.worker_id, request_id=wanted.request_id, job_id=row["id"], attempt=row["attempt"],
            created_at=await tx.now(),
        )
    )  # fmt: skip
    return await lease_document(tx, row, token)


async def lease_document(tx: Transaction, row: RowMapping, token: str) -> dict[str, Any]:
    """The JSON of `tapeworks.schemas.worker_protocol.Lease`."""
    now = await tx.now()
    found = await tx.all(checkpoints_of(row["project_id"], row["id"]).limit(_RESUME_CHOICES))
    if (earlier := await resumed_from(tx, row)) is not None:
        found.append(earlier)
    resume = [
        {"checkpoint_id": one["id"], **{key: one[key] for key in ("step", "epoch", "bytes", "sha256")}} for one in found
    ]
    limit = row["timeout_seconds"]
    return {
        "job_id": row["id"],
        "project_id": row["project_id"],
        "kind": row["kind"],
        "attempt": row["attempt"],
        "token": token,
        "lease_seconds": max(row["lease_expires_at"] - now, 0.0),
        "spec": row["spec"] or None,
        "components": row["components"],
        "resume": resume,
        "inputs": await input_documents(tx, row),
        "fetched": (row["document"].get("lineage") or {}).get("fetched", []),
        "timeout_seconds": None if limit is None else max(row["started_at"] + limit - now, 0.1),
        "gpus": row["gpus"],
    }


# ── checkpoints ──────────────────────────────────────────────────────────────────────────────────


async def announce(tx: Transaction, fence: Fence, announcement: CheckpointAnnouncement, limits: ReportLimits) -> str:
    """Make an uploaded file a checkpoint of the job; the same upload again gives the same. Raises 403, 409, 422."""
    job = await lock_held(tx, fence)
    of_job = checkpoints_of(job["project_id"], job["id"])
    known = await tx.one(of_job.where(checkpoints.c.upload_id == announcement.upload_id))
    if known is not None:
        return str(known["id"])
    check_events(job, limits, count=1)
    found = select(upload_rows).where(
        upload_rows.c.project_id == job["project_id"],
        upload_rows.c.id == announcement.upload_id,
        upload_rows.c.job_id == job["id"],
        upload_rows.c.attempt == job["attempt"],
        upload_rows.c.completed_at.is_not(None),
    )
    upload = await tx.one(found)
    if upload is None:
        raise invalid_value("/upload_id", f"{announcement.upload_id} is not a completed upload of this attempt")
    row = {
        "project_id": job["project_id"], "job_id": job["id"], "id": new_id("ckpt"), "attempt": job["attempt"],
        "step": announcement.step, "epoch": announcement.epoch, "bytes": upload["bytes"], "sha256": upload["sha256"],
        "key": upload["key"], "metrics": announcement.model_dump(mode="json")["metrics"], "best": announcement.best,
        "upload_id": upload["id"], "created_at": await tx.now(),
    }  # fmt: skip
    await tx.execute(insert(checkpoints).values(row))
    kept = await prune(tx, job)
    event = NewEvent("checkpoint", {"id": row["id"], "step": announcement.step, "epoch": announcement.epoch})
    await append(tx, job, [event], {"checkpoints": kept})
    return str(row["id"])


async def prune(tx: Transaction, job: RowMapping) -> dict[str, Any]:
    """Keep the newest checkpoints, the best one, and those that other jobs go on from.

    Returns the job object's `checkpoints`.
    """
    rows = await tx.all(checkpoints_of(job["project_id"], job["id"]))
    keep = (job["spec"]["training"]["checkpoint"] or {"keep": 2})["keep"]
    best = next((row for row in rows if row["best"]), None)
    needed = {user["checkpoint_id"] for user in await users_of(tx, job)} | {best["id"] if best else None}
    for row in rows[keep:]:
        if row["id"] not in needed:
            gone = checkpoints.delete().where(checkpoints.c.project_id == job["project_id"])
            await tx.execute(gone.where(checkpoints.c.id == row["id"]))
            await tx.execute(upload_rows.delete().where(upload_rows.c.id == row["upload_id"]))
            await schedule_delete(tx, [row["key"]])
    return {
        "latest": checkpoint_document(rows[0]),
        "best": None if best is None else checkpoint_document(best),
    }


# ── the end ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class FinishResult:
    """What a finish request came to."""

    state: str
    repeated: bool


async def finish(
    tx: Transaction, fence: Fence, message: Finish, *, body_hash: str, retry_seconds: float
) -> FinishResult:
    """Publish, fail or hand back. The same request again is answered alike. Raises 404, 409, 422."""
    row = await lock(tx, fence.job_id)
    if not holds(row, fence):
        ended = (row["ended_attempt"], row["ended_token_hash"], row["ended_body_hash"])
        if ended == (fence.attempt, fence.token_hash, body_hash):
            return FinishResult(row["state"], repeated=True)
        raise lease_lost()
    if row["record_index"] < message.last_record:
        raise Problem(
            ProblemCode.CONFLICT,
            f"records are stored up to {row['record_index']}, not {message.last_record}",
            hint="Send the records that are missing, then finish again.",
            extra={"stored": row["record_index"]},
        )
    document: dict[str, Any] = merged_facts(row["document"], message.facts)
    known = row["document"].get("metrics", {})
    document["metrics"] = {**known, **message.model_dump(mode="json")["metrics"]}
    document.update(await _publish(tx, row, message))
    ending = queue.AttemptOutcome(message.outcome, message.failure, document, body_hash)
    state = await queue.finish(tx, row, ending, retry_seconds=retry_seconds)
    return FinishResult(state.value, repeated=False)


async def _publish(tx: Transaction, row: RowMapping, message: Finish) -> dict[str, Any]:
    """Insert the files that the attempt leaves. Returns the changed fields of the job object."""
    changed: dict[str, Any] = {}
    for index, file in enumerate(message.files):
        await _insert_artifact(tx, row, file, "file", pointer=f"/files/{index}")
    if message.outcome != "succeeded" or message.published is None:
        return changed
    published = message.published
    if published.bundle is not None:
        await _insert_artifact(tx, row, published.bundle, "bundle", pointer="/published/bundle")
        changed["model"] = {
            "bytes": published.bundle.bytes,
            "sha256": published.bundle.sha256,
            "formats": published.formats,
            "verified": published.verified,
        }
    for part, file in published.parts.items():
        await _insert_artifact(tx, row, file, part, pointer=f"/published/parts/{part}")
    if published.result is not None:
        changed["result"] = published.result
    return changed


async def _insert_artifact(tx: Transaction, row: RowMapping, file: ManifestFile, role: str, *, pointer: str) -> None:
    upload = await uploads.completed_file(tx, row, file, pointer=pointer)
    own = (artifacts.c.project_id == row["project_id"], artifacts.c.job_id == row["id"])
    # An earlier attempt may have left a file of that name: the newest one is what the job leaves.
    await tx.execute(artifacts.delete().where(*own, artifacts.c.path == file.path))
    await tx.execute(
        insert(artifacts).values(
            project_id=row["project_id"], job_id=row["id"], path=file.path, attempt=row["attempt"], role=role[:64],
            bytes=upload["bytes"], sha256=upload["sha256"], key=upload["key"], created_at=await tx.now(),
        )
    )  # fmt: skip
