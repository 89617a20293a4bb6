"""Uploads that jobs read, kept on the worker by their digest: downloaded once, unpacked once, read by many.

A project's lie in a folder of their own, so that a sandbox can be shown them alone. An entry is made aside and renamed
when it is whole; one that a job reads stays, of the others those go that were not used for the longest.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from tapeworks.archives import Archive, UnsafeArchive
from tapeworks.errors import FailureCode, JobFailure
from tapeworks.schemas import worker_protocol
from tapeworks.schemas.assets import SUFFIXES, DataFormat

MOST_BYTES = 50 << 30
FILES = "files"

log = structlog.get_logger(__name__)

Download = Callable[[Path], Awaitable[None]]
"""Writes the bytes of an input to a file; raises JobFailure where they cannot be had whole."""
Make = Callable[[Path], Awaitable[None]]


@dataclass(frozen=True)
class CachedUpload:
    """An upload on this worker."""

    folder: Path
    """Its files, nothing else."""


class Cache:
    """The uploads of all projects, below one folder."""

    def __init__(self, folder: Path, *, reserve: int, most_bytes: int = MOST_BYTES) -> None:
        self._folder = folder.resolve()
        self._reserve = reserve
        self._most = most_bytes
        self._locks: defaultdict[Path, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._held: Counter[Path] = Counter()

    def of_project(self, project: str) -> Path:
        """Where a project's uploads lie; made where it is not there."""
        folder = self._folder / hashlib.sha256(project.encode()).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    async def hold(self, project: str, one: worker_protocol.LeaseInput, download: Download) -> CachedUpload:
        """The files of an upload, kept until `let_go`. Raises JobFailure, OSError."""

        async def make(aside: Path) -> None:
            await download(aside / "upload")
            await asyncio.to_thread(_unpack, aside, one)
            log.info("upload kept", reference=one.from_, bytes=one.bytes)

        try:
            return await self.hold_made(project, f"{one.sha256}.{one.about.get('format', one.kind)}", one.bytes, make)
        except UnsafeArchive as error:
            raise JobFailure(FailureCode.INVALID_DATA, f"{one.from_} cannot be unpacked: {error}") from error

    async def hold_made(self, project: str, name: str, bytes: int, make: Make) -> CachedUpload:
        """The files of an entry, made where it is not there, kept until `let_go`. Raises what `make` raises.

        Args:
            name: of the entry; the same name is the same content.
            bytes: that it will take, as far as that is known.
            make: fills the folder `files` below the one that it is given.
        """
        entry = self.of_project(project) / name
        self._held[entry] += 1
        try:
            async with self._locks[entry]:
                if not (entry / FILES).is_dir():
                    await self._make(entry, bytes, make)
            os.utime(entry)
            return CachedUpload(entry / FILES)
        except BaseException:
            self.let_go(CachedUpload(entry / FILES))
            raise

    def let_go(self, kept: CachedUpload) -> None:
        """A job reads it no more."""
        entry = kept.folder.parent
        self._held[entry] -= 1
        if not self._held[entry]:
            del self._held[entry]
            self._locks.pop(entry, None)

    async def _make(self, entry: Path, bytes: int, make: Make) -> None:
        await asyncio.to_thread(self._make_room, bytes)
        aside = entry.with_name(f"{entry.name}.part")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        try:
            await make(aside)
            await asyncio.to_thread(_make_readable, aside / FILES)
            aside.rename(entry)
        finally:
            await asyncio.to_thread(shutil.rmtree, aside, ignore_errors=True)

    def _make_room(self, wanted: int) -> None:
        """Remove what nobody reads, until the new one fits. Raises JobFailure `storage_full`."""
        entries = [entry for entry in self._folder.glob("*/*") if entry.is_dir() and entry.suffix != ".part"]
        sizes = {entry: _size(entry) for entry in entries}
        for entry in sorted(entries, key=lambda entry: entry.stat().st_mtime):
            free = shutil.disk_usage(self._folder).free - self._reserve
            if sum(sizes.values()) + wanted <= self._most and free >= 2 * wanted:
                return
            if not self._held[entry]:
                shutil.rmtree(entry, ignore_errors=True)
                del sizes[entry]
        if shutil.disk_usage(self._folder).free - self._reserve < wanted:
            raise JobFailure(FailureCode.STORAGE_FULL, f"the worker's disk has no space for {wanted} bytes more")


def _size(entry: Path) -> int:
    return sum(file.stat().st_size for file in entry.rglob("*") if file.is_file())


def _unpack(aside: Path, one: worker_protocol.LeaseInput) -> None:
    """Turn `upload` into `files/`: an archive's content, or the file under a name that says what it is."""
    upload = aside / "upload"
    about: dict[str, Any] = dict(one.about)
    archive = Archive.open(upload) if one.kind == "package" or about.get("archive") else None
    if archive is not None:
        archive.extract(aside / FILES)
        upload.unlink()
    else:
        format = DataFormat(about["format"])
        (aside / FILES).mkdir()
        upload.rename(aside / FILES / f"{about['name']}{SUFFIXES[format][0]}")


def _make_readable(files: Path) -> None:
    for place in (files, *files.rglob("*")):
        place.chmod(0o755 if place.is_dir() else 0o644)  # another user reads it in a sandbox
