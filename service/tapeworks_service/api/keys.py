"""`/v1/keys`: keys of the caller's project, made, listed and revoked with a key that has the scope `admin`.

A key gives what it has: its own project, and scopes among its own. `tapeworks keys` on the service's machine is bound
to neither.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from tapeworks.errors import ProblemCode
from tapeworks.schemas.access import KeyInfo, KeyRequest, NewKey
from tapeworks.schemas.jobs import Page
from tapeworks_service.api.dependencies import Admin
from tapeworks_service.api.messages import answer, problems, read_message, takes
from tapeworks_service.auth import keys
from tapeworks_service.context import ContextDep
from tapeworks_service.problems import Problem, not_found

router = APIRouter(prefix="/v1/keys", tags=["access"])

_REQUEST_BYTES = 4096


@router.get(
    "", operation_id="list_keys", summary="Keys of the project", response_model=Page[KeyInfo],
    responses=problems(401, 403, 503),
)  # fmt: skip
async def list_keys(caller: Admin, context: ContextDep) -> Response:
    """Without their text, revoked ones too, the oldest first."""
    async with context.database.read() as tx:
        found = [key for key in await keys.listed(tx) if key.project == caller.project_id]
    return answer({"data": [_document(key) for key in found], "has_more": False, "next": None})


@router.post(
    "", operation_id="create_key", summary="Make a key", status_code=201, response_model=NewKey,
    responses=problems(400, 401, 403, 413, 422, 503), openapi_extra=takes(KeyRequest),
)  # fmt: skip
async def create_key(request: Request, caller: Admin, context: ContextDep) -> Response:
    """Its text is in this answer and never shown again. Without any key, the first user's locks the service."""
    asked = await read_message(request, KeyRequest, _REQUEST_BYTES)
    more = [scope for scope in asked.scopes if scope not in caller.scopes]
    if more:
        hint = "A key gives scopes that it has; `tapeworks keys create` on the service's machine gives any."
        raise Problem(ProblemCode.FORBIDDEN, f"this key lacks the scope {more[0]!r} and cannot give it", hint=hint)
    async with context.database.write() as tx:
        key, text = await keys.create(tx, name=asked.name, project=caller.project_id, scopes=asked.scopes)
    context.callers.forget()
    return answer({**_document(key), "key": text}, 201, headers={"Cache-Control": "no-store"})


@router.delete(
    "/{key_id}", operation_id="revoke_key", summary="Revoke a key", response_model=KeyInfo,
    responses=problems(401, 403, 404, 409, 422, 503),
)  # fmt: skip
async def revoke_key(
    caller: Admin,
    context: ContextDep,
    key_id: Annotated[str, Path(max_length=64)],
    last: Annotated[bool, Query(description="even if no other user has a key: the service is open then")] = False,
) -> Response:
    """Its sessions end with it; again is fine. 409 for the last key of a user, unless `last`."""
    try:
        async with context.database.write() as tx:
            if all(key.id != key_id or key.project != caller.project_id for key in await keys.listed(tx)):
                raise not_found("key", key_id)
            revoked = await keys.revoke(tx, key_id, last=last)
    except keys.LastKey as refused:
        hint = "DELETE it with ?last=true to open the service to everyone on its machine."
        raise Problem(ProblemCode.CONFLICT, str(refused), hint=hint) from refused
    context.callers.forget()
    return answer(_document(revoked))


def _document(key: keys.Key) -> dict[str, Any]:
    return {"object": "key", **key.document()}
