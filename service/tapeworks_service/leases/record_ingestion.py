"""Takes in what an attempt reports (events, log lines, metric points, states, facts) and keeps a job from
ever seeming to go back: its (attempt, state, step) only grows.

A batch is one transaction under the job's row lock; records seen before are known by (attempt, index).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import RowMapping, update

from tapeworks.schemas.jobs import Progress
from tapeworks.schemas.report_limits import LIMITS, ReportLimits
from tapeworks.schemas.worker_protocol import EventRecord, FactsRecord, LogRecord, MetricRecord, Record, StateRecord
from tapeworks_service.database.engine import Transaction
from tapeworks_service.database.tables import jobs
from tapeworks_service.queue import queue
from tapeworks_service.queue.fence import Fence, lock_held
from tapeworks_service.queue.metric_buckets import MOST_AT_ONCE, PORTION, build
from tapeworks_service.queue.record_log import (
    NewEvent,
    NewLine,
    NewPoint,
    RecordOwner,
    append_events,
    append_lines,
    append_points,
)
from tapeworks_service.queue.report_quota import admit, check_events, exceeded
from tapeworks_service.wakeups import job_topic

_LONGEST_OFFSET_SECONDS = 7 * 86_400.0
_SERVICE_EVENTS = frozenset({"state", "requested", "attempt_failed"})
"""Written by the service alone: a worker's value for them could contradict the job."""
MERGED = ("best", "diagnostics", "lineage")


@dataclass
class _Batch:
    """What a run of records adds to a job, before the next state record or the end."""

    events: list[NewEvent] = field(default_factory=list)
    lines: list[NewLine] = field(default_factory=list)
    points: list[NewPoint] = field(default_factory=list)
    progress: dict[str, Any] | None = None
    document: dict[str, Any] = field(default_factory=dict)
    last: int = 0


async def store(tx: Transaction, fence: Fence, records: list[Record], limits: ReportLimits = LIMITS) -> int:
    """Store the records that are new and contiguous, within the limits. Returns the last index stored.

    Raises 403 `quota_exceeded`, 404, 409."""
    row = await lock_held(tx, fence)
    now = await tx.now()
    stored = int(row["record_index"])
    batch = _Batch(last=stored)
    for record in sorted(records, key=lambda one: one.index):
        if record.index <= batch.last:
            continue
        if record.index != batch.last + 1:
            break
        batch.last = record.index
        at = max(now - min(max(record.at_offset, 0.0), _LONGEST_OFFSET_SECONDS), row["started_at"] or now)
        if isinstance(record, StateRecord):
            check_events(row, limits, count=len(batch.events) + 1, size=len(record.message or ""))
            await _flush(tx, row, batch, limits)
            await queue.advance(tx, fence, record.state, phase=record.phase, message=record.message, at=at)
            row = await lock_held(tx, fence)
            batch = _Batch(last=record.index)
        else:
            _add(batch, record, row, at)
    if batch.last > limits.records:
        raise exceeded("records", batch.last, limits.records)
    await _flush(tx, row, batch, limits)
    return batch.last


def _add(
    batch: _Batch, record: EventRecord | LogRecord | MetricRecord | FactsRecord, row: RowMapping, at: float
) -> None:
    if isinstance(record, LogRecord):
        batch.lines.append(NewLine(at, record.stream, record.text))
    elif isinstance(record, MetricRecord):
        batch.points += [NewPoint(at, name, record.step, value) for name, value in record.values.items()]
        known = batch.document.get("metrics", row["document"].get("metrics", {}))
        batch.document["metrics"] = {**known, **record.model_dump(mode="json")["values"]}
    elif isinstance(record, FactsRecord):
        facts = record.model_dump(mode="json", exclude_unset=True)
        batch.document.update(merged_facts({**row["document"], **batch.document}, facts))
        if record.progress is not None:
            batch.progress = forward(batch.progress or row["progress"], record.progress)
    elif record.type not in _SERVICE_EVENTS:
        batch.events.append(NewEvent(record.type, dict(record.data), at))


def forward(known: Mapping[str, Any], reported: Progress) -> dict[str, Any]:
    """Progress that never goes back within an attempt: a claim sets the step to 0."""
    if reported.step < known.get("step", 0) or reported.epoch < known.get("epoch", 0):
        return dict(known)
    return {**known, **reported.model_dump(mode="json", exclude_none=True)}


def merged_facts(document: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """`best`, `diagnostics` and `lineage` merged into what is known of them."""
    changed: dict[str, Any] = {}
    for name in MERGED:
        value = facts.get(name)
        if isinstance(value, dict) and value:
            changed[name] = {**(document.get(name) or {}), **value} if name != "best" else value
    return changed


async def append(tx: Transaction, row: RowMapping, events: list[NewEvent], document: Mapping[str, Any]) -> None:
    """Events that the service itself tells of the job's attempt, and the fields of the object that they change."""
    batch = _Batch(events=events, document=dict(document), last=row["record_index"])
    await _flush(tx, row, batch)


async def _flush(tx: Transaction, row: RowMapping, batch: _Batch, limits: ReportLimits | None = None) -> None:
    """Write a batch under new numbers: the row is locked, so the counters as read are the newest.

    Without limits nothing is left out or refused."""
    nothing = not (batch.events or batch.lines or batch.points or batch.document or batch.progress)
    if nothing and batch.last == row["record_index"]:
        return
    counted: dict[str, Any] = {}
    if limits is not None:
        admitted = admit(
            row, limits, events=batch.events, lines=batch.lines, points=batch.points, document=batch.document
        )
        batch.events, batch.lines, batch.points = admitted.events, admitted.lines, admitted.points
        counted = {name: row[name] + added for name, added in admitted.added.items() if added}
    values: dict[str, Any] = {
        "event_seq": jobs.c.event_seq + len(batch.events),
        "log_seq": jobs.c.log_seq + len(batch.lines),
        "metric_seq": jobs.c.metric_seq + len(batch.points),
        "record_index": batch.last,
        **counted,
    }
    if batch.document:
        values["document"] = {**row["document"], **batch.document}
    if batch.progress is not None:
        values["progress"] = batch.progress
    if batch.document or batch.progress is not None or batch.events:
        values["revision"] = jobs.c.revision + 1
    changed = update(jobs).where(jobs.c.id == row["id"], jobs.c.attempt == row["attempt"]).values(values)
    numbered = changed.returning(jobs.c.event_seq, jobs.c.log_seq, jobs.c.metric_seq)
    events, lines, points = tuple((await tx.execute(numbered)).one())
    owner = RecordOwner(row["project_id"], row["id"], row["attempt"])
    await append_events(tx, owner, events - len(batch.events) + 1, batch.events)
    await append_lines(tx, owner, lines - len(batch.lines) + 1, batch.lines)
    await append_points(tx, owner, points - len(batch.points) + 1, batch.points)
    if points - row["metric_built"] >= PORTION:
        # All that this report adds, and a part of what older ones left: the rest never grows.
        await build(tx, row, min(points, row["metric_built"] + len(batch.points) + MOST_AT_ONCE))
    tx.wake(job_topic(row["id"]))
