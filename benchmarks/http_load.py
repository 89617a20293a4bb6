"""Many requests over a few kept connections, with little work on this side: rates, and how long answers take."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    """What was seen."""

    rate: float
    """Answers per second."""
    seconds: list[float]
    """Of each answer, sorted."""

    def percentile(self, part: float) -> float:
        """In milliseconds."""
        return 1000 * self.seconds[min(len(self.seconds) - 1, int(part * len(self.seconds)))]


def get(path: str, **headers: str) -> bytes:
    """A GET request as it goes over the wire."""
    return _head("GET", path, headers) + b"\r\n"


def post(path: str, body: bytes, **headers: str) -> bytes:
    """A POST request of JSON."""
    headers |= {"content-type": "application/json", "content-length": str(len(body))}
    return _head("POST", path, headers) + b"\r\n" + body


def _head(method: str, path: str, headers: dict[str, str]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n").encode()


def hammer(port: int, request: bytes, *, status: int, connections: int, seconds: float) -> Load:
    """Send requests one after another on each connection for so long. Raises AssertionError on another status."""
    return asyncio.run(_hammer(port, request, status, connections, seconds))


async def _hammer(port: int, request: bytes, status: int, connections: int, seconds: float) -> Load:
    until = time.perf_counter() + seconds
    began = time.perf_counter()
    taken = await asyncio.gather(*(_one(port, request, status, until) for _ in range(connections)))
    spent = time.perf_counter() - began
    return Load(sum(map(len, taken)) / spent, sorted(one for part in taken for one in part))


async def _one(port: int, request: bytes, status: int, until: float) -> Sequence[float]:
    taken = []
    async with connection(port) as ask:
        while (began := time.perf_counter()) < until:
            answered, body = await ask(request)
            taken.append(time.perf_counter() - began)
            assert answered == status, (answered, body[:500])
    return taken


Ask = Callable[[bytes], Awaitable[tuple[int, bytes]]]
"""Sends a request; its answer's status and body."""


@asynccontextmanager
async def connection(port: int) -> AsyncIterator[Ask]:
    """A kept connection, for one request after another."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def ask(request: bytes) -> tuple[int, bytes]:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:"), 0)
        return int(head[9:12]), await reader.readexactly(length) if length else b""

    try:
        yield ask
    finally:
        writer.close()
