"""A job's numbered records (events, log lines), by pages or as they happen.

`follow` reads server-sent events and goes on after a broken connection from the last number it saw
(`Last-Event-ID`), so that nothing is lost or repeated. It ends when the job has finished and its
last record was read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import httpx_sse

from tapeworks.client.connection import PATIENCE, Connection, decoded
from tapeworks.errors import ApiError, Unavailable
from tapeworks.schemas.jobs import Event, Job, LogLine, Page

PAGE = 200
QUIET_SECONDS = 60.0
"""A stream says something (a keep-alive at least) more often than this."""
OUTAGE_SECONDS = 60.0
"""How long a service may be away before a follower gives up."""
IDLE_SECONDS = 5

R = TypeVar("R", Event, LogLine)


def pages(connection: Connection, path: str, kind: type[R], *, after: int, patience: float = PATIENCE) -> Iterator[R]:
    """The records after a number that exist now."""
    while True:
        answer = connection.request("GET", path, params={"after": after, "limit": PAGE}, patience=patience)
        page: Page[R] = decoded(Page[kind], answer)  # type: ignore[valid-type]
        for record in page.data:
            if record.seq > after:
                after = record.seq
                yield record
        if not page.has_more or not page.data:
            return


def follow(connection: Connection, job_path: str, path: str, kind: type[R], *, after: int) -> Iterator[R]:
    """The records after a number, and those to come, until the job has finished."""
    revision: int | None = None
    while True:
        last = after
        for record in _stream(connection, path, kind, after=after):
            after = record.seq
            yield record
        # The stream ended or broke. First the state, then what is there: a finished job writes nothing
        # more, so what the pages hold after that is all there will be. A stream that gave nothing is not
        # asked again before the job has changed, or a while has passed.
        waiting = {"wait": IDLE_SECONDS, "unless": revision} if after == last and revision is not None else {}
        answer = connection.request("GET", job_path, params=waiting, wait=IDLE_SECONDS, patience=OUTAGE_SECONDS)
        job = decoded(Job, answer)
        revision = job.revision
        for record in pages(connection, path, kind, after=after, patience=OUTAGE_SECONDS):
            after = record.seq
            yield record
        if job.finished:
            return


def _stream(connection: Connection, path: str, kind: type[R], *, after: int) -> Iterator[R]:
    """Records of one connection, as long as it lasts."""
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-store", "Last-Event-ID": str(after)}
    try:
        with connection.stream(path, headers=headers, quiet=QUIET_SECONDS) as response:
            for message in httpx_sse.EventSource(response).iter_sse():
                if not message.data:
                    continue  # a keep-alive; the decoder repeats the last id with it
                record = kind.model_validate_json(message.data)
                if record.seq > after:
                    after = record.seq
                    yield record
    except Unavailable:
        return  # broken or away: the caller asks for the job, which waits for the service to return
    except httpx_sse.SSEError as error:
        raise ApiError(200, "invalid_answer", str(error)) from error
