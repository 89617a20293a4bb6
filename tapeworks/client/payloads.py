"""A folder as one file: what is uploaded of it, the same bytes for the same files.

`packed(path)` gives what to send of a file or a folder. A folder's tar is never written down: its headers are made
anew whenever a part of it is read, so a gibibyte takes no room and a digest no copy.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tapeworks.errors import TapeworksError

CHUNK = 1 << 20
_BLOCK = tarfile.BLOCKSIZE


class NothingToSend(TapeworksError):
    """A path that contains no file that could be uploaded."""


class Payload(Protocol):
    """Bytes of known length that may be read from anywhere."""

    @property
    def size(self) -> int:
        """In bytes."""

    def read(self, offset: int, length: int) -> bytes:
        """At most `length` bytes from `offset`. Raises OSError."""


@dataclass(frozen=True)
class InMemory:
    """Bytes that are there."""

    content: bytes

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.content)

    def read(self, offset: int, length: int) -> bytes:
        """At most `length` bytes from `offset`."""
        return self.content[offset : offset + length]


@dataclass(frozen=True)
class OneFile:
    """A file as it is."""

    path: Path
    size: int

    def read(self, offset: int, length: int) -> bytes:
        """At most `length` bytes from `offset`. Raises OSError, also where the file has become shorter."""
        with self.path.open("rb") as file:
            file.seek(offset)
            data = file.read(min(length, self.size - offset))
        if len(data) < min(length, self.size - offset):
            raise OSError(None, "the file was truncated while it was read", str(self.path))
        return data


class Tar:
    """A tar of files, in order of name, without times and owners."""

    def __init__(self, folder: Path, files: Sequence[Path]) -> None:
        self._folder = folder
        self._files = [(file, file.stat().st_size) for file in files]
        self._starts: list[int] = []
        at = 0
        for file, size in self._files:
            self._starts.append(at)
            at += len(self._header(file, size)) + _padded(size)
        self._end = at
        self.size = at + 2 * _BLOCK

    def _header(self, file: Path, size: int) -> bytes:
        info = tarfile.TarInfo(file.relative_to(self._folder).as_posix())
        info.size, info.mode = size, 0o644
        return info.tobuf(tarfile.PAX_FORMAT)

    def read(self, offset: int, length: int) -> bytes:
        """At most `length` bytes from `offset`. Raises OSError."""
        parts, end = [], min(offset + length, self.size)
        while offset < end:
            if offset >= self._end:
                part = bytes(end - offset)
            else:
                index = bisect_right(self._starts, offset) - 1
                part = self._of(index, offset - self._starts[index], end - offset)
            parts.append(part)
            offset += len(part)
        return b"".join(parts)

    def _of(self, index: int, offset: int, length: int) -> bytes:
        """Bytes of one entry: what is left of its header, else of its content, else of its padding."""
        file, size = self._files[index]
        header = self._header(file, size)
        if offset < len(header):
            return header[offset : offset + length]
        offset -= len(header)
        if offset < size:
            return OneFile(file, size).read(offset, length)
        return bytes(min(length, _padded(size) - offset))


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def packed(path: Path) -> Payload:
    """What to send of a file or a folder. Raises NothingToSend, OSError."""
    if not path.is_dir():
        return OneFile(path, path.stat().st_size)
    files = files_of(path)
    if not files:
        raise NothingToSend(f"{path} contains no file")
    return Tar(path, files)


def files_of(folder: Path) -> list[Path]:
    """The files of a folder in order of name; hidden ones and what Python leaves are not among them."""
    found = [file for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]
    return sorted(file for file in found if not _left_out(file.relative_to(folder)))


def _left_out(path: Path) -> bool:
    return any(part.startswith(".") or part in ("__pycache__", "node_modules") for part in path.parts)


def zipped(files: dict[str, bytes]) -> InMemory:
    """A zip of texts: the same bytes for the same content."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name), files[name], zipfile.ZIP_DEFLATED)
    return InMemory(written.getvalue())


def sha256(payload: Payload) -> str:
    """Hex digest of the whole. Raises OSError."""
    digest = hashlib.sha256()
    for offset in range(0, payload.size, CHUNK):
        digest.update(payload.read(offset, CHUNK))
    return digest.hexdigest()
