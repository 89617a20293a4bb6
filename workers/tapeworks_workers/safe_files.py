"""Files that a runner wrote, opened so that it cannot make us read others.

A path is walked part by part beneath the attempt's folder, no symbolic link is followed, and only
regular files are opened. What is open stays readable when the runner removes its name.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
_CHUNK = 1 << 20
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors that say that a disk is full, or this user's share of it."""


class UnsafePath(Exception):
    """A runner named what is not a regular file of its own; the message says why."""


@dataclass(frozen=True)
class OpenFile:
    """A regular file beneath an attempt's folder; its size in bytes when it was opened."""

    descriptor: int
    size: int

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close it."""
        os.close(self.descriptor)

    def read(self, offset: int, length: int) -> bytes:
        """At most `length` bytes from `offset`, never beyond the size when it was opened. Raises OSError."""
        parts, end = [], min(self.size, offset + length)
        while offset < end:
            part = os.pread(self.descriptor, min(_CHUNK, end - offset), offset)
            if not part:
                raise OSError("the file was truncated while it was read")
            parts.append(part)
            offset += len(part)
        return b"".join(parts)

    def sha256(self) -> str:
        """Hex digest of the whole file. Raises OSError."""
        digest = hashlib.sha256()
        for offset in range(0, self.size, _CHUNK):
            digest.update(self.read(offset, _CHUNK))
        return digest.hexdigest()


def open_beneath(folder: Path, path: str) -> OpenFile:
    """Open `path` (relative, forward slashes) beneath `folder` for reading. Raises UnsafePath."""
    if not _PATH.fullmatch(path):
        raise UnsafePath(f"{path!r} is not a relative path of plain names")
    *parents, name = path.split("/")
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for parent in parents:
            below = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            os.close(at)
            at = below
        # O_NONBLOCK: opening a pipe must not wait for its writer
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
    except OSError as error:
        raise UnsafePath(f"{path!r} cannot be opened: {error.strerror}") from error
    finally:
        os.close(at)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise UnsafePath(f"{path!r} is not a regular file")
    return OpenFile(descriptor, status.st_size)
