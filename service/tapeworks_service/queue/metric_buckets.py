"""Buckets of metric points at several widths, kept beside the points: a curve of a million reads a few hundred rows.

A series has buckets of `LEVELS` widths: that of the lowest level holds about 8 to 16 points, each further one is four
times as wide. Bucket n of a width holds the steps n·width to (n+1)·width - 1, of each step the value that was reported
last. `jobs.metric_built` is the number of the last point that is in the stored buckets: an attempt's report brings them
up to date once `PORTION` points are not. Those who read add the rest to what they read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from sqlalchemy import RowMapping, Table, and_, or_, select, tuple_, update

from tapeworks_service.database.engine import Transaction
from tapeworks_service.database.tables import jobs, metric_buckets, metric_points, metric_series

PORTION = 1024
"""Points of a job that may wait outside the stored buckets."""
MOST_AT_ONCE = 8 * PORTION
LEVELS = 6
GROWTH = 4
_POINTS_IN_A_BUCKET = 8
_INFINITE = (math.inf, -math.inf)
_KEYS_IN_A_QUERY = 300
_STEPS = 2**63
"""A step is a whole number of 64 bits."""
_VALUES = ("first_step", "last_step", "count", "nans", "infinities", "low", "high", "last", "at")

Point = tuple[int, float | None, float]
"""Step, value (None for NaN) and time of a stored point."""
Key = tuple[str, int, int]
"""A bucket of a job: name of the metric, level, number."""


@dataclass(slots=True)
class Bucket:
    """Points of a range of steps. `low` and `high` are None without a finite value, `last` where it is NaN."""

    first_step: int
    last_step: int
    count: int
    nans: int
    infinities: int
    low: float | None
    high: float | None
    last: float | None
    at: float
    """When the last one was reported, in seconds since 1970."""

    def add(self, later: Bucket) -> None:
        """Take in a bucket of higher steps."""
        self.last_step, self.last, self.at = later.last_step, later.last, later.at
        self.count += later.count
        self.nans += later.nans
        self.infinities += later.infinities
        if later.low is not None and (self.low is None or later.low < self.low):
            self.low = later.low
        if later.high is not None and (self.high is None or later.high > self.high):
            self.high = later.high


@dataclass(slots=True)
class Series:
    """What is known of one metric's points. `width`: steps of a bucket of the lowest level."""

    width: int
    low_step: int
    high_step: int


@dataclass
class Changes:
    """The rows of `metric_series` and `metric_buckets` that a portion of points changes."""

    series: dict[str, Series] = field(default_factory=dict)
    buckets: dict[Key, Bucket] = field(default_factory=dict)


@dataclass(frozen=True)
class SeriesOwner:
    """The job that series are of."""

    project_id: str
    job_id: str

    def rows(self, table: Table) -> Any:
        """Its rows of a table."""
        return and_(table.c.project_id == self.project_id, table.c.job_id == self.job_id)


def folded(points: Iterable[Point], width: int) -> dict[int, Bucket]:
    """Points of rising steps as buckets, by number."""
    made: dict[int, Bucket] = {}
    place, held = None, None
    for step, value, at in points:
        number = step // width
        if held is None or number != place:
            held = made[number] = Bucket(step, step, 0, 0, 0, None, None, None, at)
            place = number
        held.last_step, held.last, held.at = step, value, at
        held.count += 1
        if value is None:
            held.nans += 1
        elif value in _INFINITE:
            held.infinities += 1
        else:
            if held.low is None or value < held.low:
                held.low = value
            if held.high is None or value > held.high:
                held.high = value
    return made


def width_of(series: Series, level: int) -> int:
    """Steps of a bucket of a level."""
    return series.width * int(GROWTH**level)


