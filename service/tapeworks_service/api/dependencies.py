"""Who calls, for which project, and what they may do.

Keys are stored as SHA-256 (they are random, so no slow hash is needed). An installation without any
key serves this machine only, and browsers' cross-site requests to it are refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy import update

from tapeworks.errors import ProblemCode
from tapeworks_service.api.same_origin import refuse_foreign, refuse_other_sites
from tapeworks_service.auth.callers import Caller
from tapeworks_service.auth.keys import DEFAULT_PROJECT, SCOPES, key_hash, locked, valid
from tapeworks_service.auth.sessions import key_of, token_in
from tapeworks_service.context import Context, context_of
from tapeworks_service.database.tables import api_keys
from tapeworks_service.problems import Problem

SESSION = "session:"
"""Before the hash of a session's token, where that of a key may stand too."""
_USED_EVERY_SECONDS = 60.0


async def identify(request: Request, context: Context) -> Caller:
    """The caller of a request. Raises 401, 403."""
    headers = request.headers
    scheme, _, key = headers.get("authorization", "").partition(" ")
    token = token_in(headers.get("cookie", "")) if not scheme else None
    if token is not None:
        refuse_foreign(request.method, headers, context.settings.origins)
        hashed = SESSION + key_hash(token)
    else:
        hashed = key_hash(key.strip()) if scheme.lower() == "bearer" else ""
    caller = context.callers.get(hashed)
    if caller is None:
        caller = await _looked_up(hashed, context)
        context.callers.put(hashed, caller)
    if caller.keyless:
        refuse_other_sites(headers, context.settings.origins)
    return caller


async def _looked_up(hashed: str, context: Context) -> Caller:
    """The caller of a key or a session; without any key in the installation, everyone. Raises 401."""
    async with context.database.read() as tx:
        if hashed.startswith(SESSION):
            row, refusal = (
                await key_of(tx, hashed.removeprefix(SESSION)),
                "the session has ended, or its key was revoked",
            )
        elif hashed:
            row, refusal = await valid(tx, hashed), "the API key is unknown or was revoked"
        else:
            row, refusal = None, "the request has no API key"
        if row is None:
            if not await locked(tx):
                return Caller(DEFAULT_PROJECT, frozenset(SCOPES), keyless=True)
            raise Problem(ProblemCode.UNAUTHENTICATED, refusal, headers={"WWW-Authenticate": "Bearer"})
        now = await tx.now()
    if (row["last_used_at"] or 0.0) < now - _USED_EVERY_SECONDS:
        async with context.database.write() as tx:
            await tx.execute(update(api_keys).where(api_keys.c.id == row["id"]).values(last_used_at=now))
    ends = row.get("expires_at")  # of a session
    return Caller(row["project_id"], frozenset(row["scopes"]), key_id=row["id"], key_name=row["name"], expires_at=ends)


def require(caller: Caller, *scopes: str) -> None:
    """Raises 403 for a caller with none of these scopes."""
    if not caller.scopes.intersection(scopes):
        raise Problem(ProblemCode.FORBIDDEN, f"the API key lacks the scope {' or '.join(map(repr, scopes))}")


async def _identified(request: Request, scopes: tuple[str, ...]) -> Caller:
    found = await identify(request, context_of(request))
    require(found, *scopes)
    return found


def _require(*scopes: str) -> Callable[..., Awaitable[Caller]]:
    async def caller(request: Request) -> Caller:  # of each request: a dependency of its own would cost it 3 %
        request.state.identified = partial(_identified, request, scopes)
        return await _identified(request, scopes)

    return caller


Reader = Annotated[Caller, Depends(_require("read"))]
Submitter = Annotated[Caller, Depends(_require("submit"))]
Admin = Annotated[Caller, Depends(_require("admin"))]
Worker = Annotated[Caller, Depends(_require("worker"))]
Uploader = Annotated[Caller, Depends(_require("submit", "worker"))]
"""A user or a worker: whose upload it is says which."""
