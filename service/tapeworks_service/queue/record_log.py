"""Appends to a job's numbered streams: events, log lines, metric points.

Numbers are given in the transaction that holds the job's row, so no reader can see n+1 before n.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import insert

from tapeworks_service.database.engine import Transaction
from tapeworks_service.database.tables import events, logs, metric_points

_INSERT_ROWS = 500
_INSERTS = {table.name: insert(table) for table in (events, logs, metric_points)}


@dataclass(frozen=True)
class NewEvent:
    """An event before it has its number."""

    type: str
    data: dict[str, Any] = field(default_factory=dict)
    at: float | None = None
    """None: the transaction's time."""


@dataclass(frozen=True)
class NewLine:
    """A log line before it has its number."""

    at: float
    stream: str
    text: str


@dataclass(frozen=True)
class NewPoint:
    """A metric's value before it has its number."""

    at: float
    name: str
    step: int
    value: float


@dataclass(frozen=True)
class RecordOwner:
    """The attempt that the entries are of."""

    project_id: str
    job_id: str
    attempt: int

    def columns(self) -> dict[str, Any]:
        """The owner as columns."""
        return {"project_id": self.project_id, "job_id": self.job_id, "attempt": self.attempt}


async def append_events(tx: Transaction, owner: RecordOwner, first: int, new: Sequence[NewEvent]) -> None:
    """Write events under the numbers first, first+1, …: the caller advanced the row's counter."""
    now = await tx.now()
    rows = [
        {**owner.columns(), "seq": first + offset, "at": now if one.at is None else one.at,
         "type": one.type[:64], "data": one.data}
        for offset, one in enumerate(new)
    ]  # fmt: skip
    await _insert(tx, events, rows)


async def append_lines(tx: Transaction, owner: RecordOwner, first: int, new: Sequence[NewLine]) -> None:
    """Write log lines under the numbers first, first+1, …"""
    rows = [
        {**owner.columns(), "seq": first + offset, "at": one.at, "stream": one.stream, "text": one.text}
        for offset, one in enumerate(new)
    ]
    await _insert(tx, logs, rows)


async def append_points(tx: Transaction, owner: RecordOwner, first: int, new: Sequence[NewPoint]) -> None:
    """Write metric points under the numbers first, first+1, …"""
    rows = [
        {**owner.columns(), "seq": first + offset, "at": one.at, "name": one.name[:200], "step": one.step,
         "value": None if math.isnan(one.value) else one.value}
        for offset, one in enumerate(new)
    ]  # fmt: skip
    await _insert(tx, metric_points, rows)


async def _insert(tx: Transaction, table: Any, rows: list[dict[str, Any]]) -> None:
    for start in range(0, len(rows), _INSERT_ROWS):
        await tx.execute(_INSERTS[table.name], rows[start : start + _INSERT_ROWS])
