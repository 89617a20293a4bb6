"""What an attempt leaves outside its folder: files in its sandbox's /tmp and /dev/shm, and System V IPC objects.

The next attempt in the sandbox must see none of it. `TemporaryFiles.record` lists what is there before the first
attempt (folders that lead to mounts, files that a package made when it was imported); `clear` removes everything else,
from outside, through the root of the sandbox's first process, which is bubblewrap's own. Mounts are not crossed and
links are not followed. Where a recorded file was changed, removed or replaced, the sandbox cannot be used again.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from tapeworks_workers import file_trees

PLACES = ("tmp", "dev/shm")
MOST_RECORDED = 1000
"""Files and folders that may be there before the first attempt."""
DEEPEST = 32
_CLONE_NEWIPC = 0x08000000
_IPC_RMID = 0
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Names = tuple[str, ...]


class NotClean(Exception):
    """What an attempt left cannot be distinguished from what was there, or cannot be removed; the message says what."""


@dataclass
class TemporaryFiles:
    """The recorded entries of a sandbox's temporary folders: names from its root → what stands there."""

    _entries: dict[Names, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def record(cls, first: int) -> TemporaryFiles:
        """`first`: the sandbox's first process. Raises NotClean where too much is there, OSError where it has ended."""
        recorded = cls()
        for place in _places(first):
            with _opened(first, place) as folder:
                recorded._record(tuple(place.split("/")), folder, os.fstat(folder).st_dev)
        return recorded

    def _record(self, names: Names, folder: int, device: int) -> None:
        for name, status in _listed(folder):
            at = (*names, name)
            self._entries[at] = _mark(status, device)
            if len(self._entries) > MOST_RECORDED or len(at) > DEEPEST:
                raise NotClean(f"more than {MOST_RECORDED} files or {DEEPEST} folders in each other were there before")
            if _is_own_folder(status, device):
                with _below(folder, name) as inner:
                    self._record(at, inner, device)

    def clear(self, first: int) -> None:
        """Remove what was not recorded. Raises NotClean, OSError."""
        missing = set(self._entries)
        problems: list[OSError] = []
        for place in _places(first):
            with _opened(first, place) as folder:
                self._clear(tuple(place.split("/")), folder, os.fstat(folder).st_dev, missing, problems)
        if problems:
            raise NotClean(f"not everything could be removed: {problems[0]}")
        if missing:
            raise NotClean(f"/{'/'.join(min(missing))} existed before the first attempt and was removed")
        remove_ipc_objects(first)

    def _clear(self, names: Names, folder: int, device: int, missing: set[Names], problems: list[OSError]) -> None:
        for name, status in _listed(folder):
            at = (*names, name)
            if at not in self._entries:
                file_trees.remove_below(folder, name, problems)
                continue
            missing.discard(at)
            if _mark(status, device) != self._entries[at]:
                raise NotClean(f"/{'/'.join(at)} existed before the first attempt and was changed")
            if _is_own_folder(status, device):
                with _below(folder, name) as inner:
                    self._clear(at, inner, device, missing, problems)


def remove_ipc_objects(first: int) -> None:
    """Remove shared memory, semaphores and message queues of a sandbox. Only root may: another worker leaves them."""
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    control = {"shm": libc.shmctl, "msg": libc.msgctl, "sem": libc.semctl}
    own = os.open("/proc/thread-self/ns/ipc", os.O_RDONLY | os.O_CLOEXEC)
    theirs = os.open(f"/proc/{first}/ns/ipc", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(own).st_ino == os.fstat(theirs).st_ino:
            raise NotClean("the sandbox has no IPC namespace of its own")
        _called(libc.setns(theirs, _CLONE_NEWIPC), "setns")  # of this thread alone
        try:
            for kind, function in control.items():
                for number in _ipc_numbers(kind):
                    function(number, *([0] if kind == "sem" else []), _IPC_RMID, None)
        finally:
            _called(libc.setns(own, _CLONE_NEWIPC), "setns")
    finally:
        os.close(own)
        os.close(theirs)


def _ipc_numbers(kind: str) -> list[int]:
    with suppress(FileNotFoundError), open(f"/proc/sysvipc/{kind}") as listing:  # a kernel without them
        return [int(line.split()[1]) for line in listing.readlines()[1:]]
    return []


def _called(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _places(first: int) -> Iterator[str]:
    """The temporary folders that are file systems of the sandbox's own."""
    root = os.stat(f"/proc/{first}/root/")
    for place in PLACES:
        if os.stat(f"/proc/{first}/root/{place}", follow_symlinks=False).st_dev != root.st_dev:
            yield place


@contextmanager
def _opened(first: int, place: str) -> Iterator[int]:
    folder = os.open(f"/proc/{first}/root/{place}", _FOLDER)
    try:
        yield folder
    finally:
        os.close(folder)


@contextmanager
def _below(folder: int, name: str) -> Iterator[int]:
    inner = os.open(name, _FOLDER, dir_fd=folder)
    try:
        yield inner
    finally:
        os.close(inner)


def _listed(folder: int) -> list[tuple[str, os.stat_result]]:
    with os.scandir(folder) as found:
        return [(entry.name, entry.stat(follow_symlinks=False)) for entry in found]


def _is_own_folder(status: os.stat_result, device: int) -> bool:
    return stat.S_ISDIR(status.st_mode) and status.st_dev == device


def _mark(status: os.stat_result, device: int) -> tuple[int, ...]:
    """What must stay: of a file its last change too, which nobody but root can set back."""
    mark = (status.st_dev, status.st_ino, status.st_mode, status.st_uid)
    is_file = not stat.S_ISDIR(status.st_mode) and status.st_dev == device
    return (*mark, status.st_ctime_ns) if is_file else mark
