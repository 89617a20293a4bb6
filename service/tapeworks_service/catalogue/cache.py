"""Catalogues of workers by digest, parsed once, and what projects' packages add to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import select

from tapeworks.schemas.jobs import ComponentEntry
from tapeworks_service.catalogue.catalogue import _EMPTY, Catalogue, IndexedCatalogue
from tapeworks_service.catalogue.uploaded_packages import ProjectPackages
from tapeworks_service.database.engine import Transaction
from tapeworks_service.database.tables import catalogues
from tapeworks_service.workers.repository import WorkerRow, read_workers


class CatalogueCache:
    """Catalogues by digest, parsed once."""

    def __init__(self) -> None:
        self._known: dict[str, IndexedCatalogue] = {}
        self._merged: tuple[Any, Catalogue] = ((), Catalogue())
        self._packages = ProjectPackages()

    async def known(self, tx: Transaction, digest: str) -> IndexedCatalogue:
        """The catalogue with that digest; an empty one where no worker sent it yet."""
        if digest not in self._known:
            row = await tx.one(select(catalogues.c.document).where(catalogues.c.digest == digest))
            if row is None:
                return _EMPTY
            self._known[digest] = _index(row["document"])
        return self._known[digest]

    def forget(self, used: Iterable[str]) -> None:
        """Drop what no worker uses any more."""
        keep = set(used)
        self._known = {digest: known for digest, known in self._known.items() if digest in keep}

    async def merged(self, tx: Transaction, workers: Sequence[WorkerRow]) -> Catalogue:
        """What all workers together can build; of two that differ, what the one has that has been here longer."""
        ordered = sorted(workers, key=lambda one: (one.lost, one.registered_at, one.id))
        parts = [(worker.id, await self.known(tx, worker.catalogue_digest)) for worker in ordered]
        if parts != self._merged[0]:
            catalogue = Catalogue()
            for worker_id, known in parts:
                catalogue.add(known, worker_id)
            self._merged = (parts, catalogue)
        return self._merged[1]

    async def of_project(self, tx: Transaction, workers: Sequence[WorkerRow], project_id: str) -> Catalogue:
        """Returns the catalogue with the components of the project's admitted packages."""
        return await self._packages.over(tx, await self.merged(tx, workers), workers, project_id)

    def forget_packages(self, project_id: str) -> bool:
        """Read a project's packages anew next time. Whether what was known could have been an older state."""
        return self._packages.forget(project_id)

    async def current(self, tx: Transaction, project_id: str, *, lost_after: float) -> Catalogue:
        """What may be named in a spec now."""
        self.forget_packages(project_id)
        return await self.of_project(tx, await read_workers(tx, lost_after=lost_after), project_id)


def _index(document: dict[str, Any]) -> IndexedCatalogue:
    entries = tuple(ComponentEntry.model_validate(item) for item in document["components"])
    keys = frozenset((entry.kind.value, entry.name, entry.version, entry.digest) for entry in entries)
    return IndexedCatalogue(entries, keys, tuple(document.get("refused", ())), document.get("distributions", {}))
