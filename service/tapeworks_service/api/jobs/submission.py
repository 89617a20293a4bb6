"""A user's calls that take a spec: submit it, check it, have a worker trace it."""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy import RowMapping, select, true
from sqlalchemy.exc import IntegrityError

from tapeworks.errors import Finding, ProblemCode, SpecInvalid
from tapeworks.schemas.jobs import FINAL, Job, JobKind, State, ValidationResult
from tapeworks.spec.parsing import parse_json
from tapeworks_service.api.dependencies import Submitter
from tapeworks_service.api.fast_path import UsualRoute, usually
from tapeworks_service.api.jobs.examples import SPEC
from tapeworks_service.api.jobs.record_streams import job_of
from tapeworks_service.api.jobs.routes import JobId, job_answer
from tapeworks_service.api.messages import SHORT_BYTES, answer, problems, read_body, read_message, takes
from tapeworks_service.auth.callers import Caller
from tapeworks_service.context import Context, ContextDep
from tapeworks_service.database.engine import Transaction
from tapeworks_service.database.queries import checkpoints_of
from tapeworks_service.database.tables import checkpoints, jobs
from tapeworks_service.http.work_budget import AT_ONCE_SECONDS, LONGEST_SECONDS, WorkExceeded, budget
from tapeworks_service.ids import new_id
from tapeworks_service.problems import Problem, invalid_value
from tapeworks_service.queue import queue
from tapeworks_service.queue.dataset_options import inherit
from tapeworks_service.queue.fence import lock
from tapeworks_service.queue.inputs import Input, PinnedFile, resolve
from tapeworks_service.queue.job_draft import NewJob
from tapeworks_service.queue.requirements import Requirements
from tapeworks_service.specs.acceptance import AcceptedSpec, accept

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=UsualRoute)

IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=255, pattern=r"^[\x20-\x7e]+$")]
SPEC_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/JobSpecInput"}, "example": SPEC}},
    }
}
_USUAL_KEY = re.compile(r"[\w-]{1,100}", re.ASCII)


def _usual_submit(request: Request) -> dict[str, Any] | None:
    """How `create_job` is asked: without a key, or with one like a UUID."""
    key = request.headers.get("idempotency-key")
    return {"idempotency_key": key} if key is None or _USUAL_KEY.fullmatch(key) else None


@router.post(
    "",
    operation_id="create_job",
    summary="Submit a job",
    status_code=201,
    response_model=Job,
    responses=problems(400, 401, 403, 413, 422, 503),
    openapi_extra=SPEC_BODY,
)
@usually(_usual_submit)
async def create_job(
    request: Request, caller: Submitter, context: ContextDep, idempotency_key: IdempotencyKey = None
) -> Response:
    """Queue a job. With the same `Idempotency-Key` and body again, the same job is answered with 200."""
    body = await read_body(request, context.settings.max_body_bytes)
    return await _submit(context, Submission(body, JobKind.TRAIN, caller, idempotency_key), status=201)


