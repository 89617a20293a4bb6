"""Steps of the wall clock by which rows are dated: found by comparison with the monotonic clock, and made good.

The wall clock is the database's: that of this machine for SQLite, of the server for PostgreSQL. Where it is set while
jobs run, the instants that are compared with it later are moved along: when jobs began (their time limits), until when
they pause, when workers were last heard of. What was dated after the step stays. Several services on one database see
the same step; the first of them moves the rows.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from sqlalchemy import Column, Table, and_, not_, select, update

from tapeworks.schemas.jobs import FINAL, State
from tapeworks_service.database.engine import Transaction
from tapeworks_service.database.tables import installation, jobs, workers

TOLERATED_SECONDS = 1.0
"""A step up to this size changes nothing that matters, and clocks drift."""
_ROW = "clock_step"
_SETTLED = [state.value for state in (*FINAL, State.PAUSED)]
"""Of a paused job the limit is extended by the pause, as the wall clock measures it: a step is part of that."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class ClockStep:
    """A step that the rows do not know of yet."""

    seconds: float
    """Forward, or negative."""
    within: float
    """It happened in the last seconds, so many."""


class ClockWatch:
    """Compares the database's clock with this process's monotonic one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._offset: float | None = None
        self._seen_at = 0.0

    async def step(self, tx: Transaction) -> ClockStep | None:
        """The step since the last one that was accounted for. To be asked before anything else of a transaction."""
        before = self._clock()
        now = await tx.now()
        after = self._clock()
        low, high = now - after, now - before  # the query may have been long on its way
        if self._offset is None:
            self._offset = low
        nearest = min(max(self._offset, low), high)
        seconds = nearest - self._offset
        if abs(seconds) > TOLERATED_SECONDS:
            return ClockStep(seconds, after - self._seen_at)
        self._offset, self._seen_at = nearest, after
        return None

    def accounted(self, step: ClockStep) -> None:
        """The rows know of it."""
        self._offset = (self._offset or 0.0) + step.seconds
        self._seen_at = self._clock()


async def move_rows(tx: Transaction, step: ClockStep, *, longest_pause: float, lease_seconds: float) -> None:
    """Move the instants of rows by a step, unless another service did."""
    await tx.alone("clock step")
    now = await tx.now()
    since = now - step.within - TOLERATED_SECONDS
    known = await tx.one(select(installation.c.value).where(installation.c.name == _ROW))
    if known is not None:
        last_step = json.loads(known["value"])
        if since <= last_step["at"] <= now and abs(last_step["seconds"] - step.seconds) < 2 * TOLERATED_SECONDS:
            return
    log.warning("clock_stepped", seconds=round(step.seconds, 3))
    running = jobs.c.state.not_in(_SETTLED)
    await _move(tx, jobs, jobs.c.started_at, step, since, now, running)
    await _move(tx, jobs, jobs.c.not_before, step, since, now + longest_pause, running)
    await _move(tx, jobs, jobs.c.lease_expires_at, step, since, now + lease_seconds, running)
    await _move(tx, workers, workers.c.heartbeat_at, step, since, now)
    value = json.dumps({"at": now, "seconds": step.seconds}).encode()
    noted = tx.insert(installation).values(name=_ROW, value=value)
    await tx.execute(noted.on_conflict_do_update(index_elements=["name"], set_={"value": value}))


async def _move(
    tx: Transaction, table: Table, column: Column[float], step: ClockStep, since: float, until: float, *only: object
) -> None:
    """Move a column's instants; those that may have been written after the step, from `since` to `until`, stay."""
    new = column.between(since, until)
    wanted = and_(column.is_not(None), not_(new), *only)  # type: ignore[arg-type]
    await tx.execute(update(table).where(wanted).values({column: column + step.seconds}))


async def end_impossible_pauses(tx: Transaction, *, longest_pause: float) -> None:
    """At start: pauses that end later than any pause may were dated by a clock that was ahead then."""
    now = await tx.now()
    late = and_(jobs.c.not_before > now + longest_pause, jobs.c.state == State.QUEUED.value)
    await tx.execute(update(jobs).where(late).values(not_before=None))