async def build(tx: Transaction, row: RowMapping, upto: int) -> None:
    """Bring the stored buckets up to date with a point's number. `row`: of the job, locked, as it is now."""
    owner, built = SeriesOwner(row["project_id"], row["id"]), int(row["metric_built"])
    while built < upto:
        end = min(upto, built + MOST_AT_ONCE)
        changes = await changes_of(tx, owner, built, end)
        key = {"project_id": owner.project_id, "job_id": owner.job_id}
        series = [
            {**key, "name": name, "width": one.width, "low_step": one.low_step, "high_step": one.high_step}
            for name, one in changes.series.items()
        ]
        buckets = [
            {**key, "name": name, "level": level, "number": number, **{part: getattr(one, part) for part in _VALUES}}
            for (name, level, number), one in changes.buckets.items()
        ]
        await _put(tx, metric_series, series)
        await _put(tx, metric_buckets, buckets)
        built = end
    await tx.execute(update(jobs).where(jobs.c.id == row["id"]).values(metric_built=built))


async def _put(tx: Transaction, table: Table, rows: list[dict[str, Any]]) -> None:
    statement = tx.insert(table)
    changed = {column.name: statement.excluded[column.name] for column in table.c if not column.primary_key}
    statement = statement.on_conflict_do_update(index_elements=list(table.primary_key), set_=changed)
    for start in range(0, len(rows), _KEYS_IN_A_QUERY):
        await tx.execute(statement, rows[start : start + _KEYS_IN_A_QUERY])


async def changes_of(tx: Transaction, owner: SeriesOwner, built: int, upto: int) -> Changes:
    """What the points built+1 … upto change of buckets that hold those up to `built`. Writes nothing."""
    changes = Changes()
    points = metric_points.c
    new = select(points.name, points.step, points.value, points.at).where(
        owner.rows(metric_points), points.seq > built, points.seq <= upto
    )
    by_name: dict[str, list[Point]] = {}
    rows: Any = (await tx.execute(new.order_by(points.seq))).all()
    for name, step, value, at in rows:
        by_name.setdefault(name, []).append((step, value, at))
    known = await _known_series(tx, owner, list(by_name))
    appended: dict[str, list[Point]] = {}
    replaced: dict[str, list[Point]] = {}
    for name, added in by_name.items():
        steps = [one[0] for one in added]
        series = known.get(name) or Series(_width(steps), steps[0], steps[0] - 1)
        follows = all(one < two for one, two in pairwise(steps))
        kind = appended if follows and steps[0] > series.high_step else replaced
        kind[name] = added
        lowest, highest = min(*steps, series.low_step), max(*steps, series.high_step)
        changes.series[name] = Series(series.width, lowest, highest)
    await _append(tx, owner, changes, appended, known)
    for name, added in replaced.items():
        await _replace(tx, owner, changes, name, {one[0] for one in added}, upto)
    return changes


