"""Packages: an uploaded wheel or zip of sources is tried by a worker; then its components can be named."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.responses import Response
from sqlalchemy import RowMapping

from tapeworks.errors import Finding, ProblemCode
from tapeworks.schemas.assets import Package, PackageRequest
from tapeworks_service.api.assets.routes import CREATED, collection, created, inspect_upload, shared, state_of
from tapeworks_service.api.dependencies import Submitter
from tapeworks_service.api.messages import read_message, takes
from tapeworks_service.assets.package_metadata import Metadata, read_metadata
from tapeworks_service.assets.package_requirements import unmet
from tapeworks_service.assets.repository import NewAsset, completed_upload
from tapeworks_service.catalogue.uploaded_packages import entries_of
from tapeworks_service.context import Context, ContextDep
from tapeworks_service.problems import Problem


def _document(row: RowMapping) -> dict[str, Any]:
    """The JSON of `tapeworks.schemas.assets.Package`."""
    admission = row["job_document"] or {}
    entries, refused = entries_of(admission, row["version"])
    state = state_of(row, pending="admitting", good="refused" if refused else "admitted")
    return {
        **shared(row),
        "state": state,
        "requires": row["document"]["requires"],
        "components": [{"kind": one.kind.value, "name": one.name, "version": one.version} for one in entries],
        "warnings": [f"{one.name}: {text}" for one in entries for text in one.warnings],
        "refused": refused,
        "failure": admission.get("failure"),
    }


router = collection("package", Package, _document)


@router.post(
    "",
    operation_id="create_package",
    summary="Make a component package of an upload",
    status_code=201,
    response_model=Package,
    responses=CREATED,
    openapi_extra=takes(PackageRequest),
)
async def create_package(request: Request, caller: Submitter, context: ContextDep) -> Response:
    """A wheel, or a zip of sources with a `pyproject.toml`, that has the entry point group `tapeworks.components`.

    What can be read without running it is checked here, all at once; then a worker imports it in a sandbox, and builds
    and reloads every component. `state` is `admitting` until then. A version never changes: other bytes are 409.
    """
    wanted = await read_message(request, PackageRequest, context.settings.max_body_bytes)
    if not context.settings.allow_packages:
        hint = "The operator turns it on with TAPEWORKS_ALLOW_PACKAGES=1, for the service and its workers."
        raise Problem(ProblemCode.FORBIDDEN, "uploaded packages are turned off in this installation", hint=hint)
    async with context.database.read() as tx:
        upload = await completed_upload(tx, caller.project_id, wanted.upload_id)
    if upload["bytes"] > context.settings.max_package_bytes:
        raise Problem(
            ProblemCode.PAYLOAD_TOO_LARGE, f"a package must be at most {context.settings.max_package_bytes} bytes"
        )
    metadata = await inspect_upload(context, caller, wanted.upload_id, read_metadata)
    findings = [*metadata.findings, *await _lacking(context, metadata)]
    if findings:
        errors = [Finding("/upload_id", ProblemCode.INVALID_VALUE, message, hint) for message, hint in findings]
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise Problem(ProblemCode.INVALID_REQUEST, errors[0].message + more, hint=errors[0].hint or None, errors=errors)
    new = NewAsset(caller.project_id, "package", metadata.name, metadata.version, "zip", metadata.document())
    return await created(context, new, wanted.upload_id, _document)


async def _lacking(context: Context, metadata: Metadata) -> list[tuple[str, str]]:
    """What no worker has of that which the package depends on."""
    async with context.database.read() as tx:
        workers = await context.workers.read(tx, lost_after=context.settings.lease_seconds)
        takers = [worker for worker in workers if worker.packages and not worker.lost]
        installed = [(await context.catalogues.known(tx, worker.catalogue_digest)).distributions for worker in takers]
    if not takers:
        hint = "Start one with TAPEWORKS_ALLOW_PACKAGES=1; run `tapeworks doctor` on its machine to check its sandbox."
        return [("no worker that accepts uploaded packages is connected", hint)]
    return unmet(metadata.requires, installed)
