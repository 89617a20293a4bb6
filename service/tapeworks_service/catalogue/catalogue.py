"""What the registered workers can build, as they announced it: entries of every (kind, name, version).

Catalogues are immutable and known by digest, so each is read and indexed once per process.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jsonschema.protocols import Validator

from tapeworks.schemas.jobs import ComponentEntry
from tapeworks.spec.references import Kind
from tapeworks_service.catalogue.bounded_validator import bounded_validator
from tapeworks_service.catalogue.versions import version_order
from tapeworks_service.http.work_budget import spend

ComponentKey = tuple[str, str, str, str]
"""kind, name, version, digest: what a job is pinned to."""


@dataclass(frozen=True, eq=False)
class IndexedCatalogue:
    """One catalogue, indexed."""

    entries: tuple[ComponentEntry, ...] = ()
    keys: frozenset[ComponentKey] = frozenset()
    refused: tuple[dict[str, Any], ...] = ()
    distributions: Mapping[str, str] = field(default_factory=dict)
    """What is installed beside them, name → version."""


_EMPTY = IndexedCatalogue()


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
    """Prefix of names → the hint about an uploaded package that is not admitted."""
    packages: dict[tuple[Kind, str, str], UploadedPackage] = field(default_factory=dict)
    """Of components that uploaded packages bring."""

    _validators: dict[tuple[Kind, str, str], Validator] = field(default_factory=dict)

    def add(self, known: IndexedCatalogue, worker_id: str) -> None:
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
        """Returns the validator of an entry's configs. It is kept until the components of workers change."""
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

    def packaged(self, entry: ComponentEntry) -> UploadedPackage | None:
        """The package that brings a component; None for those that workers have."""
        return self.packages.get((entry.kind, entry.name, entry.version))

    def ordered(self) -> list[ComponentEntry]:
        """All entries by kind, name and version."""
        return [self.entries[key] for key in sorted(self.entries, key=_place)]


def _clash(entry: ComponentEntry, *, first: str) -> dict[str, Any]:
    reason = (
        f"the worker {first!r} has different code under this name and version: give the changed component a new version"
    )
    return {"kind": entry.kind.value, "name": entry.name, "version": entry.version, "reason": reason}


def _place(key: tuple[Kind, str, str]) -> tuple[str, str, list[tuple[int, int | str]]]:
    return (key[0], key[1], version_order(key[2]))


@dataclass(frozen=True)
class UploadedPackage:
    """An admitted package."""

    id: str
    name: str
    version: str
    modules: tuple[str, ...]
    """Its top-level names: two packages of one job must not share any."""

    @property
    def label(self) -> str:
        """The name and version of the package, as messages show them."""
        return f"{self.name} {self.version}"
