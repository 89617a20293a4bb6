"""Datasets: an upload becomes a version of one; a worker then tells its columns and first rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from sqlalchemy import RowMapping

from tapeworks.archives import Archive, UnsafeArchive, check_array_file
from tapeworks.schemas.assets import SOURCES, SUFFIXES, DataFormat, Dataset, DatasetRequest, is_of
from tapeworks_service.api.assets.routes import CREATED, collection, created, inspect_upload, shared, state_of
from tapeworks_service.api.dependencies import Submitter
from tapeworks_service.api.messages import read_message, takes
from tapeworks_service.assets.repository import NewAsset
from tapeworks_service.context import ContextDep

_NEVER_ARCHIVES = (DataFormat.NPZ,)
"""A zip by nature: as one file it is read as it is."""


def _document(row: RowMapping) -> dict[str, Any]:
    """The JSON of `tapeworks.schemas.assets.Dataset`."""
    inspection = row["job_document"] or {}
    return {
        **shared(row),
        "format": row["format"],
        "source": SOURCES.get(DataFormat(row["format"]), row["format"]),
        "options": row["document"].get("options", {}),
        "state": state_of(row, pending="inspecting", good="ready"),
        "content": inspection.get("result"),
        "failure": inspection.get("failure"),
    }


router = collection("dataset", Dataset, _document)


@router.post(
    "",
    operation_id="create_dataset",
    summary="Make a dataset of an upload",
    status_code=201,
    response_model=Dataset,
    responses=CREATED,
    openapi_extra=takes(DatasetRequest),
)
async def create_dataset(request: Request, caller: Submitter, context: ContextDep) -> Response:
    """The next version of that name; the same bytes and options again are the same dataset, answered with 200.

    A file, or a zip, tar or tar.gz of files. What is dangerous to unpack is refused here; whether it is what its format
    says, a worker finds out: `state` is `inspecting` until then.
    """
    wanted = await read_message(request, DatasetRequest, context.settings.max_body_bytes)
    archive = await inspect_upload(context, caller, wanted.upload_id, lambda path: checked(path, wanted.format))
    document = {"archive": archive, **({"options": options} if (options := wanted.options.given) else {})}
    new = NewAsset(caller.project_id, "dataset", wanted.name, None, wanted.format.value, document)
    return await created(context, new, wanted.upload_id, _document)


def checked(path: Path, format: DataFormat) -> str | None:
    """The kind of archive that a dataset's file is, None for a single file. Raises UnsafeArchive, OSError."""
    archive = Archive.open(path)
    if archive is not None and not (archive.kind == "zip" and format in _NEVER_ARCHIVES and _is_npz(archive)):
        names = [entry.name for entry in archive.check() if not entry.hidden]
        if not any(is_of(name, format) for name in names):
            shown = ", ".join(SUFFIXES[format])
            raise UnsafeArchive(f"the archive has no file of the format {format.value}, by its name ({shown})")
        if format is DataFormat.NPZ:
            _check_inner(archive)
        return archive.kind
    if format is DataFormat.NPZ:
        with path.open("rb") as file:
            check_array_file(file)
    if format is DataFormat.IMAGES:
        raise UnsafeArchive("images come as a zip, tar or tar.gz with a folder for each class")
    return None


def _is_npz(archive: Archive) -> bool:
    return all(entry.name.endswith(".npy") for entry in archive.check())


def _check_inner(archive: Archive) -> None:
    """The arrays of each .npz and .npy in an archive."""
    with archive.entries() as entries:
        for entry, opened in entries:
            if entry.name.lower().endswith(SUFFIXES[DataFormat.NPZ]):
                with opened() as file:
                    check_array_file(file)
