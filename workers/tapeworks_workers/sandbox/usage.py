"""Who lives in a sandbox, and how much it takes: counted from outside, where nothing in it can answer otherwise."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil

from tapeworks_workers.file_trees import entries

Inhabitant = tuple[int, float]
"""A process's pid out here, and when it was created."""


def inside(bwrap: int) -> set[Inhabitant]:
    """The processes in the namespace that a `bwrap` process made; none where it has ended."""
    namespace = _namespace_made_by(bwrap)
    return set() if namespace is None else set(_known(pid for pid in psutil.pids() if _namespace(pid) == namespace))


def lives_in(pid: int, bases: Iterable[int], *, walled: bool, uid: int | None) -> bool:
    """Whether a process lives in a sandbox: `bases` are the processes that were started for it from out here.

    `walled`: they are `bwrap`, which makes a pid namespace; else what runs as the sandbox's user belongs to it, or what
    descends from a base.
    """
    if walled:
        namespace = _namespace(pid)
        return namespace is not None and namespace in map(_namespace_made_by, bases)
    if uid is not None:
        return psutil.pid_exists(pid) and _uid(psutil.Process(pid)) == uid
    return any(found == pid for base in bases for found, _ in below(base))


def first_inside(bwrap: int) -> int | None:
    """The first process in the namespace that a `bwrap` process made: `bwrap` itself again; None where it has ended."""
    try:
        return int(next(iter(psutil.Process(bwrap).children())).pid)
    except (psutil.Error, StopIteration):
        return None


def _namespace_made_by(bwrap: int) -> str | None:
    first = first_inside(bwrap)
    namespace = None if first is None else _namespace(first)
    return None if namespace == _namespace(os.getpid()) else namespace


def of_user(uid: int) -> set[Inhabitant]:
    """The processes of a user."""
    return set(_known(process.pid for process in psutil.process_iter() if _uid(process) == uid))


def below(pid: int) -> set[Inhabitant]:
    """A process and those that it started, as far as they did not leave it."""
    try:
        parent = psutil.Process(pid)
        return set(_known([pid, *(child.pid for child in parent.children(recursive=True))]))
    except psutil.Error:
        return set()


def _namespace(pid: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return None


def _uid(process: psutil.Process) -> int | None:
    try:
        return process.uids().real
    except psutil.Error:
        return None


def _known(pids: Iterator[int] | list[int]) -> Iterator[Inhabitant]:
    for pid in pids:
        try:
            process = psutil.Process(pid)
            if process.status() != psutil.STATUS_ZOMBIE:
                yield pid, process.create_time()
        except psutil.Error:
            continue


def disk_bytes(folder: Path) -> int:
    """What lies below a folder; links are not followed.

    Raises OSError with ENAMETOOLONG where folders are nested deeper than a path can say: nobody could count there.
    """
    total = 0
    for entry in entries(folder):
        try:
            total += entry.stat(follow_symlinks=False).st_blocks * 512
        except FileNotFoundError:
            continue
    return total
