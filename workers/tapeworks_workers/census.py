"""Who lives in a sandbox, and how much it takes: counted from outside, where nothing in it can answer otherwise."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil

Inhabitant = tuple[int, float]
"""A process's pid out here, and when it was created."""


def inside(bwrap: int) -> set[Inhabitant]:
    """The processes in the namespace that a `bwrap` process made; none where it has ended."""
    try:
        first = next(iter(psutil.Process(bwrap).children()))
        namespace = os.readlink(f"/proc/{first.pid}/ns/pid")
    except (psutil.Error, StopIteration, OSError):
        return set()
    return set(_known(pid for pid in psutil.pids() if _namespace(pid) == namespace))


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


def private_bytes(inhabitants: set[Inhabitant]) -> int:
    """Memory that they share with nobody: what a fork has of its zygote counts once it is written to."""
    return _summed(inhabitants, "smaps_rollup", ("Private_Dirty:", "Swap:"))


def most_private_bytes(inhabitants: set[Inhabitant]) -> int:
    """No less than `private_bytes`, from what the kernel counts anyhow: that one walks through every page."""
    return _summed(inhabitants, "status", ("RssAnon:", "RssShmem:", "VmSwap:"))


def _summed(inhabitants: set[Inhabitant], file: str, wanted: tuple[str, ...]) -> int:
    total = 0
    for pid, _ in inhabitants:
        try:
            lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
        except OSError:
            continue  # it has ended
        total += sum(int(line.split()[1]) for line in lines if line.startswith(wanted))
    return total * 1024


def disk_bytes(folder: Path) -> int:
    """What lies below a folder; links are not followed."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
            except OSError:
                continue
    return total
