"""Queries over many jobs: lists with filters, and metric series."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, RowMapping, func, literal, select

from tapeworks_service.database.clock import instant
from tapeworks_service.database.engine import Transaction
from tapeworks_service.database.tables import job_labels, jobs, metric_points
from tapeworks_service.jobs.response_cache import GLANCE
from tapeworks_service.jobs.serializers import number

Where = tuple[ColumnElement[bool], ...]

_FETCH_ROWS = 2_000
MOST_OF_PREFIX = 200
"""Jobs that a prefix of an id can find: the newest."""


@dataclass(frozen=True)
class Filters:
    """What a list is narrowed to."""

    states: Sequence[str] = ()
    kind: str = "train"
    labels: Sequence[tuple[str, str]] = ()
    name: str | None = None
    created_after: float | None = None
    id_prefix: str | None = None
    owner: str | None = None


async def list_jobs(
    tx: Transaction, project_id: str, filters: Filters, *, before: int | None, limit: int
) -> list[RowMapping]:
    """A glance at a project's jobs, newest first, up to limit + 1 of them."""
    statement = select(*GLANCE, jobs.c.queue_seq).where(jobs.c.project_id == project_id, jobs.c.kind == filters.kind)
    if filters.states:
        statement = statement.where(jobs.c.state.in_(filters.states))
    if filters.name is not None:
        statement = statement.where(jobs.c.name == filters.name)
    if filters.owner is not None:
        statement = statement.where(jobs.c.owner == filters.owner)
    if filters.created_after is not None:
        statement = statement.where(jobs.c.created_at > filters.created_after)
    for name, value in filters.labels:
        marked = select(job_labels.c.job_id).where(
            job_labels.c.project_id == project_id, job_labels.c.name == name, job_labels.c.value == value
        )
        statement = statement.where(jobs.c.id.in_(marked))
    if filters.id_prefix is not None:
        statement = statement.where(jobs.c.id.in_(await _ids_with_prefix(tx, project_id, filters.id_prefix)))
    if before is not None:
        statement = statement.where(jobs.c.queue_seq < before)
    return await tx.all(statement.order_by(jobs.c.queue_seq.desc()).limit(limit + 1))


async def _ids_with_prefix(tx: Transaction, project_id: str, prefix: str) -> list[str]:
    """Ids of the newest jobs whose id begins so: read from the index, whatever else the project holds.

    `prefix` is one of hexadecimal ids: 'g' sorts after all that may follow it."""
    begins = (jobs.c.project_id == project_id, jobs.c.id >= prefix, jobs.c.id < prefix + "g")
    newest = select(jobs.c.id).where(*begins).order_by(jobs.c.id.desc()).limit(MOST_OF_PREFIX)
    return list((await tx.execute(newest)).scalars())


async def metric_series(tx: Transaction, project_id: str, job_id: str, *, points: int | None) -> list[dict[str, Any]]:
    """Each metric's points in order of step, the newest attempt's for each step.

    `points`: of a metric with more, at most so many, at steps as evenly spread as there are; the last one is kept. They
    are sought in the index one by one: a page of a job with a million points costs what one of a thousand does.
    """
    own = (metric_points.c.project_id == project_id, metric_points.c.job_id == job_id)
    series = []
    name = await _name_after(tx, own, "")
    while name is not None:
        named = (*own, metric_points.c.name == name)
        wanted = named if points is None else (*named, *await _thinned(tx, named, points))
        series.append({"name": name, "points": await _points(tx, wanted)})
        name = await _name_after(tx, own, name)
    return series


async def _name_after(tx: Transaction, own: Where, name: str) -> str | None:
    following = select(func.min(metric_points.c.name)).where(*own, metric_points.c.name > name)
    found: str | None = (await tx.execute(following)).scalar_one()
    return found


async def _thinned(tx: Transaction, named: Where, points: int) -> Where:
    """Which steps to keep, where there are more than `points`."""
    step = metric_points.c.step
    first = select(step).where(*named).distinct().order_by(step).limit(points + 1).subquery()
    count, low = tuple((await tx.execute(select(func.count(), func.min(first.c.step)))).one())
    if count <= points:
        return ()
    high = (await tx.execute(select(func.max(step)).where(*named))).scalar_one()
    numbers = select(literal(0, BigInteger).label("n")).cte("numbers", recursive=True)
    numbers = numbers.union_all(select(numbers.c.n + 1).where(numbers.c.n + 1 < points))
    place = high - numbers.c.n * (high - low) // max(1, points - 1)
    sought = select(func.min(step)).where(*named, step >= place).correlate(numbers).scalar_subquery()
    return (step.in_(select(sought).select_from(numbers)),)


async def _points(tx: Transaction, wanted: Where) -> list[list[Any]]:
    columns = (metric_points.c.step, metric_points.c.value, metric_points.c.at)
    newest_first = (metric_points.c.step, metric_points.c.attempt.desc(), metric_points.c.seq.desc())
    kept: list[list[Any]] = []
    async with tx.connection.stream(select(*columns).where(*wanted).order_by(*newest_first)) as rows:
        async for part in rows.partitions(_FETCH_ROWS):
            for step, value, at in part:
                if not kept or step != kept[-1][0]:  # else it is an earlier attempt's
                    kept.append([step, number(value), instant(at)])
            await asyncio.sleep(0)  # a million points take seconds: others have their turn
    return kept
