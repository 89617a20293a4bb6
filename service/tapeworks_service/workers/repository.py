"""The rows of workers: registered, live or lost."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import RowMapping, select, update

from tapeworks.schemas.jobs import HELD
from tapeworks.schemas.worker_protocol import cpus_held
from tapeworks_service.database.engine import Transaction
from tapeworks_service.database.tables import jobs, workers

KNOWN_SECONDS = 1.0
IS_HELD = jobs.c.state.in_([state.value for state in HELD])
"""A worker has the job."""


@dataclass(frozen=True)
class WorkerRow:
    """A worker machine as it registered."""

    id: str
    devices: list[dict[str, Any]]
    labels: dict[str, str]
    versions: dict[str, str]
    cpus: int
    memory_bytes: int | None
    catalogue_digest: str
    packages: bool
    sandbox: dict[str, str]
    draining: bool
    registered_at: float
    heartbeat_at: float
    lost: bool
    """Not heard of for so long that its leases lapse."""

    @property
    def properties(self) -> str:
        """Everything that decides which jobs it can take when idle."""
        values = (self.devices, self.labels, self.cpus, self.memory_bytes, self.catalogue_digest, self.packages)
        return json.dumps(values, sort_keys=True)

    @property
    def gpus(self) -> list[dict[str, Any]]:
        """Its devices of kind gpu."""
        return [device for device in self.devices if device["kind"] == "gpu"]

    @property
    def cpu_slots(self) -> int:
        """How many jobs that do not say how many cores they need it takes on the CPU at once."""
        return sum(device["kind"] == "cpu" for device in self.devices)

    def cpus_for(self, wanted: int | None) -> int:
        """The cores that a job on the CPU holds there: so many, or a slot's share of them."""
        return cpus_held(wanted, cpus=self.cpus, slots=self.cpu_slots)


def _row(row: RowMapping, *, now: float, lost_after: float) -> WorkerRow:
    silent = abs(now - row["heartbeat_at"])  # heard of in the future: the clock was set back since
    return WorkerRow(**row, lost=silent > lost_after)


async def read_workers(tx: Transaction, *, lost_after: float) -> list[WorkerRow]:
    """All registered workers; `lost_after` in seconds."""
    now = await tx.now()
    return [_row(row, now=now, lost_after=lost_after) for row in await tx.all(select(workers).order_by(workers.c.id))]


class Workers:
    """The registered workers as they were read a moment ago: a submit need not read them all again.

    Whoever changes them here says so by `forget`; what other instances change is seen after `KNOWN_SECONDS`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rows: list[WorkerRow] = []
        self._until = 0.0

    async def read(self, tx: Transaction, *, lost_after: float) -> list[WorkerRow]:
        """All of them; `lost_after` in seconds."""
        if self._clock() >= self._until:
            until = self._clock() + KNOWN_SECONDS
            self._rows = await read_workers(tx, lost_after=lost_after)
            self._until = until
        return self._rows

    def forget(self) -> bool:
        """Read them anew next time. Whether what was known could have been an older state."""
        known, self._until = self._clock() < self._until, 0.0
        return known


async def read_worker(tx: Transaction, worker_id: str, *, lost_after: float) -> WorkerRow | None:
    """One worker, or None."""
    row = await tx.one(select(workers).where(workers.c.id == worker_id))
    return None if row is None else _row(row, now=await tx.now(), lost_after=lost_after)


async def heard_of(tx: Transaction, worker_id: str) -> None:
    """A sign of life."""
    await tx.execute(update(workers).where(workers.c.id == worker_id).values(heartbeat_at=await tx.now()))


async def is_draining(tx: Transaction, worker_id: str) -> bool:
    """Whether its jobs are to be handed back."""
    row = await tx.one(select(workers.c.draining).where(workers.c.id == worker_id))
    return row is not None and bool(row["draining"])


async def set_draining(tx: Transaction, worker_id: str, *, draining: bool) -> None:
    """Drain a worker, or let it take jobs again."""
    await tx.execute(update(workers).where(workers.c.id == worker_id).values(draining=draining))


async def held_by(tx: Transaction, worker_id: str) -> list[str]:
    """The jobs that a worker holds, of every project."""
    return [row["id"] for row in await tx.all(select(jobs.c.id).where(IS_HELD, jobs.c.worker_id == worker_id))]
