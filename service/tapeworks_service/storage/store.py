"""Where files lie: an object store behind obstore; the local folder is one of its kinds.

Keys begin with the project: `PROJECT/jobs/{id}/attempts/{n}/…`, `PROJECT/files/{upload}`, and
`PROJECT/uploads/{id}/whole` while it comes in.
Every error of the store becomes `storage_full` or `storage_unavailable`; the service stays up.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import obstore
import structlog
from obstore.exceptions import BaseError
from obstore.store import LocalStore

from tapeworks.errors import ProblemCode
from tapeworks_service.problems import Problem

log = structlog.get_logger(__name__)

CHUNK_BYTES = 1024 * 1024
LISTED = 500
PROBE = "probe"
_SHARED_FOLDERS = 2
"""`PROJECT/uploads` and the like: one who is about to write there must find them."""


@dataclass(frozen=True)
class Digest:
    """What was read: how many bytes, and their SHA-256 in hex."""

    bytes: int
    sha256: str


@contextmanager
def _coded(what: str) -> Iterator[None]:
    try:
        yield
    except (BaseError, OSError) as error:
        log.error("store_error", what=what, error=str(error))
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or re.search(r"no space left|quota exceeded|os error (28|122)", str(error), re.IGNORECASE):
            raise Problem(ProblemCode.STORAGE_FULL, "the artifact store has no space left") from error
        raise Problem(ProblemCode.STORAGE_UNAVAILABLE, f"the artifact store cannot {what}") from error


class Store:
    """The artifact store below one folder."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._root = root
        self._store = LocalStore(root, automatic_cleanup=True)

    async def put(self, key: str, data: bytes) -> None:
        """Write one object at once, atomically. Raises 503, 507."""
        with _coded("be written"):
            await obstore.put_async(self._store, key, data, use_multipart=False)

    async def read(self, key: str, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes start … end-1 of an object, a MiB at a time. Raises 410 where it is shorter, 503.

        Read as the file it is: through the store's own stream a gibibyte takes ten times as long.
        """
        path = self._root / key
        with _coded("be read"):
            size = (await asyncio.to_thread(path.stat)).st_size
        if size < end:
            # An answer that breaks off would be asked for again without end.
            detail = f"the file is damaged: the artifact store has {size} of its bytes"
            raise Problem(ProblemCode.DIGEST_MISMATCH, detail, hint="Its content cannot be restored.", status=410)

        async def chunks() -> AsyncIterator[bytes]:
            with _coded("be read"), path.open("rb", buffering=0) as file:
                file.seek(start)
                left = end - start
                while left > 0 and (chunk := await asyncio.to_thread(file.read, min(CHUNK_BYTES, left))):
                    left -= len(chunk)
                    yield chunk

        return chunks()

    async def digest(self, key: str) -> Digest:
        """Read an object and digest what is really there. Raises 503."""
        with _coded("be read"):
            return await asyncio.to_thread(_digest_of, self._root / key)

    async def first(self, *keys: str) -> str | None:
        """The first of these objects that is there. Raises 503."""
        with _coded("be read"):
            return await asyncio.to_thread(lambda: next((key for key in keys if (self._root / key).is_file()), None))

    def path(self, key: str) -> Path:
        """Where an object lies, for what must be inspected in place."""
        return self._root / key

    async def write_at(self, key: str, offset: int, data: bytes) -> None:
        """Bytes of an object that is being put together, at their place; made where it is not there. Raises 503, 507.

        One file is written for all parts, so that putting it together is a rename. Its bytes are on the disk when this
        returns; that they are the right ones, the digest of the whole tells.
        """
        with _coded("be written"):
            await asyncio.to_thread(_write_at, self._root / key, offset, data)

    async def move(self, source: str, key: str) -> None:
        """Give an object its name for good, safe from a power cut. Raises 503, 507."""
        with _coded("be written"):
            await asyncio.to_thread(self._move, self._root / source, key)

    def _move(self, source: Path, key: str) -> None:
        target = self._root / key
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)
        self._drop_empty(source.parent)
        self._sync(key)

    def _sync(self, key: str) -> None:
        """Flush an object and the folders that name it: rows are about to refer to it."""
        path = self._root / key
        for part in (path, *path.relative_to(self._root).parents):
            descriptor = os.open(self._root / part, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def check_room(self, size: int, reserve: int) -> None:
        """Whether a file of so many bytes leaves the reserve free. Raises 507."""
        with _coded("be inspected"):
            free = shutil.disk_usage(self._root).free
        if reserve and free - size < reserve:
            detail = f"{size} bytes would leave less than {reserve} of the artifact store's disk; {free} are free"
            raise Problem(ProblemCode.STORAGE_FULL, detail)

    async def objects(self) -> AsyncIterator[list[tuple[str, float]]]:
        """All keys with the time of their last change (seconds since 1970), some at a time. Raises 503."""
        with _coded("be listed"):
            async for batch in obstore.list(self._store, chunk_size=LISTED):
                yield [(item["path"], item["last_modified"].timestamp()) for item in batch]

    async def delete(self, prefix: str) -> None:
        """Everything below a prefix, or the one object of that name; what is gone already is fine. Raises 503."""
        with _coded("delete"):
            await asyncio.to_thread(self._delete, self._root / prefix)

    def _delete(self, path: Path) -> None:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        self._drop_empty(path.parent)

    def _drop_empty(self, folder: Path) -> None:
        """Remove a folder and those above it that are empty then, but for those that all share."""
        while len(folder.relative_to(self._root).parts) > _SHARED_FOLDERS:
            try:
                folder.rmdir()
            except OSError:  # not empty, or gone already
                return
            folder = folder.parent

    async def check(self) -> None:
        """Whether the store can be written. Raises 503, 507."""
        await self.put(PROBE, b"tapeworks")


def _write_at(path: Path, offset: int, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        left = memoryview(data)
        while left:
            written = os.pwrite(descriptor, left, offset)
            left, offset = left[written:], offset + written
        os.fdatasync(descriptor)  # now, while others are digested: the whole would have to wait for it in the end
    finally:
        os.close(descriptor)


def _digest_of(path: Path) -> Digest:
    with path.open("rb") as file:
        seen = hashlib.file_digest(file, "sha256").hexdigest()
        return Digest(file.tell(), seen)
