"""A job's metrics as buckets for a chart: what a read costs does not grow with the number of points."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import RowMapping, select

from tapeworks.errors import ProblemCode
from tapeworks_service.database.clock import instant
from tapeworks_service.database.engine import Database, Transaction
from tapeworks_service.database.tables import jobs, metric_buckets, metric_series
from tapeworks_service.jobs.serializers import number
from tapeworks_service.problems import Problem, not_found
from tapeworks_service.queue.fence import lock
from tapeworks_service.queue.metric_buckets import (
    LEVELS,
    MOST_AT_ONCE,
    PORTION,
    Bucket,
    Changes,
    Series,
    SeriesOwner,
    build,
    changes_of,
    folded,
    points_between,
    series_of,
    stored_buckets,
    widened,
    width_of,
)

MOST_BUCKETS = 1000
_OF_ALL = 750
"""Buckets of an answer, of all its series: 64 kB."""
_TRIES = 20
_CATCH_UP_SECONDS = 5.0


@dataclass(frozen=True)
class Span:
    """What is asked for: at most `buckets` of each series, of these names (none: all), from a step to a step."""

    buckets: int
    names: tuple[str, ...] = ()
    from_step: int | None = None
    to_step: int | None = None


async def metric_curves(database: Database, project_id: str, job_id: str, span: Span) -> dict[str, Any]:
    """The JSON of `tapeworks.schemas.jobs.MetricSeriesList` with buckets. Raises 404, 503.

    The first buckets of a job of an earlier version are made here, from all its points.
    """
    for _ in range(_TRIES):
        async with database.read() as tx:
            row = await _job(tx, project_id, job_id)
            if row["metric_seq"] - row["metric_built"] <= 2 * PORTION:
                curves = await _read(tx, row, span)
                if (await _job(tx, project_id, job_id))["metric_built"] == row["metric_built"]:
                    return curves
                continue  # stored buckets changed meanwhile, and the points were added to them twice
        await _catch_up(database, job_id)
    raise Problem(ProblemCode.UNAVAILABLE, "the job reports faster than its curves can be read")


async def _job(tx: Transaction, project_id: str, job_id: str) -> RowMapping:
    of = jobs.c
    columns = (of.project_id, of.id, of.metric_seq, of.metric_built, of.created_at)
    row = await tx.one(select(*columns).where(of.project_id == project_id, of.id == job_id))
    if row is None:
        raise not_found("job", job_id)
    return row


async def _catch_up(database: Database, job_id: str) -> None:
    """Store the buckets of all points, in transactions of a moment each: the job's reports come in between.

    Raises 503 where that takes long: the next request continues from there.
    """
    until = time.monotonic() + _CATCH_UP_SECONDS
    while True:
        async with database.write() as tx:
            row = await lock(tx, job_id)
            behind = row["metric_seq"] - row["metric_built"]
            if behind > 0:
                await build(tx, row, row["metric_built"] + min(behind, MOST_AT_ONCE))
        if behind <= MOST_AT_ONCE:
            return
        if time.monotonic() > until:
            detail = f"the curves of this job's first {row['metric_seq']} points are being made: {behind} are left"
            raise Problem(ProblemCode.UNAVAILABLE, detail, hint="Send it again: it continues from there.")
        await asyncio.sleep(0)


async def _read(tx: Transaction, row: RowMapping, span: Span) -> dict[str, Any]:
    owner, upto = SeriesOwner(row["project_id"], row["id"]), int(row["metric_seq"])
    unbuilt = Changes()
    if upto > row["metric_built"]:
        unbuilt = await changes_of(tx, owner, row["metric_built"], upto)
    named = (metric_series.c.name.in_(span.names),) if span.names else ()
    known = await series_of(tx, owner, *named)
    known.update({name: one for name, one in unbuilt.series.items() if not span.names or name in span.names})
    most = max(2, min(span.buckets, _OF_ALL // max(1, len(known))))
    data = []
    for name in sorted(known):
        series = known[name]
        width, found = await _buckets(tx, owner, unbuilt, name, series, span, most, upto)
        data.append(
            {
                "name": name, "width": width, "low_step": series.low_step, "high_step": series.high_step,
                "buckets": [_document(one, row["created_at"]) for one in found],
            }
        )  # fmt: skip
    return {"data": data, "seq": upto, "origin": instant(row["created_at"])}


async def _buckets(
    tx: Transaction, owner: SeriesOwner, unbuilt: Changes, name: str, series: Series, span: Span, most: int, upto: int
) -> tuple[int, list[Bucket]]:
    """A series' buckets and how many steps each is wide."""
    low = series.low_step if span.from_step is None else max(series.low_step, span.from_step)
    high = series.high_step if span.to_step is None else min(series.high_step, span.to_step)
    if low > high:
        return 1, []
    level, width = _fitting(series, low, high, most)
    within = (low // width * width, high // width * width + width - 1)
    if level is None:
        points = await points_between(tx, owner, name, *within, upto)
        return width, list(folded(points, width).values())
    lower = width_of(series, level)
    first, last = within[0] // lower, within[1] // lower
    of = metric_buckets.c.number
    stored = await stored_buckets(tx, owner, name, level, of >= first, of <= last)
    for (other, at_level, place), one in unbuilt.buckets.items():
        if other == name and at_level == level and first <= place <= last:
            stored[place] = one
    return width, list(widened(dict(sorted(stored.items())), width // lower).values())


def _fitting(series: Series, low: int, high: int, most: int) -> tuple[int | None, int]:
    """The level to read (None: the points) and the width to merge to, so that there are at most so many buckets.

    A level is read that is up to twice as wide as needed, so that at most four times as many rows are read as returned.
    """
    needed = max(1, -(-(high - low) // (most - 1)))
    level: int | None = next((one for one in range(LEVELS) if 2 * width_of(series, one) > needed), LEVELS - 1)
    if 2 * needed <= series.width:
        level = None
    unit = 1 if level is None else width_of(series, level)
    return level, -(-needed // unit) * unit


def _document(one: Bucket, origin: float) -> list[Any]:
    low, high, last = (_short(value) for value in (one.low, one.high, one.last))
    shown = "NaN" if one.last is None else number(last)
    return [one.first_step, one.last_step, one.count, low, high, shown, one.nans, one.infinities, _seconds(one, origin)]


def _short(value: float | None) -> float | None:
    """Seven digits, as many as a float32 has."""
    return None if value is None else float(f"{value:.7g}")


def _seconds(one: Bucket, origin: float) -> float:
    return round(one.at - origin, 2)
