"""What a job reported: events, log lines, metrics. JSON pages or server-sent events."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from tapeworks.schemas.jobs import Event, LogLine, MetricSeriesList, Page
from tapeworks_service.api.dependencies import Reader
from tapeworks_service.api.jobs.record_streams import job_of, page_or_stream, resume_from, stream, wants_stream
from tapeworks_service.api.jobs.routes import JobId
from tapeworks_service.api.messages import answer, problems
from tapeworks_service.context import ContextDep
from tapeworks_service.database.tables import events, logs, metric_points
from tapeworks_service.jobs.metric_curves import MOST_BUCKETS, Span, metric_curves
from tapeworks_service.jobs.queries import metric_series
from tapeworks_service.jobs.serializers import event_document, line_document, point_document

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"])

After = Annotated[int, Query(ge=0, lt=2**62, description="the number of the last entry received")]
Limit = Annotated[int, Query(ge=1, le=1000)]


@router.get(
    "/events",
    operation_id="list_events",
    summary="Events of a job",
    response_model=Page[Event],
    responses=problems(401, 403, 404, 422, 503),
)
async def list_events(
    request: Request, caller: Reader, context: ContextDep, job_id: JobId, after: After = 0, limit: Limit = 200
) -> Response:
    """`Accept: text/event-stream` streams them until the job has finished; `Last-Event-ID` resumes."""
    key = (caller.project_id, job_id)
    return await page_or_stream(request, context, events, event_document, key, after=after, limit=limit)


@router.get(
    "/logs",
    operation_id="list_logs",
    summary="Log lines of a job",
    response_model=Page[LogLine],
    responses=problems(401, 403, 404, 422, 503),
)
async def list_logs(
    request: Request, caller: Reader, context: ContextDep, job_id: JobId, after: After = 0, limit: Limit = 200
) -> Response:
    """`Accept: text/event-stream` streams them until the job has finished; `Last-Event-ID` resumes."""
    key = (caller.project_id, job_id)
    return await page_or_stream(request, context, logs, line_document, key, after=after, limit=limit)


@router.get(
    "/metrics",
    operation_id="get_metrics",
    summary="Metrics of a job",
    response_model=MetricSeriesList,
    responses=problems(401, 403, 404, 422, 503),
)
async def get_metrics(
    request: Request,
    caller: Reader,
    context: ContextDep,
    job_id: JobId,
    points: Annotated[
        int | None, Query(ge=1, le=100_000, description="the maximum number of points of each metric")
    ] = None,
    buckets: Annotated[
        int | None, Query(ge=2, le=MOST_BUCKETS, description="the maximum number of buckets of each metric")
    ] = None,
    name: Annotated[list[str] | None, Query(max_length=20, description="with buckets: only these metrics")] = None,
    from_step: Annotated[int | None, Query(ge=-(2**63), lt=2**63, description="with buckets: from this step")] = None,
    to_step: Annotated[int | None, Query(ge=-(2**63), lt=2**63, description="with buckets: up to this step")] = None,
    after: After = 0,
) -> Response:
    """Series by metric, the newest attempt's value for each step; as a stream, point by point as they come in.

    With `buckets`, min, max, last value and non-finite counts of ranges of steps: they cost the same for a million
    points as for a thousand, and an answer with up to four metrics has at most 64 kB.
    """
    key = (caller.project_id, job_id)
    if wants_stream(request):
        return await stream(request, context, metric_points, point_document, key, after=resume_from(request, after))
    if buckets is not None:
        span = Span(buckets, tuple(name or ()), from_step, to_step)
        return answer(await metric_curves(context.database, *key, span))
    async with context.database.read() as tx:
        await job_of(tx, *key)
        return answer({"data": await metric_series(tx, *key, points=points)})
