"""A worker's side of the queue, as `tapeworks.schemas.worker_protocol` says it."""

from __future__ import annotations

import hashlib
import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Request
from fastapi.responses import Response
from sqlalchemy import RowMapping

from tapeworks.schemas.jobs import Requested
from tapeworks.schemas.worker_protocol import (
    LEASE_HEADER,
    CheckpointAnnounced,
    CheckpointAnnouncement,
    Command,
    Finish,
    Heartbeat,
    HeartbeatAnswer,
    Lease,
    LeaseRequest,
    Records,
    RecordsAnswer,
)
from tapeworks_service.api.dependencies import Worker
from tapeworks_service.api.downloads import StoredFile, download
from tapeworks_service.api.jobs.routes import JobId
from tapeworks_service.api.messages import answer, problems, read_message, takes
from tapeworks_service.auth.callers import still_allowed
from tapeworks_service.context import Context, ContextDep
from tapeworks_service.database.engine import Transaction
from tapeworks_service.database.queries import checkpoints_of
from tapeworks_service.database.tables import checkpoints
from tapeworks_service.leases import attempts, record_ingestion
from tapeworks_service.problems import not_found
from tapeworks_service.queue import queue
from tapeworks_service.queue.fence import Fence, read_held
from tapeworks_service.queue.inputs import inputs_of, resumed_from
from tapeworks_service.storage.deletions import delete_noted
from tapeworks_service.wakeups import QUEUE, job_topic
from tapeworks_service.workers.repository import heard_of, is_draining, read_worker

router = APIRouter(prefix="/v1", tags=["workers"])

LOOK_SECONDS = 1.0
"""How often a waiting lease request looks: a pause before a retry ends without anybody being woken."""
REFUSALS = problems(400, 401, 403, 404, 409, 413, 422, 503)


async def _fence(
    job_id: JobId,
    attempt: Annotated[int, Path(ge=1, lt=2**31)],
    token: Annotated[str, Header(alias=LEASE_HEADER, max_length=200)],
) -> Fence:
    return Fence(job_id, attempt, token)


AttemptFence = Annotated[Fence, Depends(_fence)]
"""The attempt of the path with the token of the lease header. An operation compares it with the job's row."""

# ── a lease ──────────────────────────────────────────────────────────────────────────────────────


@router.post(
    "/worker/leases",
    operation_id="lease_job",
    summary="Wait for a job",
    response_model=Lease,
    responses={204: {"description": "No matching job before the time-out"}, **REFUSALS},
    openapi_extra=takes(LeaseRequest),
)
async def lease_job(request: Request, caller: Worker, context: ContextDep) -> Response:
    """The job whose turn it is among those that the free devices fit; 404 where the worker is not registered."""
    wanted = await read_message(request, LeaseRequest, context.settings.max_body_bytes)
    # A worker that stands still keeps its connection: its request must be over before its attempts are reaped, or it
    # would be given them again.
    longest = min(context.settings.wait_seconds, context.settings.lease_seconds / 2)
    deadline = time.monotonic() + min(wanted.wait_seconds, longest)
    heard = 0.0
    with context.hub.listen(QUEUE) as listener:
        while True:
            if time.monotonic() - heard > context.settings.heartbeat_seconds:
                await _heard_of(context, wanted.worker_id)
                heard = time.monotonic()
            if not await request.is_disconnected():
                answered, lease = await _look(context, wanted)
                if lease is not None:
                    return answer(lease)
                if answered:
                    return Response(status_code=204)
            left = deadline - time.monotonic()
            if left <= 0 or context.hub.closing:
                return Response(status_code=204)
            await listener.wait(min(left, LOOK_SECONDS))
            await still_allowed(request)


async def _heard_of(context: Context, worker_id: str) -> None:
    async with context.database.write() as tx:
        if await read_worker(tx, worker_id, lost_after=context.settings.lease_seconds) is None:
            raise not_found("worker", worker_id)
        await heard_of(tx, worker_id)


