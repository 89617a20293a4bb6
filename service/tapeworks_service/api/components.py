"""The catalogue: what a spec may name."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response

from tapeworks.errors import ProblemCode
from tapeworks.schemas.jobs import ComponentEntry, ComponentInfo, Page
from tapeworks.spec.references import Kind
from tapeworks_service.api.dependencies import Reader
from tapeworks_service.api.messages import answer, problems
from tapeworks_service.catalogue.catalogue import Catalogue
from tapeworks_service.context import ContextDep
from tapeworks_service.problems import Problem, not_found

router = APIRouter(prefix="/v1/components", tags=["components"])

Text = Annotated[str, Query(max_length=500, pattern=r"^[^\x00]*$")]


@router.get(
    "",
    operation_id="list_components",
    summary="List components",
    response_model=Page[ComponentInfo],
    responses=problems(401, 403, 422, 503),
)
async def list_components(
    caller: Reader,
    context: ContextDep,
    kind: Kind | None = None,
    after: Text | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 200,
) -> Response:
    """By kind, name and version."""
    async with context.database.read() as tx:
        catalogue = await context.catalogues.current(tx, caller.project_id, lost_after=context.settings.lease_seconds)
    entries = [entry for entry in catalogue.ordered() if kind is None or entry.kind == kind]
    if after is not None:
        places = [_place(entry) for entry in entries]
        entries = entries[places.index(after) + 1 :] if after in places else _from(entries, after)
    more, entries = len(entries) > limit, entries[:limit]
    data = [_document(entry, catalogue) for entry in entries]
    return answer({"data": data, "has_more": more, "next": _place(entries[-1]) if more else None})


def _place(entry: ComponentEntry) -> str:
    return f"{entry.kind.value}:{entry.name}:{entry.version}"


def _from(entries: list[ComponentEntry], after: str) -> list[ComponentEntry]:
    """The catalogue changed between two pages: go on behind where the entry stood."""
    kind, _, rest = after.partition(":")
    name = rest.rpartition(":")[0]
    return [entry for entry in entries if (entry.kind.value, entry.name) > (kind, name)]


def _document(entry: ComponentEntry, catalogue: Catalogue) -> dict[str, Any]:
    workers = catalogue.workers[(entry.kind, entry.name, entry.version)]
    package = catalogue.packaged(entry)
    return {**entry.model_dump(mode="json"), "workers": workers, "package": package and package.id}


@router.get(
    "/{kind}/{name:path}",
    operation_id="get_component",
    summary="Get a component",
    response_model=ComponentInfo,
    responses=problems(401, 403, 404, 422, 503),
)
async def get_component(
    caller: Reader, context: ContextDep, kind: Kind, name: str, version: Text | None = None
) -> Response:
    """The newest version, or the one asked for, with the JSON Schema of its config."""
    async with context.database.read() as tx:
        catalogue = await context.catalogues.current(tx, caller.project_id, lost_after=context.settings.lease_seconds)
    entry = catalogue.find(kind, name, version)
    if entry is None:
        close = catalogue.close_names(name, kind)
        if not close or close[0] == name:
            raise not_found(kind.value, name)
        raise Problem(
            ProblemCode.NOT_FOUND, f"there is no {kind.value} {name[:200]!r}", hint=f"Did you mean {close[0]!r}?"
        )
    return answer(_document(entry, catalogue))