async def _append(
    tx: Transaction, owner: SeriesOwner, changes: Changes, appended: dict[str, list[Point]], known: dict[str, Series]
) -> None:
    """Points after all that a series has: of each level they touch one stored bucket at most, its last."""
    first = {
        (name, level, added[0][0] // width_of(changes.series[name], level))
        for name, added in appended.items()
        if name in known
        for level in range(LEVELS)
    }
    stored = await _stored(tx, owner, first)
    for name, added in appended.items():
        made: dict[int, Bucket] = {}
        for level in range(LEVELS):
            made = widened(made, GROWTH) if level else folded(added, changes.series[name].width)
            for number, one in made.items():
                whole = stored.get((name, level, number))
                if whole is None:
                    whole = one
                else:
                    whole.add(one)
                changes.buckets[(name, level, number)] = whole


def widened(lower: dict[int, Bucket], times: int) -> dict[int, Bucket]:
    """Buckets of rising numbers, merged into buckets that are `times` as wide."""
    made: dict[int, Bucket] = {}
    for number, one in lower.items():
        held = made.get(number // times)
        if held is None:
            made[number // times] = replace(one)
        else:
            held.add(one)
    return made


async def _replace(
    tx: Transaction, owner: SeriesOwner, changes: Changes, name: str, steps: set[int], upto: int
) -> None:
    """Points at steps that a series has already, or between them: their buckets are rebuilt, level by level."""
    series = changes.series[name]
    numbers = {step // series.width for step in steps}
    made: dict[int, Bucket] = {}
    for low, high in _runs(numbers):
        within = (low * series.width, (high + 1) * series.width - 1)
        made.update(folded(await points_between(tx, owner, name, *within, upto), series.width))
    for level in range(LEVELS):
        if level:
            parents = {number // GROWTH for number in numbers}
            children = await _level(tx, owner, name, level - 1, parents)
            children.update(made)
            made, numbers = widened(dict(sorted(children.items())), GROWTH), parents
        changes.buckets.update({(name, level, number): one for number, one in made.items()})


def _runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Runs of whole numbers without a gap, as (first, last)."""
    runs: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1] = runs[-1][0], number
        else:
            runs.append((number, number))
    return runs


async def points_between(tx: Transaction, owner: SeriesOwner, name: str, low: int, high: int, upto: int) -> list[Point]:
    """The points at the steps low … high in their order, of each step the one reported last (up to a number)."""
    points = metric_points.c
    within = points.step.between(max(low, -_STEPS), min(high, _STEPS - 1))
    statement = select(points.step, points.value, points.at).where(
        owner.rows(metric_points), points.name == name, within, points.seq <= upto
    )
    found: list[Point] = []
    rows: Any = (await tx.execute(statement.order_by(points.step, points.attempt, points.seq))).all()
    for step, value, at in rows:
        if found and found[-1][0] == step:
            found.pop()
        found.append((step, value, at))
    return found


def _width(reported: Sequence[int]) -> int:
    """Of the lowest level's buckets: a power of two, by how far apart the first points are."""
    steps = sorted(set(reported))
    apart = min((two - one for one, two in pairwise(steps)), default=steps[0])
    return _POINTS_IN_A_BUCKET << (min(max(apart, 1), 1 << 40).bit_length() - 1)


async def _known_series(tx: Transaction, owner: SeriesOwner, names: list[str]) -> dict[str, Series]:
    known: dict[str, Series] = {}
    for start in range(0, len(names), _KEYS_IN_A_QUERY):
        some = names[start : start + _KEYS_IN_A_QUERY]
        known.update(await series_of(tx, owner, metric_series.c.name.in_(some)))
    return known


async def series_of(tx: Transaction, owner: SeriesOwner, *where: Any) -> dict[str, Series]:
    """The stored series of a job, by name."""
    rows = await tx.all(select(metric_series).where(owner.rows(metric_series), *where))
    return {row["name"]: Series(row["width"], row["low_step"], row["high_step"]) for row in rows}


async def _stored(tx: Transaction, owner: SeriesOwner, keys: set[Key]) -> dict[Key, Bucket]:
    of, ordered = metric_buckets.c, sorted(keys)
    found: dict[Key, Bucket] = {}
    for start in range(0, len(ordered), _KEYS_IN_A_QUERY):
        wanted = tuple_(of.name, of.level, of.number).in_(ordered[start : start + _KEYS_IN_A_QUERY])
        for row in await tx.all(select(metric_buckets).where(owner.rows(metric_buckets), wanted)):
            found[(row["name"], row["level"], row["number"])] = _bucket(row)
    return found


async def _level(tx: Transaction, owner: SeriesOwner, name: str, level: int, parents: set[int]) -> dict[int, Bucket]:
    """The stored buckets of a level below some numbers of the next one."""
    number, found = metric_buckets.c.number, dict[int, Bucket]()
    runs = _runs(parents)
    for start in range(0, len(runs), _KEYS_IN_A_QUERY):
        some = runs[start : start + _KEYS_IN_A_QUERY]
        within = or_(*(and_(number >= low * GROWTH, number < (high + 1) * GROWTH) for low, high in some))
        found.update(await stored_buckets(tx, owner, name, level, within))
    return found


async def stored_buckets(tx: Transaction, owner: SeriesOwner, name: str, level: int, *within: Any) -> dict[int, Bucket]:
    """The stored buckets of one level of a series, by number."""
    of = metric_buckets.c
    statement = select(of.number, *(of[part] for part in _VALUES)).where(
        owner.rows(metric_buckets), of.name == name, of.level == level, *within
    )
    rows: Any = (await tx.execute(statement)).all()
    return {number: Bucket(*values) for number, *values in rows}


def _bucket(row: RowMapping) -> Bucket:
    return Bucket(*(row[part] for part in _VALUES))