async def _look(context: Context, wanted: LeaseRequest) -> tuple[bool, dict[str, Any] | None]:
    """One look at the queue: whether the request is answered for good, and its lease. Writes only if a job fits."""
    settings = context.settings
    async with context.database.read() as tx:
        if await context.clock.step(tx) is not None:
            return False, None  # time limits and pauses are measured again once the reaper has moved the rows
        worker = await read_worker(tx, wanted.worker_id, lost_after=settings.lease_seconds)
        if worker is None:
            raise not_found("worker", wanted.worker_id)
        secret = await attempts.lease_secret(tx)
        answered, lease = await attempts.leased_before(tx, wanted, secret=secret)
        if answered:
            return answered, lease
        satisfied = await attempts.satisfied_needs(tx, worker, wanted, context.catalogues, context.fits)
    if not satisfied:
        return False, None
    async with context.database.write() as tx:
        await tx.alone(f"lease {wanted.worker_id} {wanted.request_id}")
        answered, lease = await attempts.leased_before(tx, wanted, secret=secret)
        if not answered:
            lease = await attempts.take(tx, wanted, satisfied, secret=secret, lease_seconds=settings.lease_seconds)
    if lease is not None and not answered:
        context.measures.leases.inc()
    return answered, lease


# ── while it runs ────────────────────────────────────────────────────────────────────────────────


@router.post(
    "/jobs/{job_id}/attempts/{attempt}/heartbeat",
    operation_id="renew_lease",
    summary="Renew a lease",
    response_model=HeartbeatAnswer,
    responses=REFUSALS,
    openapi_extra=takes(Heartbeat, {}),
)
async def heartbeat(request: Request, caller: Worker, context: ContextDep, fence: AttemptFence) -> Response:
    """Extends the lease; 409 `lease_lost`: stop the runner."""
    await read_message(request, Heartbeat, context.settings.max_body_bytes)
    seconds = context.settings.lease_seconds
    async with context.database.write() as tx:
        row = await queue.renew(tx, fence, lease_seconds=seconds)
        await heard_of(tx, row["worker_id"])
        command = await _command(tx, row)
    return answer(HeartbeatAnswer(lease_seconds=seconds, command=command))


async def _command(tx: Transaction, row: RowMapping) -> Any:
    """What the user asked for; else whether the worker is to be drained."""
    if row["requested"] != Requested.NONE.value:
        return row["requested"]
    return "drain" if await is_draining(tx, row["worker_id"]) else None


@router.get(
    "/jobs/{job_id}/attempts/{attempt}/commands",
    operation_id="wait_for_command",
    summary="Wait for a command",
    response_model=Command,
    responses={204: {"description": "No command before the time-out"}, **REFUSALS},
)
async def commands(
    request: Request,
    caller: Worker,
    context: ContextDep,
    fence: AttemptFence,
    wait: Annotated[float, Query(ge=0, le=300)] = 30,
) -> Response:
    """What the user asked for, or `drain`, as soon as it is asked; 409 `lease_lost` as soon as the attempt is over."""
    deadline = time.monotonic() + min(wait, context.settings.wait_seconds)
    with context.hub.listen(job_topic(fence.job_id)) as listener:
        while True:
            async with context.database.read() as tx:
                command = await _command(tx, await read_held(tx, fence))
            if command is not None:
                return answer(Command(command=command))
            left = deadline - time.monotonic()
            if left <= 0 or context.hub.closing:
                return Response(status_code=204)
            await listener.wait(min(left, context.database.poll_seconds))
            await still_allowed(request)


@router.post(
    "/jobs/{job_id}/attempts/{attempt}/records",
    operation_id="store_records",
    summary="Store what an attempt reports",
    response_model=RecordsAnswer,
    responses=REFUSALS,
    openapi_extra=takes(Records),
)
async def store_records(request: Request, caller: Worker, context: ContextDep, fence: AttemptFence) -> Response:
    """A batch; records stored before are skipped, and what follows a gap is left for a resend."""
    batch = await read_message(request, Records, context.settings.max_body_bytes)
    async with context.database.write() as tx:
        stored = await record_ingestion.store(tx, fence, list(batch.records), context.settings.report_limits)
    return answer(RecordsAnswer(stored=stored))


