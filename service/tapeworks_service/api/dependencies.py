"""Who calls, for which project, and what they may do.

Keys are stored as SHA-256 (they are random, so no slow hash is needed). An installation without any
key serves this machine only, and browsers' cross-site requests to it are refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import lru_cache, partial
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request
from sqlalchemy import update

from tapeworks.errors import ProblemCode
from tapeworks_service.api.same_origin import refuse_foreign
from tapeworks_service.auth.callers import Caller
from tapeworks_service.auth.keys import DEFAULT_PROJECT, SCOPES, key_hash, locked, valid
from tapeworks_service.auth.sessions import key_of, token_in
from tapeworks_service.context import Context, context_of
from tapeworks_service.database.tables import api_keys
from tapeworks_service.problems import Problem

SESSION = "session:"
"""Before the hash of a session's token, where that of a key may stand too."""
_USED_EVERY_SECONDS = 60.0
_NOT_LET_IN = {
    "key": "the API key is unknown or was revoked",
    "session": "the session has ended, or its key was revoked",
    "nothing": "the request has no API key",
}
_LOCAL_NAMES = {"localhost", "127.0.0.1", "::1"}


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
        _refuse_other_sites(request, context.settings.origins)
    return caller


async def _looked_up(hashed: str, context: Context) -> Caller:
    """Whom a key or a session stands for; nobody's key, where there is none at all. Raises 401."""
    by_session = hashed.startswith(SESSION)
    async with context.database.read() as tx:
        row = await (key_of(tx, hashed.removeprefix(SESSION)) if by_session else valid(tx, hashed)) if hashed else None
        if row is None:
            if not await locked(tx):
                return Caller(DEFAULT_PROJECT, frozenset(SCOPES), keyless=True)
            raise Problem(
                ProblemCode.UNAUTHENTICATED,
                _NOT_LET_IN["session" if by_session else "key" if hashed else "nothing"],
                headers={"WWW-Authenticate": "Bearer"},
            )
        now = await tx.now()
    if (row["last_used_at"] or 0.0) < now - _USED_EVERY_SECONDS:
        async with context.database.write() as tx:
            await tx.execute(update(api_keys).where(api_keys.c.id == row["id"]).values(last_used_at=now))
    ends = float(row["expires_at"]) if by_session else None
    return Caller(row["project_id"], frozenset(row["scopes"]), key_id=row["id"], expires_at=ends)


def _refuse_other_sites(request: Request, origins: str) -> None:
    """Without keys, being on this machine is the only right: a web page open here must not borrow it."""
    headers = request.headers
    local, own = _allowed(headers.get("host", ""), headers.get("origin"), headers.get("sec-fetch-site"), origins)
    if not local:
        raise Problem(
            ProblemCode.FORBIDDEN,
            "without an API key the service accepts requests from localhost only",
            hint="Use http://127.0.0.1, or start the service with a key.",
        )
    if not own:
        raise Problem(
            ProblemCode.FORBIDDEN,
            "without an API key the service rejects requests from pages of another origin",
            hint="Name the page's origin in TAPEWORKS_ORIGINS, or start the service with a key.",
        )


@lru_cache(maxsize=64)  # of each request, and nearly always the same
def _allowed(host: str, origin: str | None, site: str | None, origins: str) -> tuple[bool, bool]:
    """Whether a request is to this machine by its name, and from a page of the service or none.

    Another port of localhost is another server: any program on this machine may serve pages there.
    """
    here = _place(f"http://{host}")
    if here is None or here[0] not in _LOCAL_NAMES:
        return False, False
    if origin is None:
        return True, site not in ("cross-site", "same-site")
    if origin in {one.strip().rstrip("/") for one in origins.split(",")} - {""}:
        return True, True
    there = _place(origin)
    return True, there is not None and there[0] in _LOCAL_NAMES and there[1] == here[1]


def _place(url: str) -> tuple[str | None, int] | None:
    """Host and port of a URL, None for what is none."""
    try:
        parts = urlsplit(url)
        return parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return None


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
