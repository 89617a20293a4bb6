"""Files over HTTP: uploads by parts, what a job left, its model, its checkpoints."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.responses import Response
from sqlalchemy import RowMapping, select

from tapeworks.errors import ProblemCode
from tapeworks.schemas.jobs import Artifact, Checkpoint, Page
from tapeworks.schemas.worker_protocol import LEASE_HEADER, Upload, UploadRequest
from tapeworks_service.api.dependencies import Reader, Uploader, require
from tapeworks_service.api.downloads import StoredFile, download
from tapeworks_service.api.jobs.record_streams import job_of
from tapeworks_service.api.jobs.routes import JobId
from tapeworks_service.api.messages import answer, problems, read_body, read_message, takes
from tapeworks_service.auth.callers import Caller
from tapeworks_service.context import ContextDep
from tapeworks_service.database.engine import Transaction
from tapeworks_service.database.queries import checkpoints_of
from tapeworks_service.database.tables import artifacts, checkpoints
from tapeworks_service.jobs.serializers import artifact_document, checkpoint_document
from tapeworks_service.leases.uploads import begin, of_caller, readable
from tapeworks_service.problems import Problem, invalid_value, not_found
from tapeworks_service.queue.fence import Fence
from tapeworks_service.settings import ServiceSettings
from tapeworks_service.storage import uploads

router = APIRouter(tags=["files"])

LeaseToken = Annotated[str | None, Header(alias=LEASE_HEADER, max_length=200)]
UploadId = Annotated[str, Path(max_length=100, pattern=r"^[^\x00]*$")]
After = Annotated[str | None, Query(max_length=1100, pattern=r"^[^\x00]*$")]
Limit = Annotated[int, Query(ge=1, le=200)]
BYTES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The bytes"},
    206: {"description": "A range of them"},
    304: {"description": "Not modified"},
}


# ── uploads ──────────────────────────────────────────────────────────────────────────────────────


@router.post(
    "/v1/uploads",
    operation_id="create_upload",
    summary="Begin an upload",
    status_code=201,
    response_model=Upload,
    responses=problems(400, 401, 403, 404, 409, 413, 422, 503, 507),
    openapi_extra=takes(UploadRequest),
)
async def create_upload(request: Request, caller: Uploader, context: ContextDep, token: LeaseToken = None) -> Response:
    """A file by its size and digest: of the project, or of an attempt, whose lease is shown then. The same file again
    answers with the upload begun before; one that the project has already is complete."""
    wanted = await read_message(request, UploadRequest, context.settings.max_body_bytes)
    if wanted.bytes > context.settings.max_upload_bytes:
        raise Problem(
            ProblemCode.PAYLOAD_TOO_LARGE, f"a file must be at most {context.settings.max_upload_bytes} bytes"
        )
    context.store.check_room(wanted.bytes, context.settings.reserve_bytes)
    async with context.database.write() as tx:
        row = await _begun(tx, caller, wanted, token, context.settings)
        status = await uploads.status(tx, row)
    checked = await uploads.checked_status(context.database, context.store, row, status)
    return answer(checked, 201, {"Location": f"/v1/uploads/{row['id']}"})


async def _begun(
    tx: Transaction, caller: Caller, wanted: UploadRequest, token: str | None, settings: ServiceSettings
) -> RowMapping:
    of_attempt = (wanted.job_id, wanted.attempt, wanted.path, token)
    if of_attempt == (None,) * len(of_attempt):
        require(caller, "submit")
        return await uploads.begin_own(tx, caller.project_id, wanted, part_bytes=settings.part_bytes)
    require(caller, "worker")
    if wanted.job_id is None or wanted.attempt is None or wanted.path is None or token is None:
        what = (
            f"a file of an attempt has job_id, attempt, path and the header {LEASE_HEADER}; one of a project has none"
        )
        raise invalid_value("/job_id", what)
    fence = Fence(wanted.job_id, wanted.attempt, token)
    return await begin(tx, fence, wanted, part_bytes=settings.part_bytes, most=settings.max_attempt_uploads)


@router.get(
    "/v1/uploads/{upload_id}",
    operation_id="get_upload",
    summary="List the missing parts of an upload",
    response_model=Upload,
    responses=problems(401, 403, 404, 503),
)
async def get_upload(caller: Uploader, context: ContextDep, upload_id: UploadId) -> Response:
    """The parts that are missing."""
    async with context.database.read() as tx:
        row = await readable(tx, upload_id, caller)
        status = await uploads.status(tx, row)
    return answer(await uploads.checked_status(context.database, context.store, row, status))


@router.put(
    "/v1/uploads/{upload_id}/parts/{number}",
    operation_id="put_upload_part",
    summary="Send one part",
    status_code=204,
    responses=problems(401, 403, 404, 409, 413, 422, 503, 507),
    openapi_extra={
        "requestBody": {
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
            "required": True,
        }
    },
)
async def put_part(
    request: Request,
    caller: Uploader,
    context: ContextDep,
    upload_id: UploadId,
    number: Annotated[int, Path(ge=1, lt=2**31)],
    content_digest: Annotated[str, Header(description="sha-256=:BASE64:")],
    token: LeaseToken = None,
) -> Response:
    """Parts are numbered from 1, all but the last `part_bytes` long; sent again, a part replaces itself."""
    sha256 = _digest(content_digest)
    async with context.database.read() as tx:
        upload = await of_caller(tx, upload_id, caller, token)
    data = await read_body(request, upload["part_bytes"])
    await uploads.store_part(context.database, context.store, upload, number, data=data, sha256=sha256)
    context.measures.uploaded.inc(len(data))
    return Response(status_code=204)


def _digest(header: str) -> str:
    """`sha-256=:BASE64:` of RFC 9530 as hex. Raises 422."""
    match = re.search(r"sha-256=:([A-Za-z0-9+/=]+):", header)
    try:
        digest = base64.b64decode(match[1], validate=True) if match else b""
    except binascii.Error:
        digest = b""
    if len(digest) != 32:
        raise invalid_value("/Content-Digest", "the header Content-Digest must be sha-256=:BASE64:")
    return digest.hex()


@router.post(
    "/v1/uploads/{upload_id}/complete",
    operation_id="complete_upload",
    summary="Complete an upload",
    response_model=Upload,
    responses=problems(401, 403, 404, 409, 422, 503, 507),
)
async def complete_upload(
    caller: Uploader, context: ContextDep, upload_id: UploadId, token: LeaseToken = None
) -> Response:
    """Puts the parts together and reads the whole again; 409 names the parts that are missing."""
    async with context.database.read() as tx:
        upload = await of_caller(tx, upload_id, caller, token)
    return answer(await uploads.complete(context.database, context.store, upload))


# ── what a job left ──────────────────────────────────────────────────────────────────────────────


@router.get(
    "/v1/jobs/{job_id}/artifacts",
    operation_id="list_artifacts",
    summary="Files of a job",
    response_model=Page[Artifact],
    responses=problems(401, 403, 404, 422, 503),
)
async def list_artifacts(
    caller: Reader, context: ContextDep, job_id: JobId, after: After = None, limit: Limit = 200
) -> Response:
    """By path."""
    own = (artifacts.c.project_id == caller.project_id, artifacts.c.job_id == job_id)
    statement = select(artifacts).where(*own, artifacts.c.path > (after or "")).order_by(artifacts.c.path)
    async with context.database.read() as tx:
        await job_of(tx, caller.project_id, job_id)
        rows = await tx.all(statement.limit(limit + 1))
    more, rows = len(rows) > limit, rows[:limit]
    data = [artifact_document(row) for row in rows]
    return answer({"data": data, "has_more": more, "next": rows[-1]["path"] if more else None})


@router.get(
    "/v1/jobs/{job_id}/artifacts/{path:path}",
    operation_id="get_artifact",
    summary="Download a file",
    response_class=Response,
    responses={**BYTES, **problems(401, 403, 404, 416, 503)},
)
async def get_artifact(request: Request, caller: Reader, context: ContextDep, job_id: JobId, path: str) -> Response:
    """The bytes, or a range of them."""
    own = (artifacts.c.project_id == caller.project_id, artifacts.c.job_id == job_id)
    async with context.database.read() as tx:
        await job_of(tx, caller.project_id, job_id)
        row = await tx.one(select(artifacts).where(*own, artifacts.c.path == path.replace("\x00", "")))
    if row is None:
        raise not_found("artifact", path)
    return await download(request, context.store, StoredFile.of(row, name=path.rpartition("/")[2]))


@router.get(
    "/v1/jobs/{job_id}/model",
    operation_id="get_model",
    summary="Download the model",
    response_class=Response,
    responses={**BYTES, **problems(401, 403, 404, 416, 422, 503)},
)
async def get_model(
    request: Request,
    caller: Reader,
    context: ContextDep,
    job_id: JobId,
    format: Literal["keras", "saved_model"] | None = None,
) -> Response:
    """The bundle as `.tar.gz`; with `format` that part of it alone."""
    role = format or "bundle"
    own = (artifacts.c.project_id == caller.project_id, artifacts.c.job_id == job_id)
    async with context.database.read() as tx:
        job = await job_of(tx, caller.project_id, job_id)
        row = await tx.one(select(artifacts).where(*own, artifacts.c.role == role))
    if row is None:
        raise _no_model(job["state"], job["document"].get("model"), role)
    suffix = "" if format is None else f"-{format}"
    return await download(request, context.store, StoredFile.of(row, name=f"{job_id}{suffix}.tar.gz"))


def _no_model(state: str, model: object, role: str) -> Problem:
    if model is not None:
        return Problem(ProblemCode.NOT_FOUND, f"the job's bundle has no part {role!r}", hint="See model.formats.")
    if state == "succeeded":
        return Problem(ProblemCode.NOT_FOUND, "the job exports no model", hint="The job's spec has export: null.")
    hint = "The model is available after the job has succeeded."
    return Problem(ProblemCode.NOT_FOUND, f"the job has no model: it is {state}", hint=hint)


# ── checkpoints ──────────────────────────────────────────────────────────────────────────────────


@router.get(
    "/v1/jobs/{job_id}/checkpoints",
    operation_id="list_checkpoints",
    summary="Checkpoints of a job",
    response_model=Page[Checkpoint],
    responses=problems(401, 403, 404, 422, 503),
)
async def list_checkpoints(caller: Reader, context: ContextDep, job_id: JobId) -> Response:
    """Newest first; `training.checkpoint.keep` of them, and the best."""
    async with context.database.read() as tx:
        await job_of(tx, caller.project_id, job_id)
        rows = await tx.all(checkpoints_of(caller.project_id, job_id))
    return answer({"data": [checkpoint_document(row) for row in rows], "has_more": False, "next": None})


@router.get(
    "/v1/jobs/{job_id}/checkpoints/{checkpoint_id}",
    operation_id="get_checkpoint",
    summary="Download a checkpoint",
    response_class=Response,
    responses={**BYTES, **problems(401, 403, 404, 416, 503)},
)
async def get_checkpoint(
    request: Request, caller: Reader, context: ContextDep, job_id: JobId, checkpoint_id: str
) -> Response:
    """The bytes, or a range of them."""
    async with context.database.read() as tx:
        await job_of(tx, caller.project_id, job_id)
        own = checkpoints_of(caller.project_id, job_id)
        row = await tx.one(own.where(checkpoints.c.id == checkpoint_id.replace("\x00", "")))
    if row is None:
        raise not_found("checkpoint", checkpoint_id)
    return await download(request, context.store, StoredFile.of(row, name=f"{checkpoint_id}.tar"))
