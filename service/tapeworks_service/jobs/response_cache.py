"""Job objects as they go out, kept: a job that did not change is sent as it was sent before.

What a job shows moves on with its revision, but for why a queued job waits, which is part of the key here. Only what a
reading transaction saw is kept: a revision that is rolled back is given again.
"""

from __future__ import annotations

from collections import OrderedDict

from sqlalchemy import RowMapping

from tapeworks_service.database.tables import jobs
from tapeworks_service.encoding import encoded
from tapeworks_service.jobs.serializers import job_document
from tapeworks_service.single_flight import SingleFlight

_MOST_BYTES = 32 << 20

GLANCE = (jobs.c.id, jobs.c.project_id, jobs.c.revision, jobs.c.state, jobs.c.fit_key)
"""What says whether a job's object is known."""

Key = tuple[str, int, str | None]
"""A job's id, its revision, and why it waits."""


class JobCache:
    """JSON of job objects; those that were not asked for the longest go where there is no room."""

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._bodies: OrderedDict[Key, bytes] = OrderedDict()
        self._bytes, self._most = 0, most_bytes
        self.making: SingleFlight[tuple[str, str, int], tuple[bytes, Key]] = SingleFlight()
        """Those that are read, by project, job and the revision that somebody saw."""

    def get(self, key: Key) -> bytes | None:
        """What is kept under a key."""
        if (body := self._bodies.get(key)) is not None:
            self._bodies.move_to_end(key)
        return body

    def made(self, row: RowMapping, reason: str | None) -> bytes:
        """The object of a row that a reading transaction gave."""
        key = (row["id"], row["revision"], reason)
        if (known := self.get(key)) is not None:
            return known
        body = encoded(job_document(row, unschedulable=reason))
        self._bodies[key] = body
        self._bytes += len(body)
        while self._bytes > self._most and len(self._bodies) > 1:
            _, former = self._bodies.popitem(last=False)
            self._bytes -= len(former)
        return body
