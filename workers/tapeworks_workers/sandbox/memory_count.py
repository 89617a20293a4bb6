"""How much memory the processes of a sandbox take, counted from outside, where no cgroup counts it.

Counted are anonymous pages and mapped shared pages, each by its share of the processes that have it, so that a page
counts once however often its process forks; what was swapped out; memfds by their size, mapped or not (one that is
mapped and open counts twice); and the files in the sandbox's own /tmp and /dev/shm. Not counted is what only the kernel
holds: buffers of pipes and sockets, and descriptors on their way through a socket. A cgroup counts those too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from tapeworks_workers.sandbox.usage import Inhabitant

TEMPORARY = ("tmp", "dev/shm")
_SHARES = ("Pss_Anon:", "Pss_Shmem:", "SwapPss:")
_WHOLE = ("RssAnon:", "RssShmem:", "VmSwap:")


def used_bytes(processes: Iterable[Inhabitant]) -> int:
    """What these processes take. Exact; costs milliseconds of each."""
    found = list(processes)
    return _summed(found, "smaps_rollup", _SHARES) + memfd_bytes(found)


def most_bytes(processes: Iterable[Inhabitant]) -> int:
    """No less than `used_bytes`, from what the kernel counts anyhow: that one walks through every page."""
    found = list(processes)
    return _summed(found, "status", _WHOLE) + memfd_bytes(found)


def memfd_bytes(processes: Iterable[Inhabitant]) -> int:
    """The memory of the memfds that these processes have open, each once."""
    sizes: dict[tuple[int, int], int] = {}
    for pid, _ in processes:
        with suppress(OSError), os.scandir(f"/proc/{pid}/fd") as descriptors:
            for one in descriptors:
                with suppress(OSError):
                    if os.readlink(one.path).startswith("/memfd:"):
                        status = os.stat(one.path)
                        sizes[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(sizes.values())


def temporary_bytes(pid: int) -> int:
    """What lies in the /tmp and /dev/shm of the sandbox that a process lives in: they are memory."""
    total = 0
    for place in TEMPORARY:
        with suppress(OSError):
            status = os.statvfs(f"/proc/{pid}/root/{place}")
            total += (status.f_blocks - status.f_bfree) * status.f_frsize
    return total


def _summed(processes: Iterable[Inhabitant], file: str, names: tuple[str, ...]) -> int:
    total = 0
    for pid, _ in processes:
        try:
            lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
        except OSError:
            continue  # it has ended
        total += sum(int(line.split()[1]) for line in lines if line.startswith(names))
    return total * 1024
