"""A user's calls about jobs that are there: watch, cancel, change, delete."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import delete, update

from tapeworks.errors import ProblemCode
from tapeworks.schemas.jobs import FINAL, Job, JobKind, Page, State
from tapeworks.spec.job_spec import Label
from tapeworks_service.api.dependencies import Reader, Submitter
from tapeworks_service.api.fast_path import UsualRoute, usually
from tapeworks_service.api.jobs.reads import bodies_of, body_of, read_summary, waiting
from tapeworks_service.api.jobs.record_streams import job_of
from tapeworks_service.api.messages import answer, answered, problems, read_message, takes
from tapeworks_service.auth.callers import Caller, still_allowed
from tapeworks_service.context import Context, ContextDep
from tapeworks_service.database.engine import Transaction
from tapeworks_service.database.tables import job_labels, jobs
from tapeworks_service.encoding import encoded
from tapeworks_service.jobs.deletion import remove
from tapeworks_service.jobs.queries import Filters, list_jobs
from tapeworks_service.jobs.serializers import etag, job_document
from tapeworks_service.problems import Problem, invalid_value
from tapeworks_service.queue import queue, user_requests
from tapeworks_service.queue.fence import lock
from tapeworks_service.queue.scheduling import fair_rank
from tapeworks_service.queue.unschedulable import reason_of
from tapeworks_service.storage.deletions import delete_noted
from tapeworks_service.wakeups import job_topic

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=UsualRoute)

JobId = Annotated[str, Path(max_length=100, pattern=r"^[^\x00]*$")]
MOST_FILTERS = 20
"""Values of one filter: each label is a subquery of its own."""
Text = Annotated[str, Query(max_length=500, pattern=r"^[^\x00]*$")]

_JOB_ID = re.compile(r"\w{1,100}", re.ASCII)
_LOOK = re.compile(rb"(?:wait=([12]?\d{1,2}(?:\.\d{1,20})?))?(?:(?:^|&)unless=(\d{1,15}))?")


class JobChange(BaseModel):
    """Body of PATCH: what is given changes."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[str, Field(max_length=200)] | None = None
    labels: Annotated[dict[Label, Label], Field(max_length=64)] | None = None
    priority: Annotated[int, Field(ge=-100, le=100)] | None = None


# ── look ─────────────────────────────────────────────────────────────────────────────────────────


