"""Whose turn it is: which queued job goes next, and in which round a new one has its turn.

A job that waits for others is in no round and at no index head until the last of them has ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import RowMapping, bindparam, func, or_, select, true

from tapeworks.schemas.jobs import State
from tapeworks_service.catalogue.catalogue import ComponentKey
from tapeworks_service.database.engine import Transaction
from tapeworks_service.database.tables import fits, jobs
from tapeworks_service.queue.requirements import Requirements
from tapeworks_service.workers.repository import WorkerRow

_TOGETHER = 16
"""So many may claim at the same moment without one of them finding nothing."""
_MOST_KNOWN = 100_000
_MOST_PROPERTIES = 64
_AT_ONCE = 1_000
_READY = (jobs.c.state == State.QUEUED.value, jobs.c.waiting == 0)
# Of each submit: to put a statement together takes longer than to execute it.
_OF_PRIORITY = (*_READY, jobs.c.priority == bindparam("priority"))
_LAST_OF_PROJECT = select(func.max(jobs.c.fair_rank)).where(jobs.c.project_id == bindparam("project"), *_OF_PRIORITY)
_CURRENT = select(func.min(jobs.c.fair_rank)).where(*_OF_PRIORITY)
_SAME_FIT = (
    select(_LAST_OF_PROJECT.scalar_subquery().label("last"))
    .select_from(fits)
    .where(fits.c.fit_key == bindparam("key"))
    .with_for_update(read=True, key_share=True, of=fits)
)


async def join_queue(tx: Transaction, needs: Requirements, project_id: str, priority: int) -> int:
    """A new job's round; what its fit key stands for is kept, and locked, so that no sweep takes it before the job.

    Those who submit jobs of the same needs do not wait for each other: what is there is not written again.
    """
    same = await tx.one(_SAME_FIT, {"key": needs.fit_key, "project": project_id, "priority": priority})
    if same is None:
        statement = tx.insert(fits).values(fit_key=needs.fit_key, needs=needs.document())
        # Not the key: SQLite would look through all jobs for those that refer to it.
        values = {"needs": statement.excluded.needs}
        await tx.execute(statement.on_conflict_do_update(index_elements=["fit_key"], set_=values))
        return await fair_rank(tx, project_id, priority)
    return await _after(tx, same["last"], priority)


async def fair_rank(tx: Transaction, project_id: str, priority: int) -> int:
    """The round in which a project's next job of a priority has its turn: one job of each project a round."""
    last = (await tx.execute(_LAST_OF_PROJECT, {"project": project_id, "priority": priority})).scalar_one()
    return await _after(tx, last, priority)


async def _after(tx: Transaction, last: int | None, priority: int) -> int:
    """The round after the project's last one; the current one where it has none."""
    if last is not None:
        return int(last) + 1
    current = (await tx.execute(_CURRENT, {"priority": priority})).scalar_one()
    return int(current or 0)


class RequirementsCache:
    """What fit keys stand for, and which of the queued ones workers suit.

    A key is a hash of its needs, so what is known of it never changes; nor does whether a worker of the same
    properties satisfies it. A claim beside ten thousand different needs then asks the database for their keys only.
    """

    def __init__(self) -> None:
        self._known: dict[str, Requirements] = {}
        self._verdicts: dict[str, dict[str, bool]] = {}

    async def suitable(
        self, tx: Transaction, worker: WorkerRow, components: frozenset[ComponentKey]
    ) -> list[tuple[str, Requirements]]:
        """What those of the queued jobs need that the worker can take when idle, once for each different need."""
        keys = await self._queued(tx)
        earlier = self._verdicts.pop(worker.properties, {})
        verdicts = {key: earlier[key] if key in earlier else self._suits(key, worker, components) for key in keys}
        self._verdicts[worker.properties] = verdicts  # the last asked comes last
        while len(self._verdicts) > _MOST_PROPERTIES:
            del self._verdicts[next(iter(self._verdicts))]
        return [(key, self._known[key]) for key, suits in verdicts.items() if suits]

    def _suits(self, key: str, worker: WorkerRow, components: frozenset[ComponentKey]) -> bool:
        return self._known[key].unmet(worker, components) is None

    async def _queued(self, tx: Transaction) -> list[str]:
        """The fit keys of queued jobs; what they stand for is known then."""
        ready = select(jobs.c.queue_seq).where(*_READY, jobs.c.fit_key == fits.c.fit_key)
        keys: list[str] = list((await tx.execute(select(fits.c.fit_key).where(ready.exists()))).scalars())
        new = [key for key in keys if key not in self._known]
        if len(self._known) + len(new) > _MOST_KNOWN:
            self._known.clear()
            new = keys
        for at in range(0, len(new), _AT_ONCE):
            for row in await tx.all(select(fits).where(fits.c.fit_key.in_(new[at : at + _AT_ONCE]))):
                self._known[row["fit_key"]] = Requirements.from_document(row["needs"])
        return [key for key in keys if key in self._known]


async def next_job(tx: Transaction, fit_keys: Sequence[str], now: float) -> RowMapping | None:
    """The job whose turn it is among the needs, locked: the first of each key by the claim's index, then the best.

    They are looked up before the row is: in one statement, either database's planner may go through the whole queue in
    the order of turns. On PostgreSQL several instances claim at once, so a few of each key are looked at.
    """
    first = (
        select(jobs.c.queue_seq, jobs.c.priority, jobs.c.fair_rank)
        .where(*_READY, jobs.c.fit_key == fits.c.fit_key, or_(jobs.c.not_before.is_(None), jobs.c.not_before <= now))
        .order_by(*_turn(jobs.c))
        .correlate(fits)
    )
    few: Any
    if tx.on_postgresql:
        few, of_key, most = first.limit(_TOGETHER).lateral(), true(), _TOGETHER
    else:
        few, most = jobs.alias("head"), 1
        of_key = few.c.queue_seq == first.with_only_columns(jobs.c.queue_seq).limit(1).scalar_subquery()
    heads = select(few.c.queue_seq).select_from(fits.join(few, of_key)).where(fits.c.fit_key.in_(fit_keys))
    for chosen in await tx.all(heads.order_by(*_turn(few.c)).limit(most)):
        by_key = select(jobs).where(jobs.c.queue_seq == chosen["queue_seq"])
        row = await tx.one(by_key.with_for_update(skip_locked=True))
        if row is not None and row["state"] == State.QUEUED.value and row["waiting"] == 0:
            return row  # nobody holds it, or took it since
    return None


def _turn(columns: Any) -> tuple[Any, ...]:
    return columns.priority.desc(), columns.fair_rank, columns.queue_seq
