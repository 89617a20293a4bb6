"""Downloads: streamed in chunks, with ranges, validators and digests (RFC 9110, RFC 9530)."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import quote

import structlog
from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from sqlalchemy import RowMapping
from starlette.types import Send

from tapeworks.errors import ProblemCode
from tapeworks_service.auth.callers import still_allowed
from tapeworks_service.problems import Problem
from tapeworks_service.storage.store import Store

CHECKED_SECONDS = 2.0
"""How often a download that lasts asks whether its key still opens."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class StoredFile:
    """A file of the store, as its row describes it."""

    key: str
    bytes: int
    sha256: str
    name: str

    @classmethod
    def of(cls, row: RowMapping, *, name: str) -> StoredFile:
        """From a row with key, bytes and sha256."""
        return cls(row["key"], row["bytes"], row["sha256"], name)

    @property
    def etag(self) -> str:
        """Strong: the content's digest."""
        return f'"{self.sha256}"'


async def download(request: Request, store: Store, file: StoredFile) -> Response:
    """Answer with a file: 200, 206 for one range, 304. Raises 416, 503."""
    headers = {
        "ETag": file.etag,
        "Accept-Ranges": "bytes",
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(file.sha256)).decode()}:",
        "Content-Disposition": f"attachment; filename=\"{_plain(file.name)}\"; filename*=UTF-8''{quote(file.name)}",
        "Cache-Control": "private, no-cache",
        "X-Content-Type-Options": "nosniff",
    }
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if file.etag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    start, end = 0, file.bytes
    status = 200
    if request.headers.get("if-range", file.etag) == file.etag:
        part = _range(request.headers.get("range", ""), file.bytes)
        if part is not None:
            (start, end), status = part, 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.bytes}"
    headers["Content-Length"] = str(end - start)
    content = await store.read(file.key, start, end)
    return _Download(_while_allowed(request, content), status, headers, "application/octet-stream")


class _KeyRevoked(Exception):
    """The caller may not read on."""


class _Download(StreamingResponse):
    """Breaks off where the key is revoked: the connection is closed before the announced length."""

    async def stream_response(self, send: Send) -> None:
        try:
            await super().stream_response(send)
        except _KeyRevoked:
            log.warning("download_broken_off", reason="the key was revoked")


async def _while_allowed(request: Request, content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    checked = time.monotonic()
    async for chunk in content:
        yield chunk
        if time.monotonic() - checked > CHECKED_SECONDS:
            try:
                await still_allowed(request)
            except Problem as problem:
                raise _KeyRevoked from problem
            checked = time.monotonic()


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)


def _range(header: str, size: int) -> tuple[int, int] | None:
    """Start and end of a single range; None where the header asks for none that we serve. Raises 416."""
    match = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", header.strip())
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, end = max(size - int(last), 0), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    if start >= size or start >= end:
        raise Problem(
            ProblemCode.RANGE_NOT_SATISFIABLE,
            f"the file has {size} bytes",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return start, end
