"""Queries over many jobs: lists with filters, and metric series."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import RowMapping, func, select

from tapeworks_service.database.clock import instant
from tapeworks_service.database.engine import Transaction
from tapeworks_service.database.tables import job_labels, jobs, metric_points
from tapeworks_service.jobs.bodies import GLANCE
from tapeworks_service.jobs.document import number
from tapeworks_service.problems import invalid_value

_FETCH_ROWS = 2_000


@dataclass(frozen=True)
class Filters:
    """What a list is narrowed to."""

    states: Sequence[str] = ()
    kind: str = "train"
    labels: Sequence[tuple[str, str]] = ()
    name: str | None = None
    created_after: float | None = None


def encode_cursor(queue_seq: int) -> str:
    """An opaque word for a place in the list."""
    return base64.urlsafe_b64encode(f"jobs:{queue_seq}".encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> int:
    """The place. Raises 422."""
    try:
        kind, _, value = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().partition(":")
    except ValueError:
        kind, value = "", ""
    if kind != "jobs" or not value.isascii() or not value.isdigit() or len(value) > 18:
        raise invalid_value("/after", "after is not a cursor of this list", "Use the `next` of the page before.")
    return int(value)


async def list_jobs(
    tx: Transaction, project_id: str, filters: Filters, *, before: int | None, limit: int
) -> list[RowMapping]:
    """A glance at a project's jobs, newest first, up to limit + 1 of them."""
    statement = select(*GLANCE, jobs.c.queue_seq).where(jobs.c.project_id == project_id, jobs.c.kind == filters.kind)
    if filters.states:
        statement = statement.where(jobs.c.state.in_(filters.states))
    if filters.name is not None:
        statement = statement.where(jobs.c.name == filters.name)
    if filters.created_after is not None:
        statement = statement.where(jobs.c.created_at > filters.created_after)
    for name, value in filters.labels:
        marked = select(job_labels.c.job_id).where(
            job_labels.c.project_id == project_id, job_labels.c.name == name, job_labels.c.value == value
        )
        statement = statement.where(jobs.c.id.in_(marked))
    if before is not None:
        statement = statement.where(jobs.c.queue_seq < before)
    return await tx.all(statement.order_by(jobs.c.queue_seq.desc()).limit(limit + 1))


async def metric_series(tx: Transaction, project_id: str, job_id: str, *, points: int | None) -> list[dict[str, Any]]:
    """Each metric's points in order of step, the newest attempt's for each step; thinned to `points`, last one kept."""
    own = (metric_points.c.project_id == project_id, metric_points.c.job_id == job_id)
    names = select(metric_points.c.name, func.count(metric_points.c.step.distinct()).label("steps"))
    series = []
    for row in await tx.all(names.where(*own).group_by(metric_points.c.name).order_by(metric_points.c.name)):
        wanted = _thinned(row["steps"], points)
        series.append({"name": row["name"], "points": await _points(tx, own, row["name"], wanted)})
    return series


def _thinned(total: int, points: int | None) -> set[int] | None:
    """The positions of the points to keep; None keeps all."""
    if points is None or total <= points:
        return None
    if points == 1:
        return {total - 1}
    return {round(index * (total - 1) / (points - 1)) for index in range(points)}


async def _points(tx: Transaction, own: tuple[Any, ...], name: str, wanted: set[int] | None) -> list[list[Any]]:
    columns = (metric_points.c.step, metric_points.c.value, metric_points.c.at)
    newest_last = (metric_points.c.step, metric_points.c.attempt.desc(), metric_points.c.seq.desc())
    statement = select(*columns).where(*own, metric_points.c.name == name).order_by(*newest_last)
    kept: list[list[Any]] = []
    position, last_step = -1, None
    async with tx.connection.stream(statement) as rows:
        async for part in rows.partitions(_FETCH_ROWS):
            for step, value, at in part:
                if step == last_step:
                    continue  # an earlier attempt's
                last_step, position = step, position + 1
                if wanted is None or position in wanted:
                    kept.append([step, number(value), instant(at)])
            await asyncio.sleep(0)  # a million points take seconds: others have their turn
    return kept