@router.post(
    "/validate",
    operation_id="validate_job",
    summary="Check a job spec",
    response_model=ValidationResult,
    responses={
        202: {"description": "With `trace`: the job that traces it", "model": Job},
        **problems(400, 401, 403, 413, 422, 503),
    },
    openapi_extra=SPEC_BODY,
)
async def validate_job(
    request: Request,
    caller: Submitter,
    context: ContextDep,
    trace: Annotated[bool, Query(description="have a worker build and trace the job and run a few steps")] = False,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Schema, catalogue and inputs, as submitting would check them; nothing is queued.

    With `trace` the same first, then 202 with a job of kind `validate`: poll it like any other. Its `result` has the
    element spec, shapes, parameters, memory and FLOPs of a step, warnings with their places, and a quote. It goes
    before training jobs of its priority, has two attempts and ten minutes, and leaves no files.
    """
    body = await read_body(request, context.settings.max_body_bytes)
    submission = Submission(body, JobKind.VALIDATE, caller, idempotency_key)
    if trace:
        return await _submit(context, submission, status=202)
    accepted = await _accept(context, submission)
    async with context.database.read() as tx:
        inputs = await resolve(tx, caller.project_id, accepted.inputs)
    inherit(accepted.document, inputs)
    waits = [f"{one.source_id} has not ended: the job would wait for it" for one in inputs if one.pin is None]
    return answer({"valid": True, "spec": accepted.document, "warnings": [*accepted.warnings, *waits]})


class RetryRequest(BaseModel):
    """Body of a retry; none at all: from scratch."""

    model_config = ConfigDict(extra="forbid", strict=True)

    from_: Annotated[
        Literal["scratch", "latest", "best"] | Annotated[str, StringConstraints(pattern=r"^ckpt_[0-9A-Za-z]{1,59}$")],
        Field(alias="from", description="`scratch`, or a checkpoint: `latest`, `best`, or its id"),
    ] = "scratch"


@router.post(
    "/{job_id}/retry",
    operation_id="retry_job",
    summary="Run a finished job again",
    status_code=201,
    response_model=Job,
    responses=problems(400, 401, 403, 404, 409, 413, 422, 503),
    openapi_extra=takes(RetryRequest, {"from": "latest"}),
)
async def retry_job(
    request: Request, caller: Submitter, context: ContextDep, job_id: JobId, idempotency_key: IdempotencyKey = None
) -> Response:
    """A new job (`lineage.retry_of`) with the spec of a finished one, checked again as if it were submitted.

    From a checkpoint it goes on exactly, as another attempt of that job would; 409 where the job has not finished.
    """
    wanted = await read_message(request, RetryRequest, context.settings.max_body_bytes)
    async with context.database.read() as tx:
        source = await job_of(tx, caller.project_id, job_id)
    if State(source["state"]) not in FINAL:
        hint = "Cancel it first; a paused job is resumed."
        raise Problem(
            ProblemCode.CONFLICT, f"the job is {source['state']}", hint=hint, extra={"state": source["state"]}
        )
    if not source["spec"]:
        hint = "Send the upload's request again: if no worker could inspect it, a new inspection is queued."
        raise Problem(ProblemCode.CONFLICT, f"a job of kind {source['kind']} is not retried", hint=hint)
    retry = Retry(job_id, wanted.from_)
    body = json.dumps(source["spec"]).encode()
    submission = Submission(body, JobKind(source["kind"]), caller, idempotency_key, retry)
    return await _submit(context, submission, status=201)


@dataclass(frozen=True)
class Retry:
    """Which job is run again, and from where."""

    job_id: str
    start: str

    async def checkpoint(self, tx: Transaction, project_id: str) -> Input | None:
        """The checkpoint to go on from. Raises 422 where the job has none; None: from scratch."""
        if self.start == "scratch":
            return None
        await lock(tx, self.job_id, project_id=project_id)  # it cannot be deleted before the new job refers to it
        chosen = {"latest": true(), "best": checkpoints.c.best}.get(self.start, checkpoints.c.id == self.start)
        row = await tx.one(checkpoints_of(project_id, self.job_id).where(chosen).limit(1))
        if row is None:
            what = f"no checkpoint {self.start!r}" if self.start.startswith("ckpt_") else f"no {self.start} checkpoint"
            raise invalid_value("/from", f"{self.job_id} has {what}", "GET /v1/jobs/{id}/checkpoints lists them.")
        return Input(row["id"], self.job_id, PinnedFile.of("checkpoint", row, row["id"]), resume=True)


@dataclass(frozen=True)
class Submission:
    """What a request sent, and for what."""

    body: bytes
    kind: JobKind
    caller: Caller
    idempotency_key: str | None
    retry: Retry | None = None

    @property
    def project_id(self) -> str:
        """The caller's."""
        return self.caller.project_id

    @property
    def body_hash(self) -> str:
        """The same body for another purpose is another request."""
        if self.retry is not None:
            return hashlib.sha256(f"retry\n{self.retry.job_id}\n{self.retry.start}".encode()).hexdigest()
        purpose = b"" if self.kind is JobKind.TRAIN else self.kind.value.encode() + b"\n"
        return hashlib.sha256(purpose + self.body).hexdigest()


_WITHOUT_CATALOGUE = {
    ProblemCode.INVALID_JSON, ProblemCode.INVALID_SPEC, ProblemCode.UNKNOWN_FIELD, ProblemCode.MISSING_FIELD,
}  # fmt: skip
"""What no newer catalogue changes."""


async def _accept(context: Context, submission: Submission) -> AcceptedSpec:
    """Check the spec. Raises SpecInvalid."""
    try:
        return await _checked(context, submission)
    except SpecInvalid as invalid:
        if {finding.code for finding in invalid.findings} <= _WITHOUT_CATALOGUE:
            raise
        if not (context.workers.forget() | context.catalogues.forget_packages(submission.project_id)):
            raise
        return await _checked(context, submission)  # what it names may have been announced just now


async def _checked(context: Context, submission: Submission) -> AcceptedSpec:
    body = submission.body
    async with context.database.read() as tx:
        workers = await context.workers.read(tx, lost_after=context.settings.lease_seconds)
        catalogue = await context.catalogues.of_project(tx, workers, submission.project_id)
    seconds = context.settings.default_timeout_seconds

    def accepted(budget_seconds: float) -> AcceptedSpec:
        with budget(budget_seconds):
            return accept(parse_json(body), catalogue, default_timeout_seconds=seconds)

    if len(body) <= SHORT_BYTES and context.checks.at_once(submission.project_id):
        with suppress(WorkExceeded):
            return accepted(AT_ONCE_SECONDS)
    try:
        return await context.checks.run(submission.project_id, lambda: accepted(LONGEST_SECONDS))
    except WorkExceeded:
        message = f"the check of this spec takes longer than {LONGEST_SECONDS:g} s"
        hint = "Make the spec smaller: fewer components, shorter lists in their configs."
        raise SpecInvalid([Finding("", ProblemCode.INVALID_SPEC, message, hint)]) from None


async def _submit(context: Context, submission: Submission, *, status: int) -> Response:
    """Queue what was sent, or answer with the job that its key made before."""
    if submission.idempotency_key is not None:
        async with context.database.read() as tx:
            if (known := await _same_request(tx, submission)) is not None:
                return await job_answer(tx, context, known)
    accepted = await _accept(context, submission)
    try:
        async with context.database.write() as tx:
            if (known := await _same_request(tx, submission)) is not None:
                return await job_answer(tx, context, known)
            inputs = await resolve(tx, submission.project_id, accepted.inputs)
            inherit(accepted.document, inputs)
            if submission.retry and (earlier := await submission.retry.checkpoint(tx, submission.project_id)):
                inputs.append(earlier)
            new = _new_job(accepted, submission, inputs)
            made = await job_answer(tx, context, await queue.enqueue(tx, new), status=status)
    except IntegrityError:  # another instance took the key between look and insert
        async with context.database.read() as tx:
            if (known := await _same_request(tx, submission)) is None:
                raise
            return await job_answer(tx, context, known)
    context.measures.submitted.inc()
    return made


def _new_job(accepted: AcceptedSpec, submission: Submission, inputs: list[Input]) -> NewJob:
    components: list[dict[str, Any]] = [component.model_dump() for component in accepted.components]
    return NewJob(
        id=new_id("job"),
        project_id=submission.project_id,
        kind=submission.kind.value,
        spec=accepted.document,
        components=components,
        needs=Requirements.of(accepted.spec.resources, accepted.installed, packages=bool(accepted.packaged)),
        lineage={"components": components, "seed": accepted.spec.training.seed},
        idempotency_key=submission.idempotency_key,
        body_hash=submission.body_hash,
        inputs=inputs,
        retry_of=submission.retry.job_id if submission.retry else None,
        owner=submission.caller.key_name,
    )


async def _same_request(tx: Transaction, submission: Submission) -> RowMapping | None:
    """The job that this key made, or None. Raises 422 where its body was another."""
    key = submission.idempotency_key
    if key is None:
        return None
    own = (jobs.c.project_id == submission.project_id, jobs.c.idempotency_key == key)
    row = await tx.one(select(jobs).where(*own))
    if row is not None and row["body_hash"] != submission.body_hash:
        detail = f"the Idempotency-Key {key[:100]!r} made {row['id']} from another body"
        raise Problem(ProblemCode.IDEMPOTENCY_MISMATCH, detail)
    return row
