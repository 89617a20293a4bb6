"""Small disks of a world's own: tmpfs in a mount namespace, so that nothing is mounted where anybody else sees it.

A process holds the namespace; the world starts its own processes inside it. As another user than root, a user
namespace gives the right to mount.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

MIB = 1024 * 1024


class Disks:
    """Folders with a file system each. `reach` gives a path as this process can open it."""

    def __init__(self, sizes: Mapping[Path, int]) -> None:
        self.sizes = dict(sizes)
        for folder in sizes:
            folder.mkdir(parents=True, exist_ok=True)
        mounts = " && ".join(f"mount -t tmpfs -o size={size} tmpfs '{folder}'" for folder, size in sizes.items())
        self._user = [] if os.geteuid() == 0 else ["-U", "--preserve-credentials"]
        unshare = ["unshare", *(["-r"] if self._user else []), "-m", "--propagation", "private"]
        self._holder = subprocess.Popen(
            [*unshare, "sh", "-c", f"{mounts} && echo mounted && exec cat"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"mounted\n":
            raise RuntimeError("no disk could be mounted: run this as root, or where users may make namespaces")

    def command(self, *command: str) -> list[str]:
        """A command line that runs inside."""
        return ["nsenter", "-t", str(self._holder.pid), *self._user, "-m", "--", *command]

    def reach(self, path: Path) -> Path:
        """The path of a file inside, for this process."""
        return Path(f"/proc/{self._holder.pid}/root") / path.relative_to("/")

    @contextmanager
    def full(self, folder: Path, *, leave: int = 0) -> Iterator[None]:
        """Nothing fits into a disk for the time of a block, but for `leave` bytes."""
        filler = self.reach(folder) / "filler"
        free = shutil.disk_usage(filler.parent).free
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, free - leave - MIB))
            end = file.seek(0, os.SEEK_END)
            while leave == 0 and (more := shutil.disk_usage(filler.parent).free):
                os.posix_fallocate(file.fileno(), end, more)
                end += more
        try:
            yield
        finally:
            filler.unlink()

    @contextmanager
    def read_only(self, folder: Path) -> Iterator[None]:
        """A folder cannot be written for the time of a block: a mount, which root cannot write either."""
        script = f"mount --bind '{folder}' '{folder}' && mount -o remount,bind,ro '{folder}'"
        subprocess.run(self.command("sh", "-c", script), check=True)
        try:
            yield
        finally:
            subprocess.run(self.command("umount", "-l", str(folder)), check=True)

    def close(self) -> None:
        """The namespace ends with its last process, and the disks with it."""
        self._holder.communicate()