@router.post(
    "/jobs/{job_id}/attempts/{attempt}/checkpoints",
    operation_id="announce_checkpoint",
    summary="Announce an uploaded checkpoint",
    status_code=201,
    response_model=CheckpointAnnounced,
    responses=REFUSALS,
    openapi_extra=takes(CheckpointAnnouncement),
)
async def announce_checkpoint(request: Request, caller: Worker, context: ContextDep, fence: AttemptFence) -> Response:
    """This makes it visible, and older ones beyond `training.checkpoint.keep` go."""
    announcement = await read_message(request, CheckpointAnnouncement, context.settings.max_body_bytes)
    async with context.database.write() as tx:
        checkpoint_id = await attempts.announce(tx, fence, announcement, context.settings.report_limits)
    await delete_noted(context.database, context.store)
    return answer(CheckpointAnnounced(checkpoint_id=checkpoint_id), 201)


@router.get(
    "/jobs/{job_id}/attempts/{attempt}/checkpoints/{checkpoint_id}",
    operation_id="read_checkpoint",
    summary="The bytes of a checkpoint to resume from",
    response_class=Response,
    responses={200: {"description": "The bytes"}, **REFUSALS},
)
async def read_checkpoint(
    request: Request,
    caller: Worker,
    context: ContextDep,
    fence: AttemptFence,
    checkpoint_id: str,
) -> Response:
    """For the attempt that holds the job."""
    async with context.database.read() as tx:
        job = await read_held(tx, fence)
        own = checkpoints_of(job["project_id"], job["id"])
        row = await tx.one(own.where(checkpoints.c.id == checkpoint_id.replace("\x00", "")))
        if row is None:
            row = await resumed_from(tx, job)
    if row is None or row["id"] != checkpoint_id:
        raise not_found("checkpoint", checkpoint_id)
    return await download(request, context.store, StoredFile.of(row, name=f"{checkpoint_id}.tar"))


@router.get(
    "/jobs/{job_id}/attempts/{attempt}/inputs/{index}",
    operation_id="read_input",
    summary="The content that a job starts from",
    response_class=Response,
    responses={200: {"description": "The bytes"}, **REFUSALS},
)
async def read_input(
    request: Request,
    caller: Worker,
    context: ContextDep,
    fence: AttemptFence,
    index: Annotated[int, Path(ge=0, lt=2**31)],
) -> Response:
    """One of the lease's `inputs`, by its place there; for the attempt that holds the job."""
    async with context.database.read() as tx:
        job = await read_held(tx, fence)
        rows = await inputs_of(tx, job)
    if index >= len(rows):
        raise not_found("input", str(index))
    row = rows[index]
    suffix = ".tar.gz" if row["kind"] == "bundle" else ".tar"
    return await download(request, context.store, StoredFile.of(row, name=row["reference"] + suffix))


# ── the end ──────────────────────────────────────────────────────────────────────────────────────


@router.post(
    "/jobs/{job_id}/attempts/{attempt}/finish",
    operation_id="finish_attempt",
    summary="End an attempt",
    responses={200: {"description": "The current state of the job"}, **REFUSALS},
    openapi_extra=takes(Finish),
)
async def finish_attempt(request: Request, caller: Worker, context: ContextDep, fence: AttemptFence) -> Response:
    """Publishes, fails or hands back, in one guarded update; the same request again is answered alike."""
    finish = await read_message(request, Finish, context.settings.max_body_bytes)
    body_hash = hashlib.sha256(finish.model_dump_json().encode()).hexdigest()
    async with context.database.write() as tx:
        finished = await attempts.finish(
            tx,
            fence,
            finish,
            body_hash=body_hash,
            retry_seconds=context.settings.retry_seconds,
        )
    if not finished.repeated:
        context.measures.ended.labels(finish.outcome).inc()
    return answer({"state": finished.state})
