"""Sealing: what a runner wrote is copied to where it cannot change it any more, and digested meanwhile.

`seal_bundle` walks a bundle beneath the attempt's folder as `files.open_beneath` does: no link is followed, only
regular files are read, and each is read once. What the runner does to its own files afterwards changes nothing.
`copy_bounded` takes one file of a limited size.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import threading
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tapeworks.errors import FailureCode, JobFailure
from tapeworks_workers.safe_files import OpenFile, open_beneath

MAX_FILES = 20_000
MAX_DEPTH = 32
MAX_JSON_BYTES = 32 << 20
PARSED = frozenset({"manifest.json", "training_state/next_step.json"})
"""Files of JSON that are parsed whole by who compares."""
_CHUNK = 1 << 20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


@dataclass(frozen=True)
class SealedFile:
    """A file as it was copied."""

    bytes: int
    sha256: str


def seal_bundle(
    folder: Path, name: str, into: Path, *, limit: int, reserve: int, stop: threading.Event
) -> dict[str, SealedFile]:
    """Copy the folder `name` beneath `folder` to `into`, which must not exist: each file's path, size and digest.

    `limit`: bytes in all; `reserve`: bytes of the disk that stay free; `stop`: set by another thread that no longer
    needs the copy. Raises JobFailure where the folder holds what no bundle holds, or more than may be copied; OSError.
    """
    into.mkdir(parents=True)
    into.chmod(0o755)
    sealed: dict[str, SealedFile] = {}
    left = min(limit, shutil.disk_usage(into).free - reserve)
    above = os.open(folder, _FOLDER)
    try:
        root = _opened(name, _FOLDER, above)
    finally:
        os.close(above)
    with closing(_files(root, "", MAX_DEPTH)) as files:
        for path, source in files:
            with os.fdopen(source, "rb", buffering=0) as given, _made(into, path) as target:
                sealed[path] = _copied(given, target, left, stop)
            left -= sealed[path].bytes
            if path in PARSED and sealed[path].bytes > MAX_JSON_BYTES:
                raise _no_bundle(f"{path} has {sealed[path].bytes} bytes; at most {MAX_JSON_BYTES} are read")
            if len(sealed) > MAX_FILES:
                raise _no_bundle(f"it holds more than {MAX_FILES} files")
    if "manifest.json" not in sealed:
        raise _no_bundle("it has no manifest.json")
    return sealed


def _copied(source: BinaryIO, target: BinaryIO, limit: int, stop: threading.Event) -> SealedFile:
    digest, copied = hashlib.sha256(), 0
    while chunk := source.read(_CHUNK):
        copied += len(chunk)
        if stop.is_set():
            raise _no_bundle("it is no longer needed")
        if copied > limit:
            raise JobFailure(
                FailureCode.STORAGE_FULL,
                "the bundle is larger than what is left of the job's disk on this worker",
                hint="Export fewer models or formats, or run the job on a worker with a larger disk.",
            )
        digest.update(chunk)
        target.write(chunk)
    return SealedFile(copied, digest.hexdigest())


def copy_bounded(folder: Path, path: str, into: Path, *, limit: int) -> None:
    """Copy one file beneath `folder`. Raises JobFailure above `limit` bytes, UnsafePath, OSError."""
    into.parent.mkdir(parents=True, exist_ok=True)
    with open_beneath(folder, path) as file, into.open("wb") as target:
        if file.size > limit:
            raise JobFailure(
                FailureCode.RELOAD_MISMATCH,
                f"the process that loaded the bundle wrote {file.size} bytes to {path}; at most {limit} are read",
                hint="A component must not change the process that loads its bundle.",
            )
        for chunk in _chunks(file):
            target.write(chunk)


def _chunks(file: OpenFile) -> Iterator[bytes]:
    for offset in range(0, file.size, _CHUNK):
        yield file.read(offset, _CHUNK)


def _files(folder: int, above: str, depth: int) -> Generator[tuple[str, int]]:
    """The files below an open folder, which is closed, without `__pycache__`: path and descriptor of each."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for _, entry in zip(range(MAX_FILES + 1), entries, strict=False)]
        for name in sorted(names):
            path = above + name
            if name == "__pycache__":
                continue
            if not name.isprintable() or "\\" in name or any(0xD800 <= ord(letter) < 0xE000 for letter in name):
                raise _no_bundle(f"{path!a} is not a valid file name")
            descriptor = _opened(name, _FILE, folder)
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISREG(mode):
                yield path, descriptor
            elif stat.S_ISDIR(mode) and depth > 0:
                yield from _files(descriptor, f"{path}/", depth - 1)
            else:
                os.close(descriptor)
                raise _no_bundle(f"{path!r} is neither a file nor a folder, or lies too deep")
    finally:
        os.close(folder)


def _opened(name: str, flags: int, folder: int) -> int:
    try:
        return os.open(name, flags, dir_fd=folder)
    except OSError as error:
        raise _no_bundle(f"{name!r} cannot be opened: {error.strerror}") from error


def _made(root: Path, path: str) -> BinaryIO:
    """A new file below a folder, readable for all; the folders between are made."""
    below = root
    for name in path.split("/")[:-1]:
        below = below / name
        if not below.is_dir():
            below.mkdir()
            below.chmod(0o755)
    file = os.fdopen(os.open(root / path, _NEW, 0o644), "wb")
    os.fchmod(file.fileno(), 0o644)
    return file


def _no_bundle(message: str) -> JobFailure:
    return JobFailure(FailureCode.INTERNAL, f"the runner's export is not a bundle: {message}", retryable=False)
