"""Numbered streams of a job as pages or as server-sent events that resume without loss or repeat."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import structlog
from fastapi import Request
from fastapi.responses import Response
from sqlalchemy import RowMapping, Table, select
from sse_starlette import EventSourceResponse, ServerSentEvent

from tapeworks_service.api.messages import answer
from tapeworks_service.auth.callers import still_allowed
from tapeworks_service.context import Context
from tapeworks_service.database.engine import AWAY, Transaction
from tapeworks_service.database.shared_reads import KeyedQuery
from tapeworks_service.database.tables import events, jobs, logs, metric_points
from tapeworks_service.encoding import encoded
from tapeworks_service.jobs.serializers import FINISHED
from tapeworks_service.jobs.stream_tails import Place, StreamMessages
from tapeworks_service.problems import Problem, not_found
from tapeworks_service.wakeups import job_topic

Row = Callable[[RowMapping], dict[str, Any]]
STREAM_PAGE = 500
PING_SECONDS = 15
AWAY_SECONDS = 1.0

_COUNTER_OF = {events.name: "event_seq", logs.name: "log_seq", metric_points.name: "metric_seq"}
_COUNTERS = KeyedQuery(jobs.c.id, (jobs.c.id, jobs.c.state, jobs.c.event_seq, jobs.c.log_seq, jobs.c.metric_seq))

log = structlog.get_logger(__name__)


async def job_of(tx: Transaction, project_id: str, job_id: str) -> RowMapping:
    """The row of a project's job. Raises 404."""
    row = await tx.one(select(jobs).where(jobs.c.project_id == project_id, jobs.c.id == job_id))
    if row is None:
        raise not_found("job", job_id)
    return row


def wants_stream(request: Request) -> bool:
    """Whether the client asked for server-sent events."""
    return "text/event-stream" in request.headers.get("accept", "")


def resume_from(request: Request, after: int) -> int:
    """The number that the client has seen last: `Last-Event-ID` on a reconnect, else `?after=`."""
    last = request.headers.get("last-event-id", "").strip()
    return int(last) if last.isascii() and last.isdigit() and len(last) < 19 else after


async def entries(tx: Transaction, table: Table, key: tuple[str, str], *, after: int, limit: int) -> list[RowMapping]:
    """The rows of one (project, job) after a number, in order."""
    statement = select(table).where(table.c.project_id == key[0], table.c.job_id == key[1], table.c.seq > after)
    return await tx.all(statement.order_by(table.c.seq).limit(limit))


async def page_or_stream(
    request: Request, context: Context, table: Table, row: Row, key: tuple[str, str], *, after: int, limit: int
) -> Response:
    """The stream where the client asked for one, else a page. Raises 404."""
    if wants_stream(request):
        return await stream(request, context, table, row, key, after=resume_from(request, after))
    return await page(context, table, row, key, after=after, limit=limit)


async def page(context: Context, table: Table, row: Row, key: tuple[str, str], *, after: int, limit: int) -> Response:
    """One JSON page. Raises 404."""
    async with context.database.read() as tx:
        await job_of(tx, *key)
        rows = await entries(tx, table, key, after=after, limit=limit + 1)
    more = len(rows) > limit
    rows = rows[:limit]
    content = {"data": [row(one) for one in rows], "has_more": more, "next": str(rows[-1]["seq"]) if more else None}
    return answer(content)


async def stream(
    request: Request, context: Context, table: Table, row: Row, key: tuple[str, str], *, after: int
) -> Response:
    """Server-sent events until the job has finished and its last entry was sent, or the caller's key was revoked.

    Raises 404.
    """
    async with context.database.read() as tx:
        await job_of(tx, *key)
    return EventSourceResponse(
        _messages(request, context, table, row, key, after=after),
        ping=PING_SECONDS,
        headers={"Cache-Control": "no-store"},
    )


async def _messages(
    request: Request, context: Context, table: Table, row: Row, key: tuple[str, str], *, after: int
) -> AsyncIterator[ServerSentEvent]:
    with context.hub.listen(job_topic(key[1])) as listener:
        while not context.hub.closing:
            try:
                await still_allowed(request)
                state, messages = await _news(context, table, row, key, after=after)
            except Problem:
                return
            except AWAY as error:  # the stream is open: it goes on where it stood once the database is back
                log.warning("stream_waits_for_the_database", error=str(error))
                await listener.wait(AWAY_SECONDS)
                continue
            for after, text in messages:
                yield ServerSentEvent(text, id=str(after))
            if len(messages) == STREAM_PAGE:
                continue
            if state is None or state in FINISHED:
                return
            await listener.wait(min(context.database.poll_seconds, PING_SECONDS))


async def _news(
    context: Context, table: Table, row: Row, key: tuple[str, str], *, after: int
) -> tuple[str | None, list[tuple[int, str]]]:
    """The job's state, None where it is gone; and the entries after a number, as they are sent.

    Those who follow one job mostly stand at the same place: what one of them was sent is there for the others.
    """
    counters = await context.database.read_row(_COUNTERS, key[1])
    if counters is None:
        return None, []
    last = int(counters[_COUNTER_OF[table.name]])
    if last <= after:
        return counters["state"], []
    place = (table.name, *key, after, last)
    messages = context.tails.get(place)
    if messages is None:
        messages = await context.tails.reading.get(place, _read(context, table, row, place))
    return counters["state"], messages


async def _read(context: Context, table: Table, row: Row, place: Place) -> StreamMessages:
    _, project_id, job_id, after, _ = place
    async with context.database.read() as tx:
        rows = await entries(tx, table, (project_id, job_id), after=after, limit=STREAM_PAGE)
    messages = [(int(one["seq"]), encoded(row(one)).decode()) for one in rows]
    context.tails.put(place, messages)
    return messages
