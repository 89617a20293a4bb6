"""What a project's uploaded packages add to the catalogue: the components of those that were admitted.

Names that workers or an earlier package have stay theirs. What a package says of its components came out of a sandbox,
so it is checked here as any stranger's word.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from sqlalchemy import RowMapping

from tapeworks.schemas.jobs import ComponentEntry, JobKind, State
from tapeworks_service.catalogue.catalogue import UploadedPackage
from tapeworks_service.catalogue.schema_limits import SchemaRefused, check_schema
from tapeworks_service.catalogue.versions import version_order
from tapeworks_service.database.engine import Transaction
from tapeworks_service.database.queries import assets_and_looks
from tapeworks_service.database.tables import assets
from tapeworks_service.workers.repository import KNOWN_SECONDS, WorkerRow

if TYPE_CHECKING:
    from tapeworks_service.catalogue.catalogue import Catalogue

_MOST_DEPTH = 40
_DROPPED = frozenset({"pattern", "patternProperties", "$id", "$anchor", "$dynamicRef", "$dynamicAnchor", "$schema"})
"""Of a package's schemas: an expression may run for ever, and what names other places is not followed."""


@dataclass(frozen=True)
class _Package:
    """A package's row, read."""

    packaged: UploadedPackage
    entries: tuple[ComponentEntry, ...]
    pending: str | None
    """The hint where it is not admitted."""
    prefixes: tuple[str, ...] = ()


def entries_of(document: Mapping[str, Any], version: str) -> tuple[list[ComponentEntry], list[dict[str, Any]]]:
    """What an admission found: components in the package's version, and those that were refused, with reasons."""
    result = document.get("result")
    entries, refused = [], [one for one in _listed(result, "refused") if isinstance(one, dict)]
    for item in _listed(result, "components"):
        try:
            entry = ComponentEntry.model_validate(item)
        except ValidationError:
            refused.append({"name": str(item)[:100], "reason": "its entry in the package's catalogue cannot be read"})
            continue
        schema: Any = plain_schema(entry.config_schema)
        try:
            check_schema(schema)
        except SchemaRefused as error:
            reason = f"the schema of its arguments cannot be used: {error}"
            refused.append({"kind": entry.kind.value, "name": entry.name, "version": version, "reason": reason})
            continue
        entries.append(entry.model_copy(update={"version": version, "config_schema": schema}))
    return entries, refused


def _listed(result: Any, name: str) -> list[Any]:
    value = result.get(name) if isinstance(result, dict) else None
    return value if isinstance(value, list) else []


def plain_schema(value: Any, depth: int = 0) -> Any:
    """A JSON Schema without what could be turned against the one who validates with it."""
    if depth > _MOST_DEPTH:
        return True
    if isinstance(value, list):
        return [plain_schema(item, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {key: plain_schema(item, depth + 1) for key, item in value.items() if key not in _DROPPED}
    if not str(kept.get("$ref", "#/$defs/")).startswith("#/$defs/"):
        del kept["$ref"]
    return kept


class ProjectPackages:
    """The packages of projects as they were read a moment ago, and the catalogues over which they lie."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._read: dict[str, tuple[float, tuple[_Package, ...]]] = {}
        self._laid: dict[str, tuple[Any, Any]] = {}
        self._parsed: dict[tuple[str, str], _Package] = {}

    def forget(self, project_id: str) -> bool:
        """Read a project's anew next time. Whether what was known could have been an older state."""
        return self._read.pop(project_id, (0.0, ()))[0] > self._clock()

    async def over(self, tx: Transaction, base: Catalogue, workers: Sequence[WorkerRow], project_id: str) -> Catalogue:
        """The catalogue with a project's packages; the very same one where it has none."""
        packages = await self._packages(tx, project_id)
        if not packages:
            return base
        takers = [worker.id for worker in workers if worker.packages and not worker.lost]
        laid = (base, packages, takers)
        known, made = self._laid.get(project_id, (None, None))
        if known is None or known[0] is not base or known[1:] != laid[1:]:
            made = _laid_over(base, packages, takers)
            self._laid[project_id] = (laid, made)
        catalogue: Catalogue = made
        return catalogue

    async def _packages(self, tx: Transaction, project_id: str) -> tuple[_Package, ...]:
        until, known = self._read.get(project_id, (0.0, ()))
        if until > self._clock():
            return known
        until = self._clock() + KNOWN_SECONDS
        own = assets_and_looks(assets.c.project_id == project_id, assets.c.kind == "package")
        rows = await tx.all(own.order_by(assets.c.asset_seq))
        packages = tuple(self._package(row) for row in rows)
        self._read[project_id] = (until, packages)
        return packages

    def _package(self, row: RowMapping) -> _Package:
        key = (row["id"], row["job_state"])
        if key not in self._parsed:
            self._parsed[key] = _package(row)
        return self._parsed[key]


def _package(row: RowMapping) -> _Package:
    document = row["document"]
    packaged = UploadedPackage(row["id"], row["name"], row["version"], tuple(document.get("top_level", ())))
    prefixes = tuple({row["name"], *packaged.modules})
    if row["job_state"] == State.SUCCEEDED.value:
        entries, refused = entries_of(row["job_document"], row["version"])
        if not refused:
            return _Package(packaged, tuple(entries), None)
        return _Package(
            packaged, (), f"GET /v1/packages/{row['id']} has the reason why {packaged.label} was refused.", prefixes
        )
    if row["job_state"] in (State.FAILED.value, State.CANCELLED.value):
        return _Package(packaged, (), f"{packaged.label} could not be tried: GET /v1/packages/{row['id']}.", prefixes)
    job = f"the {JobKind.ADMIT.value} job {row['job_id']}"
    message = f"{packaged.label} is being tried ({job}): submit again when it is done."
    return _Package(packaged, (), message, prefixes)


def _laid_over(base: Catalogue, packages: Sequence[_Package], takers: list[str]) -> Catalogue:
    laid = replace(
        base,
        entries=dict(base.entries), newest=dict(base.newest), workers=dict(base.workers),
        clashes=dict(base.clashes), pending={}, packages={}, _validators=dict(base._validators),
    )  # fmt: skip
    owners = {name: "a worker" for _, name, _ in base.entries}
    for package in packages:
        if package.pending is not None:
            laid.pending.update(dict.fromkeys(package.prefixes, package.pending))
        for entry in package.entries:
            owner = owners.setdefault(entry.name, package.packaged.name)
            key = (entry.kind, entry.name, entry.version)
            if owner != package.packaged.name or key in laid.entries:
                reason = f"{owner} already has this name"
                clash = {"kind": entry.kind.value, "name": entry.name, "version": entry.version, "reason": reason}
                laid.clashes.setdefault(package.packaged.id, []).append(clash)
                continue
            laid.entries[key], laid.workers[key], laid.packages[key] = entry, takers, package.packaged
            newest = laid.newest.setdefault(key[:2], entry)
            if version_order(entry.version) > version_order(newest.version):
                laid.newest[key[:2]] = entry
    return laid
