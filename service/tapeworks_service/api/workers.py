"""Workers: their registration, and what users see of them."""

from __future__ import annotations

from collections import defaultdict
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response
from sqlalchemy import delete, select

from tapeworks.schemas.jobs import Page, WorkerInfo
from tapeworks.schemas.worker_protocol import Registered, Registration
from tapeworks_service.api.dependencies import Admin, Reader, Worker
from tapeworks_service.api.messages import answer, problems, read_message, takes
from tapeworks_service.auth.callers import Caller
from tapeworks_service.context import Context, ContextDep
from tapeworks_service.database.clock import instant
from tapeworks_service.database.engine import Transaction
from tapeworks_service.database.tables import catalogues, jobs, workers
from tapeworks_service.problems import not_found
from tapeworks_service.wakeups import QUEUE, job_topic
from tapeworks_service.workers.repository import IS_HELD, WorkerRow, held_by, read_worker, read_workers, set_draining

router = APIRouter(prefix="/v1", tags=["workers"])

WorkerPath = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]


@router.put(
    "/worker/{worker_id}",
    operation_id="register_worker",
    summary="Register a worker",
    response_model=Registered,
    responses=problems(400, 401, 403, 413, 422, 503),
    openapi_extra=takes(Registration),
)
async def register_worker(
    request: Request,
    caller: Worker,
    context: ContextDep,
    worker_id: WorkerPath,
) -> Response:
    """Devices, labels, versions and the catalogue: by digest, and whole when `catalogue_needed` was answered."""
    registration = await read_message(request, Registration, context.settings.max_registration_bytes)
    async with context.database.write() as tx:
        now = await tx.now()
        if registration.catalogue is not None:
            document = registration.catalogue.model_dump(mode="json")
            content = {"digest": registration.catalogue_digest, "document": document}
            await _upsert(tx, catalogues, ["digest"], content, created_at=now)
        known = await tx.one(select(catalogues.c.digest).where(catalogues.c.digest == registration.catalogue_digest))
        row = registration.model_dump(mode="json", exclude={"catalogue", "catalogue_digest"})
        digest = {"catalogue_digest": registration.catalogue_digest}
        # Until its new catalogue is here, what a worker announced before stands: nothing of it disappears meanwhile.
        values, first = (row | digest, {}) if known is not None else (row, digest)
        await _upsert(tx, workers, ["id"], {"id": worker_id, **values, "heartbeat_at": now}, registered_at=now, **first)
        used = select(workers.c.catalogue_digest)
        await tx.execute(delete(catalogues).where(catalogues.c.digest.not_in(used)))
        digests = [one["catalogue_digest"] for one in await tx.all(used)]
    context.catalogues.forget(digests)
    context.workers.forget()
    registered = Registered(
        catalogue_needed=known is None,
        heartbeat_seconds=context.settings.heartbeat_seconds,
        lease_seconds=context.settings.lease_seconds,
    )
    return answer(registered)


async def _upsert(tx: Transaction, table: Any, key: list[str], values: dict[str, Any], **first: Any) -> None:
    """Insert a row, or change it; `first` holds what only an insert sets."""
    if table is workers:
        first["draining"] = False
    statement = tx.insert(table).values(**values, **first)
    changed = {name: value for name, value in values.items() if name not in key}
    await tx.execute(statement.on_conflict_do_update(index_elements=key, set_=changed))


@router.get(
    "/workers",
    operation_id="list_workers",
    summary="List workers",
    response_model=Page[WorkerInfo],
    responses=problems(401, 403, 503),
)
async def list_workers(caller: Reader, context: ContextDep) -> Response:
    """Devices, state, what runs there, and what of its components is not offered."""
    async with context.database.read() as tx:
        rows = await read_workers(tx, lost_after=context.settings.lease_seconds)
        running = await _running(tx, caller.project_id)
        clashes = (await context.catalogues.merged(tx, rows)).clashes
        data = []
        for row in rows:
            refused = (await context.catalogues.known(tx, row.catalogue_digest)).refused
            reasons = [*refused, *([] if row.lost else clashes.get(row.id, ()))]
            data.append(_worker_document(row, jobs=running[row.id]) | {"refused": reasons})
    return answer({"data": data, "has_more": False, "next": None})


def _worker_document(row: WorkerRow, *, jobs: list[str]) -> dict[str, Any]:
    # Devices are as the worker last registered them; what runs there is known better here.
    devices = [{**device, "job_id": device["job_id"] if device["job_id"] in jobs else None} for device in row.devices]
    state = "lost" if row.lost else "draining" if row.draining else "ready"
    return {
        "id": row.id,
        "state": state,
        "labels": row.labels,
        "devices": devices,
        "jobs": jobs,
        "versions": row.versions,
        "packages": row.packages,
        "sandbox": row.sandbox,
        "registered_at": instant(row.registered_at),
        "heartbeat_at": instant(row.heartbeat_at),
    }


async def _running(tx: Transaction, project_id: str) -> dict[str, list[str]]:
    """Worker → the project's jobs that it holds."""
    running: dict[str, list[str]] = defaultdict(list)
    for row in await tx.all(select(jobs.c.worker_id, jobs.c.id).where(IS_HELD, jobs.c.project_id == project_id)):
        running[row["worker_id"]].append(row["id"])
    return running


@router.post(
    "/workers/{worker_id}/drain",
    operation_id="drain_worker",
    summary="Drain a worker",
    response_model=WorkerInfo,
    responses=problems(401, 403, 404, 503),
)
async def drain_worker(caller: Admin, context: ContextDep, worker_id: WorkerPath) -> Response:
    """It takes no new job, and each of its jobs is saved and queued again, which costs no attempt. The worker stays."""
    return await _set_draining(caller, context, worker_id, draining=True)


@router.post(
    "/workers/{worker_id}/undrain",
    operation_id="undrain_worker",
    summary="Let a drained worker take jobs again",
    response_model=WorkerInfo,
    responses=problems(401, 403, 404, 503),
)
async def undrain_worker(caller: Admin, context: ContextDep, worker_id: WorkerPath) -> Response:
    """The end of a drain; a restart of the worker does not end it."""
    return await _set_draining(caller, context, worker_id, draining=False)


async def _set_draining(caller: Caller, context: Context, worker_id: str, *, draining: bool) -> Response:
    async with context.database.write() as tx:
        await set_draining(tx, worker_id, draining=draining)
        row = await read_worker(tx, worker_id, lost_after=context.settings.lease_seconds)
        if row is None:
            raise not_found("worker", worker_id)
        for job_id in await held_by(tx, worker_id):
            tx.wake(job_topic(job_id))
        tx.wake(QUEUE)
        running = await _running(tx, caller.project_id)
    return answer(_worker_document(row, jobs=running[worker_id]))