@router.get(
    "",
    operation_id="list_jobs",
    summary="List jobs",
    response_model=Page[Job],
    responses=problems(401, 403, 422, 503),
)
async def list_(
    caller: Reader,
    context: ContextDep,
    state: Annotated[list[State] | None, Query(max_length=MOST_FILTERS)] = None,
    kind: JobKind = JobKind.TRAIN,
    label: Annotated[
        list[Text] | None, Query(description="name=value; may be repeated", max_length=MOST_FILTERS)
    ] = None,
    name: Text | None = None,
    owner: Annotated[Text | None, Query(description="the name of the key that submitted the job")] = None,
    created_after: datetime | None = None,
    id_prefix: Annotated[
        str | None, Query(pattern=r"^job_[0-9a-f]{1,32}$", description="the first characters of an id; the newest 200")
    ] = None,
    after: Text | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Response:
    """The project's jobs, newest first."""
    filters = Filters(
        states=[one.value for one in state or ()],
        kind=kind.value,
        labels=[_label(one) for one in label or ()],
        name=name,
        owner=owner,
        created_after=None if created_after is None else _seconds(created_after),
        id_prefix=id_prefix,
    )
    before = None if after is None else context.cursors.read(caller.project_id, "jobs", after)
    async with context.database.read() as tx:
        rows = await list_jobs(tx, caller.project_id, filters, before=before, limit=limit)
        more, rows = len(rows) > limit, rows[:limit]
        data = b",".join(await bodies_of(tx, context, rows))
    following = context.cursors.write(caller.project_id, "jobs", rows[-1]["queue_seq"]) if more else None
    rest = encoded({"has_more": more, "next": following})
    return answered(b'{"data":[' + data + b"]," + rest[1:])


def _label(text: str) -> tuple[str, str]:
    for separator in ("=", ":"):
        name, found, value = text.partition(separator)
        if found:
            return name, value
    raise invalid_value("/label", f"{text[:100]!r} is not a label filter", "Write label=name=value.")


def _seconds(at: datetime) -> float:
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()


async def job_answer(tx: Transaction, context: Context, row: Mapping[Any, Any], *, status: int = 200) -> Response:
    """The job object as a writing transaction sees it; a new one (201, 202) with its place."""
    reason = reason_of(row, await waiting(tx, context, [row]))
    headers = _headers(row["revision"], reason)
    if status in (201, 202):
        headers["Location"] = f"/v1/jobs/{row['id']}"
    return answer(job_document(row, unschedulable=reason), status, headers)


def _headers(revision: int, reason: str | None) -> dict[str, str]:
    return {"ETag": etag(revision, reason), "Cache-Control": "no-cache"}


def _knows(seen: str | None, tag: str) -> bool:
    """Whether `If-None-Match` names it."""
    return seen is not None and (
        seen.strip() == "*" or tag in [one.strip().removeprefix("W/") for one in seen.split(",")]
    )


def _usual_look(request: Request) -> dict[str, Any] | None:
    """What those who poll ask `get_job` for."""
    job_id, query = request.path_params["job_id"], request.scope["query_string"]
    if _JOB_ID.fullmatch(job_id) is None or (found := _LOOK.fullmatch(query)) is None:
        return None
    wait, unless = found.groups()
    return {"job_id": job_id, "wait": float(wait or 0), "unless": None if unless is None else int(unless)}


@router.get(
    "/{job_id}",
    operation_id="get_job",
    summary="Get a job",
    response_model=Job,
    responses={304: {"description": "Not modified"}, **problems(401, 403, 404, 422, 503)},
)
@usually(_usual_look)
async def get_job(
    request: Request,
    caller: Reader,
    context: ContextDep,
    job_id: JobId,
    wait: Annotated[float, Query(ge=0, le=300, description="seconds to wait for a change, at most 30")] = 0,
    unless: Annotated[int | None, Query(ge=0, description="the revision that the client already has")] = None,
) -> Response:
    """The job now; with `wait`, as soon as its revision is another than `unless` (default: than now)."""
    deadline = time.monotonic() + min(wait, context.settings.wait_seconds)
    with context.hub.listen(job_topic(job_id)) as listener:
        while True:
            row = await read_summary(context, caller.project_id, job_id)
            unless = row["revision"] if unless is None else unless
            left = deadline - time.monotonic()
            if row["revision"] != unless or left <= 0 or State(row["state"]) in FINAL or context.hub.closing:
                break
            await listener.wait(min(left, context.database.poll_seconds))
            await still_allowed(request)
    body, (_, revision, reason) = await body_of(context, caller.project_id, row)
    headers = _headers(revision, reason)
    if _knows(request.headers.get("if-none-match"), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return answered(body, headers=headers)


async def _requested(
    request: Callable[..., Awaitable[object]], caller: Caller, context: Context, job_id: str
) -> Response:
    """The job after one of `user_requests`."""
    async with context.database.write() as tx:
        await request(tx, job_id, project_id=caller.project_id)
        return await job_answer(tx, context, await job_of(tx, caller.project_id, job_id))


# ── change ───────────────────────────────────────────────────────────────────────────────────────


@router.post(
    "/{job_id}/cancel",
    operation_id="cancel_job",
    summary="Cancel a job",
    response_model=Job,
    responses=problems(401, 403, 404, 409, 503),
)
async def cancel_job(caller: Submitter, context: ContextDep, job_id: JobId) -> Response:
    """A queued job is cancelled at once, a running one at its next call boundary; a finished one answers 409."""
    return await _requested(user_requests.cancel, caller, context, job_id)


@router.post(
    "/{job_id}/pause",
    operation_id="pause_job",
    summary="Pause a job",
    response_model=Job,
    responses=problems(401, 403, 404, 409, 503),
)
async def pause_job(caller: Submitter, context: ContextDep, job_id: JobId) -> Response:
    """A queued job is paused at once, a running one at its next call boundary, with a checkpoint.

    409 where it is trained already, finished, paused, or being cancelled.
    """
    return await _requested(user_requests.pause, caller, context, job_id)


@router.post(
    "/{job_id}/resume",
    operation_id="resume_job",
    summary="Resume a paused job",
    response_model=Job,
    responses=problems(401, 403, 404, 409, 503),
)
async def resume_job(caller: Submitter, context: ContextDep, job_id: JobId) -> Response:
    """It is queued again and goes on from its last checkpoint, on any worker; a pause still to come is undone."""
    return await _requested(user_requests.resume, caller, context, job_id)


@router.patch(
    "/{job_id}",
    operation_id="update_job",
    summary="Change name, labels or priority",
    response_model=Job,
    responses=problems(400, 401, 403, 404, 409, 413, 422, 503),
    openapi_extra=takes(JobChange, {"name": "digits again", "priority": 10}),
)
async def update_job(request: Request, caller: Submitter, context: ContextDep, job_id: JobId) -> Response:
    """What is given changes. The priority of a running job counts when it is queued again; of a finished one: 409."""
    change = await read_message(request, JobChange, context.settings.max_body_bytes)
    given: dict[str, Any] = change.model_dump(exclude_unset=True)
    if given.get("labels", {}) is None or given.get("priority", 0) is None:
        raise invalid_value(
            "", "labels and priority cannot be null", "Leave out fields that stay unchanged; {} removes all labels."
        )
    async with context.database.write() as tx:
        row = await lock(tx, job_id, project_id=caller.project_id)
        if State(row["state"]) in FINAL and given.get("priority", row["priority"]) != row["priority"]:
            detail = f"the job is {row['state']}: its priority can no longer change"
            raise Problem(ProblemCode.CONFLICT, detail, extra={"state": row["state"]})
        values = {**given, "spec": {**row["spec"], **given}, "revision": jobs.c.revision + 1}
        if given.get("priority", row["priority"]) != row["priority"]:
            values["fair_rank"] = await fair_rank(tx, caller.project_id, given["priority"])
        await tx.execute(update(jobs).where(jobs.c.id == job_id).values(values))
        if "labels" in given:
            own = (job_labels.c.project_id == caller.project_id, job_labels.c.job_id == job_id)
            await tx.execute(delete(job_labels).where(*own))
            await queue.write_labels(tx, caller.project_id, job_id, given["labels"])
        tx.wake(job_topic(job_id))
        return await job_answer(tx, context, await job_of(tx, caller.project_id, job_id))


@router.delete(
    "/{job_id}",
    operation_id="delete_job",
    summary="Delete a finished job",
    status_code=204,
    responses=problems(401, 403, 404, 409, 503),
)
async def delete_job(caller: Submitter, context: ContextDep, job_id: JobId) -> Response:
    """The job with everything that hangs on it; 409 while it, or a job that goes on from it, is not finished."""
    async with context.database.write() as tx:
        row = await lock(tx, job_id, project_id=caller.project_id)
        await remove(tx, row)
        tx.wake(job_topic(job_id))
    await delete_noted(context.database, context.store)
    return Response(status_code=204)
