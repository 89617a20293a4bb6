"""`/v1/session`: the web page's log-in, a key exchanged for a cookie."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from tapeworks.errors import ProblemCode
from tapeworks.schemas.access import Session, SessionRequest
from tapeworks_service.api.dependencies import Reader
from tapeworks_service.api.messages import answer, problems, read_message, takes
from tapeworks_service.api.same_origin import refuse_foreign
from tapeworks_service.auth import sessions
from tapeworks_service.auth.callers import Caller
from tapeworks_service.auth.keys import SCOPES, key_hash, valid
from tapeworks_service.context import ContextDep
from tapeworks_service.database.clock import optional_instant
from tapeworks_service.problems import Problem

router = APIRouter(prefix="/v1/session", tags=["access"])

_REQUEST_BYTES = 4096
_PRIVATE = {"Cache-Control": "no-store"}


@router.get(
    "",
    operation_id="get_session",
    summary="Whom this request is let in as",
    response_model=Session,
    responses=problems(401, 403, 503),
)
async def get_session(caller: Reader) -> Response:
    """401 where a key is needed: then the page asks for one. `keyless`: the service has none, and nobody logs in."""
    return answer(_document(caller), headers=_PRIVATE)


@router.post(
    "",
    operation_id="log_in",
    summary="Log in to the web page",
    status_code=201,
    response_model=Session,
    responses=problems(400, 401, 403, 413, 422, 503),
    openapi_extra=takes(SessionRequest),
)
async def log_in(request: Request, context: ContextDep) -> Response:
    """Exchanges a key for a cookie that scripts cannot read. For the page alone: needs `X-Tapeworks-Page: 1`."""
    refuse_foreign(request.method, request.headers, context.settings.origins)
    asked = await read_message(request, SessionRequest, _REQUEST_BYTES)
    seconds = context.settings.session_seconds
    async with context.database.write() as tx:
        key = await valid(tx, key_hash(asked.key))
        if key is None:
            hint = "Make one on the service's machine: tapeworks keys create NAME."
            raise Problem(ProblemCode.UNAUTHENTICATED, "this key is not known or was revoked", hint=hint)
        if "read" not in key["scopes"]:
            raise Problem(ProblemCode.FORBIDDEN, "this key lacks the scope 'read': the page would show nothing")
        token, ends = await sessions.begin(tx, key, seconds=seconds)
    caller = Caller(
        key["project_id"], frozenset(key["scopes"]), key_id=key["id"], key_name=key["name"], expires_at=ends
    )
    made = answer(_document(caller), 201, headers=_PRIVATE)
    made.set_cookie(
        sessions.COOKIE, token, max_age=int(seconds), httponly=True, samesite="strict", secure=_by_tls(request)
    )
    return made


@router.delete("", operation_id="log_out", summary="Log out", status_code=204, responses=problems(403, 503))
async def log_out(request: Request, context: ContextDep) -> Response:
    """Ends the session of the cookie, also for other holders of it. Without a cookie nothing is done."""
    token = sessions.token_in(request.headers.get("cookie", ""))
    done = Response(status_code=204)
    if token is not None:
        refuse_foreign(request.method, request.headers, context.settings.origins)
        async with context.database.write() as tx:
            await sessions.end(tx, token)
        context.callers.forget()
        done.delete_cookie(sessions.COOKIE, httponly=True, samesite="strict", secure=_by_tls(request))
    return done


def _by_tls(request: Request) -> bool:
    """Whether the browser speaks TLS: its `Origin` says so, behind a proxy too."""
    return request.url.scheme == "https" or request.headers.get("origin", "").startswith("https://")


def _document(caller: Caller) -> dict[str, object]:
    return {
        "object": "session", "keyless": caller.keyless, "project": caller.project_id,
        "scopes": [scope for scope in SCOPES if scope in caller.scopes], "key_id": caller.key_id,
        "expires_at": optional_instant(caller.expires_at),
    }  # fmt: skip
