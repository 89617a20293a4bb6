"""The HTTP protocol of uvicorn with the limits of `Connections`: headers, bodies, answers, connections by address."""

from __future__ import annotations

import http
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tapeworks.errors import ProblemCode
from tapeworks.schemas.worker_protocol import LEASE_HEADER
from tapeworks_service.http.connections import Connections
from tapeworks_service.problems import Problem

_LEASE_HEADER = LEASE_HEADER.lower().encode()
MOST_PIPELINED = 64
"""Requests that wait for the answers to those before them on one connection."""
_FRAMING = 16
"""Bytes around each byte of a chunked body: tiny chunks are slow, not forbidden."""


def bounded_protocol(connections: Connections) -> type[HttpToolsProtocol]:
    """The protocol of one server's connections."""
    return type("BoundedHttp", (_BoundedHttp,), {"guard": connections})


class _BoundedHttp(HttpToolsProtocol):
    guard: Connections

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._address = self.client[0] if self.client else ""
        self._in_header, self._in_body, self._closing = True, False, False
        self._between = True
        self._begun = self._received = self._body = self._since_begin = 0
        self._reserved, problem = self.guard.admit(self, self._address, total=len(self.connections))
        if problem is not None:
            self.refuse(problem)

    def connection_lost(self, exc: Exception | None) -> None:
        self.guard.gone(self, self._address)
        super().connection_lost(exc)

    # ── what comes in ────────────────────────────────────────────────────────────────────────────

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        self._received += len(data)
        between, self._begun = self._between, 0
        super().data_received(data)
        if self._begun <= between:  # else some of it belongs to the message before
            self._since_begin += len(data)
        if self._closing or self.transport.is_closing():
            return
        if len(self.pipeline) > MOST_PIPELINED:
            self.refuse(None)
            return
        if self._in_header:
            self.guard.owes_header(self)
            if self._since_begin > self._most:
                self.refuse(self._too_long())
        elif self._in_body:
            self.guard.owes_body(self, self._body)
            if self._since_begin > self._most + (1 + _FRAMING) * self._body:
                self.refuse(self._too_long())  # trailers, or extensions of chunks

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_header, self._in_body, self._between = True, False, False
        self._begun += 1
        self._body = self._since_begin = 0

    def on_headers_complete(self) -> None:
        self._in_header, self._in_body = False, True
        self.guard.has_header(self)
        served = self.app
        try:
            self.app = self._admitted(served)
            super().on_headers_complete()
        finally:
            self.app = served

    def on_body(self, body: bytes) -> None:
        self._body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body, self._between = False, True
        self.guard.has_body(self)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self.guard.has_body(self)
        super().on_response_complete()

    # ── who is answered ──────────────────────────────────────────────────────────────────────────

    def _admitted(self, served: ASGIApp) -> ASGIApp:
        """What answers this request: the application, or a refusal."""
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > self._most:
            return _refusing(self._too_long())
        if self._reserved:
            if not self._is_workers_call():
                return _refusing(self.guard.refused("total", "too many connections are open"))
            return _once(served)
        if not self.guard.is_proxy(self._address):
            return served
        forwarded = [value.decode("latin-1") for name, value in self.headers if name == b"x-forwarded-for"]
        address = self.guard.client_of(self._address, forwarded)
        self.scope["client"] = (address, 0)
        if self.guard.requests[address] >= self.guard.limits.per_address:
            detail = f"{self.guard.limits.per_address} requests of one address are in progress"
            return _refusing(self.guard.refused("address", detail))
        return _counted(served, self.guard, address)

    def _is_workers_call(self) -> bool:
        path = self.url.partition(b"?")[0]
        return path.startswith(b"/v1/worker/") or any(name == _LEASE_HEADER for name, _ in self.headers)

    # ── the other way ────────────────────────────────────────────────────────────────────────────

    def pause_writing(self) -> None:
        super().pause_writing()
        self.guard.unread(self)

    def resume_writing(self) -> None:
        super().resume_writing()
        self.guard.read_on(self)

    @property
    def reads(self) -> bool:
        return not self.flow.read_paused

    def send_400_response(self, msg: str) -> None:
        self.refuse(Problem(ProblemCode.INVALID_REQUEST, "this is not HTTP", status=400))

    @property
    def _most(self) -> int:
        return self.guard.limits.header_bytes

    def _too_long(self) -> Problem:
        detail = f"the header is longer than {self._most} bytes"
        return Problem(ProblemCode.HEADER_TOO_LARGE, detail, headers={"Connection": "close"})

    def refuse(self, problem: Problem | None) -> None:
        """Answer with a problem where a request has begun and nothing was answered yet, and close."""
        if self._closing or self.transport.is_closing():
            return
        self._closing = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        answered = self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete
        if problem is None or answered or (self._received == 0 and problem.status == 408):
            self.transport.abort()  # what is written would be part of another answer, or is not asked for
            return
        self.transport.write(_as_bytes(problem))
        self.transport.close()


def _as_bytes(problem: Problem) -> bytes:
    response = problem.response()
    line = f"HTTP/1.1 {problem.status} {http.HTTPStatus(problem.status).phrase}\r\n".encode()
    headers = [pair for pair in response.raw_headers if pair[0] != b"connection"] + [(b"connection", b"close")]
    return line + b"".join(name + b": " + value + b"\r\n" for name, value in headers) + b"\r\n" + bytes(response.body)


def _refusing(problem: Problem) -> ASGIApp:
    return problem.response()


def _counted(served: ASGIApp, guard: Connections, address: str) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        guard.requests[address] += 1
        try:
            await served(scope, receive, send)
        finally:
            guard.requests[address] -= 1
            if not guard.requests[address]:
                del guard.requests[address]

    return app


def _once(served: ASGIApp) -> ASGIApp:
    """The application, for a connection that is closed after its answer."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def closing(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        await served(scope, receive, closing)

    return app
