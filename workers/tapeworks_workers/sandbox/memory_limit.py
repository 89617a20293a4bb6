"""How much memory an attempt may take: what it asks for, or its share of what this worker has."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from tapeworks.errors import FailureCode, JobFailure
from tapeworks_workers.processes.handles import Process
from tapeworks_workers.sandbox import memory_count, usage

SHARE = 0.8
LEAST_BYTES = 2 << 30
"""Of the worker's memory what all attempts may have together, and each of them at least."""
WATCH_SECONDS = 0.5
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Of the container that this worker runs in."""


def total_bytes() -> int:
    """The machine's memory, or its container's where that is less."""
    found = [psutil.virtual_memory().total]
    for file in _LIMITS:
        with suppress(OSError, ValueError):
            found.append(int(file.read_text()))
    return min(found)


def default_bytes(share: float) -> int:
    """What an attempt with this share of the worker's cores may take."""
    return max(LEAST_BYTES, int(SHARE * share * total_bytes()))


def exceeded(used: int, limit: int, what: str) -> JobFailure:
    """The failure of an attempt that took more than it may."""
    return JobFailure(
        FailureCode.OUT_OF_MEMORY,
        f"{what} exceeded its memory limit: {used} of {limit} bytes",
        hint="Ask for more with resources.memory_gib, or use smaller batches, buffers and row groups.",
    )


async def overrun(members: Sequence[Process], limit: int) -> JobFailure:
    """Wait until processes of ours, with all that they started, take more than the limit; for ever where they do not.

    Of the memory that a fork shares with its zygote its share is counted.
    """
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        used = await asyncio.to_thread(_used, [one.pid for one in members if not one.ended], limit)
        if used > limit:
            return exceeded(used, limit, "the job")


def _used(pids: Sequence[int], limit: int) -> int:
    """Exact only near the limit: an exact count takes milliseconds of each process."""
    if not pids:
        return 0
    processes = set().union(*(usage.below(pid) for pid in pids))
    at_most = memory_count.most_bytes(processes)
    return at_most if at_most <= limit else memory_count.used_bytes(processes)
