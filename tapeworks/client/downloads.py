"""Download a file so that what stands under its name is always whole.

Bytes go to a hidden file beside the target, named after the digest; a broken connection goes on
from there (`Range`), in this call or in a later one. Only when the sha-256 of `Repr-Digest` fits is
it renamed to the target.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import httpx

from tapeworks.client.connection import Connection
from tapeworks.errors import ApiError, Unavailable

_AS_STORED = {"Accept-Encoding": "identity"}
_FILENAME = re.compile(r'filename="?([A-Za-z0-9_][A-Za-z0-9_.-]*)"?')


@dataclass(frozen=True)
class _Offered:
    """What the service says about a file before its bytes."""

    size: int
    sha256: str
    etag: str
    filename: str


def download(connection: Connection, path: str, target: Path, *, params: dict[str, str] | None = None) -> Path:
    """Fetch `path` to `target` (a folder: under the service's own file name). Returns the file.

    Raises `ApiError` `digest_mismatch` where the bytes are not what the service says they are.
    """
    pending = _Download(connection, path, target, params)
    while True:
        had = pending.received
        try:
            return connection.repeat(pending.fetch, repeatable=True)
        except Unavailable:
            if pending.received == had:
                raise  # a connection that breaks now and then is no reason to give up while bytes arrive


@dataclass
class _Download:
    connection: Connection
    path: str
    target: Path
    params: dict[str, str] | None
    received: int = 0

    def fetch(self) -> Path:
        """All the bytes, or those that are missing; `Unavailable` where the connection breaks."""
        with self.connection.stream(self.path, params=self.params, headers=_AS_STORED) as response:
            offered = _offered(response)
            file = self.target / offered.filename if self.target.is_dir() else self.target
            part = file.with_name(f".{file.name}.{offered.sha256[:16]}.part")
            have = part.stat().st_size if part.exists() else 0
            if have == 0:
                self._append(response, part)
        if 0 < have < offered.size:
            headers = {**_AS_STORED, "Range": f"bytes={have}-", "If-Range": offered.etag}
            with self.connection.stream(self.path, params=self.params, headers=headers) as response:
                if response.status_code != 206:
                    raise Unavailable(0, "unreachable", f"{self.path} changed during the download")
                self._append(response, part)
        _check(part, offered)
        part.replace(file)
        return file

    def _append(self, response: httpx.Response, part: Path) -> None:
        with part.open("ab") as file:
            for chunk in response.iter_bytes():
                file.write(chunk)
                self.received += len(chunk)


def _offered(response: httpx.Response) -> _Offered:
    digest = re.search(r"sha-256=:([A-Za-z0-9+/=]+):", response.headers.get("Repr-Digest", ""))
    size = response.headers.get("Content-Length", "")
    if digest is None or not size.isdigit():
        raise ApiError(
            response.status_code,
            "invalid_answer",
            f"{response.request.url} has no digest or no length in its response headers",
        )
    named = _FILENAME.search(response.headers.get("Content-Disposition", ""))
    return _Offered(
        size=int(size),
        sha256=base64.b64decode(digest[1]).hex(),
        etag=response.headers.get("ETag", ""),
        filename=named[1] if named else "download",
    )


def _check(part: Path, offered: _Offered) -> None:
    with part.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual == offered.sha256:
        return
    size = part.stat().st_size
    if size < offered.size:
        raise Unavailable(0, "unreachable", f"the connection ended after {size} of {offered.size} bytes")
    part.unlink()
    raise ApiError(200, "digest_mismatch", f"sha-256 of the download must be {offered.sha256}, got {actual}")
