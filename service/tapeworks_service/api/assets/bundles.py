"""Bundles: an uploaded `bundle.tar.gz` serves as `from`. It is looked through here, and loaded by a runner alone."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import IO, Any

from fastapi import Request
from fastapi.responses import Response
from sqlalchemy import RowMapping

from tapeworks.archives import Archive, UnsafeArchive, check_arrays, code_in, keras_config
from tapeworks.schemas.assets import Bundle, BundleRequest
from tapeworks_service.api.assets.routes import CREATED, collection, created, inspect_upload, shared
from tapeworks_service.api.dependencies import Submitter
from tapeworks_service.api.messages import read_message, takes
from tapeworks_service.assets.repository import NewAsset
from tapeworks_service.context import ContextDep

_MAX_MANIFEST_BYTES = 16 << 20
_CHUNK = 1 << 20


def _document(row: RowMapping) -> dict[str, Any]:
    """The JSON of `tapeworks.schemas.assets.Bundle`."""
    return {**shared(row), "state": "ready", **{name: row["document"][name] for name in ("roles", "job_id")}}


router = collection("bundle", Bundle, _document)


@router.post(
    "",
    operation_id="create_bundle",
    summary="Make a bundle of an upload",
    status_code=201,
    response_model=Bundle,
    responses=CREATED,
    openapi_extra=takes(BundleRequest),
)
async def create_bundle(request: Request, caller: Submitter, context: ContextDep) -> Response:
    """A `bundle.tar.gz` of some job. Paths, sizes, links are checked; pickled arrays and code are refused."""
    wanted = await read_message(request, BundleRequest, context.settings.max_body_bytes)
    found = await inspect_upload(context, caller, wanted.upload_id, inspect_bundle)
    new = NewAsset(caller.project_id, "bundle", wanted.name, None, "tar.gz", found)
    return await created(context, new, wanted.upload_id, _document)


def inspect_bundle(path: Path) -> dict[str, Any]:
    """The roles of a bundle, and the job that made it. Raises UnsafeArchive, OSError."""
    archive = Archive.open(path)
    if archive is None or archive.kind != "tar.gz":
        raise UnsafeArchive("a bundle is a .tar.gz: the file that GET /v1/jobs/{id}/model returns")
    manifest: Any = None
    roles, state = [], False
    with archive.entries() as entries:
        for entry, opened in entries:
            if entry.name == "manifest.json":
                manifest = _manifest(opened(), entry.size)
            elif entry.name == "training_state/values.npz":
                state = True
                with opened() as file, tempfile.TemporaryFile() as copy:  # a zip is read from its end
                    shutil.copyfileobj(file, copy, _CHUNK)
                    check_arrays(copy)
            elif entry.name.startswith("models/") and entry.name.endswith(".keras"):
                _check_model(opened(), entry.name)
                roles.append(entry.name.removeprefix("models/").removesuffix(".keras"))
    if not isinstance(manifest, dict):
        raise UnsafeArchive("the archive has no manifest.json: it is not a Tapeworks bundle")
    if not state and not roles:
        raise UnsafeArchive("the bundle has neither a training state nor a .keras model: no job can start from it")
    job_id = manifest.get("job_id")
    return {"roles": sorted(roles), "job_id": job_id if isinstance(job_id, str) else None}


def _manifest(file: IO[bytes], size: int) -> Any:
    if size > _MAX_MANIFEST_BYTES:
        raise UnsafeArchive(f"manifest.json has {size} bytes")
    try:
        return json.loads(file.read(_MAX_MANIFEST_BYTES))
    except (ValueError, RecursionError) as error:
        raise UnsafeArchive("manifest.json is not JSON") from error


def _check_model(file: IO[bytes], name: str) -> None:
    with tempfile.NamedTemporaryFile(suffix=".keras") as copy:
        shutil.copyfileobj(file, copy, _CHUNK)
        copy.flush()
        try:
            config = keras_config(Path(copy.name))
        except UnsafeArchive as error:
            raise UnsafeArchive(f"{name} is refused: {error}") from error
    if (found := code_in(config)) is not None:
        raise UnsafeArchive(f"{name} is refused: it holds a {found}, which carries code")
