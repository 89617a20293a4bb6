"""Why queued jobs wait that no live worker can take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import select

from tapeworks.schemas.jobs import State
from tapeworks_service.catalogue.cache import CatalogueCache
from tapeworks_service.database.engine import Transaction
from tapeworks_service.database.tables import fits
from tapeworks_service.queue.requirements import Requirements, why_unschedulable
from tapeworks_service.workers.repository import WorkerRow

_MOST = 100_000


class UnschedulableReasons:
    """Reasons by fit key, remembered for as long as the same workers are there."""

    def __init__(self) -> None:
        self._workers: tuple[Any, ...] = ()
        self._reasons: dict[str, str | None] = {}

    async def reasons(
        self, tx: Transaction, rows: Iterable[Mapping[Any, Any]], live: Sequence[WorkerRow], catalogues: CatalogueCache
    ) -> dict[str, str]:
        """Fit key → why no live worker can take such a job, for the queued ones among the rows."""
        keys = {row["fit_key"] for row in rows if row["state"] == State.QUEUED.value}
        if not keys:
            return {}
        offers = [(worker, (await catalogues.known(tx, worker.catalogue_digest)).keys) for worker in live]
        # A worker may be there before its catalogue is.
        workers = tuple((worker.id, worker.properties, len(components)) for worker, components in offers)
        if workers != self._workers or len(self._reasons) > _MOST:
            self._workers, self._reasons = workers, {}
        if new := keys - self._reasons.keys():
            for row in await tx.all(select(fits).where(fits.c.fit_key.in_(new))):
                self._reasons[row["fit_key"]] = why_unschedulable(Requirements.from_document(row["needs"]), offers)
        return {key: reason for key in keys if (reason := self._reasons.get(key)) is not None}


def reason_of(row: Mapping[Any, Any], reasons: Mapping[str, str]) -> str | None:
    """Why a job waits; only queued ones do."""
    return reasons.get(row["fit_key"]) if row["state"] == State.QUEUED.value else None
