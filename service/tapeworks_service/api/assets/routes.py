"""The calls that datasets, packages and bundles share: list, get, delete. What makes one stands with each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path as FilePath
from typing import Annotated, Any, TypeVar

import structlog
from fastapi import APIRouter, Path, Query
from fastapi.responses import Response
from pydantic import BaseModel
from sqlalchemy import RowMapping

from tapeworks.archives import UnsafeArchive
from tapeworks.errors import Finding, ProblemCode
from tapeworks.schemas.jobs import Page
from tapeworks_service.api.dependencies import Reader, Submitter
from tapeworks_service.api.messages import answer, problems
from tapeworks_service.assets import repository
from tapeworks_service.auth.callers import Caller
from tapeworks_service.context import Context, ContextDep
from tapeworks_service.database.clock import instant
from tapeworks_service.database.tables import assets
from tapeworks_service.problems import Problem, invalid_value
from tapeworks_service.storage.deletions import delete_noted
from tapeworks_service.storage.uploads import start_over

log = structlog.get_logger(__name__)

AssetId = Annotated[str, Path(max_length=100, pattern=r"^[^\x00]*$")]
Text = Annotated[str, Query(max_length=200, pattern=r"^[^\x00]*$")]
CREATED = problems(400, 401, 403, 409, 413, 422, 503, 507)

Looked = TypeVar("Looked")


def collection(kind: str, model: type[BaseModel], document: Callable[[RowMapping], dict[str, Any]]) -> APIRouter:
    """The router of one kind of assets."""
    router = APIRouter(prefix=f"/v1/{kind}s", tags=[f"{kind}s"])

    @router.get(
        "",
        operation_id=f"list_{kind}s",
        summary=f"List {kind}s",
        response_model=Page[model],  # type: ignore[valid-type]
        responses=problems(401, 403, 422, 503),
    )
    async def list_(
        caller: Reader,
        context: ContextDep,
        name: Text | None = None,
        after: Text | None = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> Response:
        """The project's, newest first; with `name` its versions."""
        statement = repository.of_project(caller.project_id, kind)
        if name is not None:
            statement = statement.where(assets.c.name == name)
        if after is not None:
            statement = statement.where(assets.c.asset_seq < context.cursors.read(caller.project_id, kind, after))
        async with context.database.read() as tx:
            found = await tx.all(statement.order_by(assets.c.asset_seq.desc()).limit(limit + 1))
        more, found = len(found) > limit, found[:limit]
        data = [document(row) for row in found]
        following = context.cursors.write(caller.project_id, kind, found[-1]["asset_seq"]) if more else None
        return answer({"data": data, "has_more": more, "next": following})

    @router.get(
        "/{asset_id}",
        operation_id=f"get_{kind}",
        summary=f"Get a {kind}",
        response_model=model,
        responses=problems(401, 403, 404, 422, 503),
    )
    async def get(caller: Reader, context: ContextDep, asset_id: AssetId) -> Response:
        """As it is now."""
        async with context.database.read() as tx:
            return answer(document(await repository.find(tx, caller.project_id, kind, asset_id)))

    @router.delete(
        "/{asset_id}",
        operation_id=f"delete_{kind}",
        summary=f"Delete a {kind}",
        status_code=204,
        responses=problems(401, 403, 404, 409, 422, 503),
    )
    async def delete(caller: Submitter, context: ContextDep, asset_id: AssetId) -> Response:
        """With its bytes, where nothing else has them; 409 `in_use` while an unfinished job reads it."""
        async with context.database.write() as tx:
            await repository.remove(tx, caller.project_id, kind, asset_id)
        context.catalogues.forget_packages(caller.project_id)
        await delete_noted(context.database, context.store)
        return Response(status_code=204)

    return router


async def inspect_upload(
    context: Context, caller: Caller, upload_id: str, look: Callable[[FilePath], Looked]
) -> Looked:
    """What a function finds in an upload's file, on a thread; nothing in it is loaded. Raises 422."""
    async with context.database.read() as tx:
        upload = await repository.completed_upload(tx, caller.project_id, upload_id)
    try:
        return await asyncio.to_thread(look, context.store.path(upload["key"]))
    except UnsafeArchive as error:
        finding = Finding("/upload_id", ProblemCode.INVALID_VALUE, str(error))
        raise Problem(ProblemCode.INVALID_REQUEST, str(error), errors=[finding]) from error
    except FileNotFoundError as error:
        await start_over(context.database, upload)
        hint = "Send them again: POST /v1/uploads with the same size and digest says which parts are missing."
        raise invalid_value("/upload_id", f"the bytes of the upload {upload_id} no longer exist", hint) from error
    except OSError as error:
        raise Problem(ProblemCode.STORAGE_UNAVAILABLE, "the artifact store cannot be read") from error
    except Problem:
        raise
    except Exception as error:  # whatever a stranger's file does to its check is said of the file
        log.error("upload_check_failed", upload_id=upload_id, exc_info=error)
        message = f"the file cannot be read: {type(error).__name__}"
        finding = Finding("/upload_id", ProblemCode.INVALID_VALUE, message, "Write the file again with another tool.")
        raise Problem(ProblemCode.INVALID_REQUEST, message, errors=[finding]) from error


async def created(
    context: Context, new: repository.NewAsset, upload_id: str, document: Callable[[RowMapping], dict[str, Any]]
) -> Response:
    """201 with a new asset, 200 with the one that these bytes are already."""
    async with context.database.write() as tx:
        row, fresh = await repository.create(tx, new, upload_id)
        body = document(row)
    context.catalogues.forget_packages(new.project_id)
    return answer(body, 201 if fresh else 200, {"Location": f"/v1/{new.kind}s/{row['id']}"})


def shared(row: RowMapping) -> dict[str, Any]:
    """What every asset's document has."""
    kept = ("id", "name", "version", "bytes", "sha256", "job_id")
    return {**{name: row[name] for name in kept}, "object": row["kind"], "created_at": instant(row["created_at"])}


def state_of(row: RowMapping, *, pending: str, good: str) -> str:
    """An asset's state, from that of the job that looks at it."""
    settled = {"succeeded": good, "failed": "refused", "cancelled": "refused"}
    return settled.get(row["job_state"], pending)
