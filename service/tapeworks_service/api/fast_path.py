"""Operations whose usual requests are answered without FastAPI's solving of dependencies and parameters.

It costs a third of a request that reads one remembered row. An operation says how it reads its usual parameters by
itself; a request that has any others goes FastAPI's way, which says what is wrong with them. Both end in the one
function that is documented.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from tapeworks_service.auth.callers import Caller
from tapeworks_service.context import context_of

Endpoint = TypeVar("Endpoint", bound=Callable[..., Awaitable[Response]])
Read = Callable[[Request], dict[str, Any] | None]
"""Arguments of an operation beside `request`, `caller` and `context`; None where FastAPI is to read them."""

_READERS: dict[Callable[..., Any], Read] = {}


def usually(read: Read) -> Callable[[Endpoint], Endpoint]:
    """Says what reads an operation's usual arguments."""

    def known(endpoint: Endpoint) -> Endpoint:
        _READERS[endpoint] = read
        return endpoint

    return known


class UsualRoute(APIRoute):
    """An operation that may have a way of its own to its arguments."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        if endpoint in _READERS:
            self._whole, self._read = self.app, _READERS[endpoint]
            (identify,) = (one.call for one in self.dependant.dependencies if one.name == "caller")
            self._identify = cast("Callable[[Request], Awaitable[Caller]]", identify)
            self.app = self._usual

    async def _usual(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        arguments = self._read(request)
        if arguments is None:
            await self._whole(scope, receive, send)
            return
        caller = await self._identify(request)
        response = await self.endpoint(request=request, caller=caller, context=context_of(request), **arguments)
        await response(scope, receive, send)
