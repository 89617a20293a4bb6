"""What the registered workers can build, as they announced it: entries of every (kind, name, version).

Catalogues are immutable and known by digest, so each is read and indexed once per process.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jsonschema.protocols import Validator
from sqlalchemy import select

from tapeworks.jobs import ComponentEntry
from tapeworks.references import Kind
from tapeworks_service.catalogue.bounded_validator import bounded_validator
from tapeworks_service.catalogue.packaged import Packaged, ProjectPackages
from tapeworks_service.catalogue.versions import version_order
from tapeworks_service.database.engine import Transaction
from tapeworks_service.database.tables import catalogues
from tapeworks_service.work_budget import spend
from tapeworks_service.workers.rows import WorkerRow, read_workers

ComponentKey = tuple[str, str, str, str]
"""kind, name, version, digest: what a job is pinned to."""


@dataclass(frozen=True, eq=False)
class Known:
    """One catalogue, indexed."""

    entries: tuple[ComponentEntry, ...] = ()
    keys: frozenset[ComponentKey] = frozenset()
    refused: tuple[dict[str, Any], ...] = ()
    distributions: Mapping[str, str] = field(default_factory=dict)
    """What is installed beside them, name → version."""


_EMPTY = Known()


@dataclass
class Catalogue:
    """All that may be named in a spec now. Live workers' entries hide those of workers that are gone."""

    entries: dict[tuple[Kind, str, str], ComponentEntry] = field(default_factory=dict)
    newest: dict[tuple[Kind, str], ComponentEntry] = field(default_factory=dict)
    """Of each kind and name, the entry of the highest version."""
    workers: dict[tuple[Kind, str, str], list[str]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    """Name → why it did not pass a worker's admission."""
    clashes: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Worker → those of its components that are not offered: a version is one source for as long as a worker has it."""

    pending: dict[str, str] = field(default_factory=dict)
    """Prefix of names → what is to be told of an uploaded package that is not admitted."""
    packages: dict[tuple[Kind, str, str], Packaged] = field(default_factory=dict)
    """Of components that uploaded packages bring."""

    _validators: dict[tuple[Kind, str, str], Validator] = field(default_factory=dict)

    def add(self, known: Known, worker_id: str) -> None:
        """Take in a worker's catalogue; what is there already stays."""
        for entry in known.entries:
            key = (entry.kind, entry.name, entry.version)
            present = self.entries.setdefault(key, entry)
            newest = self.newest.setdefault(key[:2], entry)
            if version_order(entry.version) > version_order(newest.version):
                self.newest[key[:2]] = entry
            if present.digest == entry.digest:
                self.workers.setdefault(key, []).append(worker_id)
            else:
                self.clashes.setdefault(worker_id, []).append(_clash(entry, first=self.workers[key][0]))
        self.refused.update({item["name"]: item["reason"] for item in known.refused})

    def find(self, kind: Kind, name: str, version: str | None = None) -> ComponentEntry | None:
        """The entry of that version, or the newest one."""
        if version is not None:
            return self.entries.get((kind, name, version))
        return self.newest.get((kind, name))

    def validator(self, entry: ComponentEntry) -> Validator:
        """Of an entry's configs; made once for as long as workers have the same components."""
        key = (entry.kind, entry.name, entry.version)
        if key not in self._validators:
            self._validators[key] = bounded_validator(entry.config_schema)
        return self._validators[key]

    def kinds(self, name: str) -> list[Kind]:
        """The kinds under which a name is known."""
        return sorted(kind for kind, known in self.newest if known == name)

    def close_names(self, name: str, kind: Kind | None) -> list[str]:
        """Names that may have been meant, `keras/Adam` for `Adam` and `adam` included."""
        spend()
        names = {key[1] for key in self.entries if kind is None or key[0] == kind}
        bare: dict[str, str] = {known.rpartition("/")[2].lower(): known for known in sorted(names)}
        wanted = name.rpartition("/")[2].lower()
        close = [bare[match] for match in difflib.get_close_matches(wanted, bare, n=3)]
        return close or difflib.get_close_matches(name, names, n=3)

    def packaged(self, entry: ComponentEntry) -> Packaged | None:
        """The package that brings a component; None for those that workers have."""
        return self.packages.get((entry.kind, entry.name, entry.version))

    def ordered(self) -> list[ComponentEntry]:
        """All entries by kind, name and version."""
        return [self.entries[key] for key in sorted(self.entries, key=_place)]


def _clash(entry: ComponentEntry, *, first: str) -> dict[str, Any]:
    reason = f"the worker {first!r} has other bytes under this name and version: give the changed one a new version"
    return {"kind": entry.kind.value, "name": entry.name, "version": entry.version, "reason": reason}


def _place(key: tuple[Kind, str, str]) -> tuple[str, str, list[tuple[int, int | str]]]:
    return (key[0], key[1], version_order(key[2]))


class CatalogueCache:
    """Catalogues by digest, parsed once."""

    def __init__(self) -> None:
        self._known: dict[str, Known] = {}
        self._merged: tuple[Any, Catalogue] = ((), Catalogue())
        self._packages = ProjectPackages()

    async def known(self, tx: Transaction, digest: str) -> Known:
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
        """The same, and what the project's admitted packages bring."""
        return await self._packages.over(tx, await self.merged(tx, workers), workers, project_id)

    def forget_packages(self, project_id: str) -> bool:
        """Read a project's packages anew next time. Whether what was known could have been an older state."""
        return self._packages.forget(project_id)

    async def current(self, tx: Transaction, project_id: str, *, lost_after: float) -> Catalogue:
        """What may be named in a spec now."""
        self.forget_packages(project_id)
        return await self.of_project(tx, await read_workers(tx, lost_after=lost_after), project_id)


def _index(document: dict[str, Any]) -> Known:
    entries = tuple(ComponentEntry.model_validate(item) for item in document["components"])
    keys = frozenset((entry.kind.value, entry.name, entry.version, entry.digest) for entry in entries)
    return Known(entries, keys, tuple(document.get("refused", ())), document.get("distributions", {}))
