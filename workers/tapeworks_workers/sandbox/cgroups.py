"""A cgroup (version 2) for each sandbox, whose memory the kernel counts and limits, where this worker may make one.

It may where its own cgroup was given to it: by systemd (`Delegate=yes` in the unit), by a container with a cgroup
namespace and a writable /sys/fs/cgroup, or by its operator, who names a cgroup in TAPEWORKS_WORKER_CGROUP. Elsewhere
memory is counted from outside: `memory_count`. A cgroup with processes of its own cannot limit others below it, so the
worker moves itself into one below.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOTS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
OWN = Path("/proc/self/cgroup")
WORKER = "tapeworks-worker"
_ENTER = 'echo $$ > "$0" && exec "$@"'
"""What a shell does to begin a program in a cgroup: what the program starts is in it from the beginning."""


class CgroupsUnavailable(Exception):
    """No cgroups can be made here; the message says why."""


@dataclass(frozen=True)
class Cgroup:
    """The cgroup of one sandbox."""

    folder: Path

    def entering(self, command: Sequence[str]) -> list[str]:
        """A command that runs another one in this cgroup, in the same process."""
        return ["/bin/sh", "-c", _ENTER, str(self.folder / "cgroup.procs"), *command]

    def limit(self, memory: int) -> None:
        """Let the kernel refuse more memory than this, and swap. Raises OSError."""
        (self.folder / "memory.max").write_text(str(memory))
        with suppress(FileNotFoundError):  # a kernel that does not count swap
            (self.folder / "memory.swap.max").write_text("0")

    def used_bytes(self) -> int:
        """Memory in use, without the pages of files that the kernel can drop."""
        return max(0, int((self.folder / "memory.current").read_text()) - self._values("memory.stat", "inactive_file"))

    def oom_kills(self) -> int:
        """How many of its processes the kernel killed because the limit was reached."""
        return self._values("memory.events", "oom_kill")

    def remove(self) -> None:
        """Kill what is in it, and remove it."""
        with suppress(OSError):
            (self.folder / "cgroup.kill").write_text("1")
        with suppress(OSError):  # something has not ended yet: an empty cgroup costs nothing, the next one reuses it
            self.folder.rmdir()

    def _values(self, file: str, name: str) -> int:
        pairs = (line.split() for line in (self.folder / file).read_text().splitlines())
        return next((int(value) for key, value in pairs if key == name), 0)


@dataclass(frozen=True)
class Cgroups:
    """Where a worker makes cgroups."""

    folder: Path

    @classmethod
    def found(cls, named: Path | None = None, *, roots: Sequence[Path] = ROOTS, own: Path = OWN) -> Cgroups:
        """The cgroup that was given to this worker; nothing is changed. Raises CgroupsUnavailable."""
        folder = named or _own_folder(roots, own)
        try:
            controllers = (folder / "cgroup.controllers").read_text().split()
        except OSError as error:
            raise CgroupsUnavailable(f"{folder} is not a cgroup v2 folder: {error.strerror}") from error
        if "memory" not in controllers:
            raise CgroupsUnavailable(f"{folder} has no memory controller")
        if named is None and not _is_given(folder):
            raise CgroupsUnavailable(f"{folder} is not delegated to this worker: set Delegate=yes in its systemd unit")
        if not all(os.access(folder / one, os.W_OK) for one in ("", "cgroup.procs", "cgroup.subtree_control")):
            raise CgroupsUnavailable(f"{folder} cannot be written")
        return cls(folder)

    def prepare(self) -> None:
        """Move the processes of this cgroup into one below, and let it limit memory. Raises CgroupsUnavailable."""
        try:
            worker = self.folder / WORKER
            worker.mkdir(exist_ok=True)
            for pid in (self.folder / "cgroup.procs").read_text().split():
                with suppress(ProcessLookupError):
                    (worker / "cgroup.procs").write_text(pid)
            (self.folder / "cgroup.subtree_control").write_text("+memory")
        except OSError as error:
            raise CgroupsUnavailable(f"{self.folder} cannot limit memory below it: {error.strerror}") from error

    def make(self, name: str) -> Cgroup:
        """A cgroup of that name. Raises OSError."""
        folder = self.folder / f"tapeworks-sandbox-{name}"
        folder.mkdir(exist_ok=True)
        return Cgroup(folder)


def _own_folder(roots: Sequence[Path], own: Path) -> Path:
    try:
        lines = own.read_text().splitlines()
    except OSError as error:
        raise CgroupsUnavailable(f"{own} cannot be read: {error.strerror}") from error
    path = next((line.removeprefix("0::").lstrip("/") for line in lines if line.startswith("0::")), None)
    root = next((root for root in roots if (root / "cgroup.controllers").exists()), None)
    if path is None or root is None:
        raise CgroupsUnavailable("this machine has no cgroups of version 2")
    return root / path


def _is_given(folder: Path) -> bool:
    """Whether systemd delegated it, or it is the root of a container's cgroup namespace (the machine's own root has no
    `cgroup.type`)."""
    for name in ("trusted.delegate", "user.delegate"):
        with suppress(OSError):
            if os.getxattr(folder, name) == b"1":
                return True
    return folder in ROOTS and (folder / "cgroup.type").exists()
