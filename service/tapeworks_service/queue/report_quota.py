"""What a job may store of what its attempts report: `tapeworks.schemas.report_limits`, counted on the job's row.

The worker counts too, for each attempt; this holds where its lease token is in other hands. Lines and points beyond
their quota are left out and the job says so once; events beyond theirs are refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import RowMapping

from tapeworks.errors import FailureCode, ProblemCode
from tapeworks.schemas.report_limits import MAX_DOCUMENT_BYTES, MAX_METRIC_NAMES, ReportLimits
from tapeworks_service.problems import Problem
from tapeworks_service.queue.record_log import NewEvent, NewLine, NewPoint

Entry = TypeVar("Entry")
_FACTS = ("best", "diagnostics", "lineage")


@dataclass
class Admitted:
    """What is stored of a batch, and what it adds to the counters of the job."""

    events: list[NewEvent]
    lines: list[NewLine]
    points: list[NewPoint]
    added: dict[str, int]
    """Column of the job → bytes."""


def exceeded(what: str, used: int, limit: int) -> Problem:
    """403: the attempt must end."""
    return Problem(ProblemCode.QUOTA_EXCEEDED, f"the job exceeded its quota of {what}: {used} of {limit}")


def admit(
    row: RowMapping,
    limits: ReportLimits,
    *,
    events: Sequence[NewEvent],
    lines: Sequence[NewLine],
    points: Sequence[NewPoint],
    document: Mapping[str, Any],
) -> Admitted:
    """What a batch may add to a job. Raises 403 `quota_exceeded`."""
    _check_document(document)
    all_events = list(events)
    kept_points = _within(points, limits.points - row["metric_seq"], "metric points", all_events)
    sizes = [len(line.text.encode()) for line in lines]
    kept_lines = _within(lines, _lines_that_fit(row, limits, sizes), "log lines", all_events)
    size = sum(len(json.dumps(event.data)) for event in events)
    if events:
        check_events(row, limits, count=len(events), size=size)
    added = {"event_bytes": size, "log_bytes": sum(sizes[: len(kept_lines)])}
    return Admitted(all_events, kept_lines, kept_points, added)


def check_events(row: RowMapping, limits: ReportLimits, *, count: int, size: int = 0) -> None:
    """Raises 403 `quota_exceeded` where so many events more are too many, or too large."""
    if row["event_seq"] + count > limits.events:
        raise exceeded("events", row["event_seq"] + count, limits.events)
    if row["event_bytes"] + size > limits.event_bytes:
        raise exceeded("event bytes", row["event_bytes"] + size, limits.event_bytes)


def _lines_that_fit(row: RowMapping, limits: ReportLimits, sizes: Sequence[int]) -> int:
    """How many of the lines, from the first one; what does not fit once fits never again, so that no line is late."""
    left, fit = limits.log_bytes - row["log_bytes"], 0
    for size in sizes:
        left -= size
        if left < 0:
            break
        fit += 1
    return min(fit, limits.log_lines - int(row["log_seq"]))


def _within(entries: Sequence[Entry], room: int, what: str, events: list[NewEvent]) -> list[Entry]:
    """The entries that there is room for; the first time that some are left out, the job says so."""
    kept = list(entries[: max(0, room)])
    if kept and len(kept) < len(entries):
        message = f"the job has used up its quota of {what}: further ones are dropped, the job continues"
        events.append(NewEvent("diagnostic", {"code": FailureCode.QUOTA_EXCEEDED.value, "message": message}))
    return kept


def _check_document(document: Mapping[str, Any]) -> None:
    facts = {name: document[name] for name in _FACTS if name in document}
    if facts and (size := len(json.dumps(facts))) > MAX_DOCUMENT_BYTES:
        raise exceeded("bytes of best, diagnostics and lineage", size, MAX_DOCUMENT_BYTES)
    if (names := len(document.get("metrics", ()))) > MAX_METRIC_NAMES:
        raise exceeded("metric names", names, MAX_METRIC_NAMES)
