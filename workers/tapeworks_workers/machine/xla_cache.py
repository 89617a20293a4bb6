"""What was compiled and measured for jobs of this worker, kept for those that are alike.

XLA keeps its programs in a folder of ours, known by what they compute; an attempt that goes on, or another job of the
same shapes, loads them in a fraction of the time. Beside them lies which plan was the faster for a step (see
`engine/plans/verdicts.py`). A program is made for one processor, so each kind has a folder of its own. For CPUs only.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path

from tapeworks_workers.file_trees import entries

MOST_BYTES = 1 << 30
"""More than this is not kept: what was not used for the longest goes."""


def folder_of(work_dir: Path) -> Path:
    """The folder for this machine's processor."""
    return work_dir.resolve() / "compiled" / hashlib.sha256(processor().encode()).hexdigest()[:12]


def processor() -> str:
    """The first processor's name, and a digest of what it can do."""
    try:
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    except OSError:
        return platform.machine()
    fields = {name.strip(): value.strip() for name, _, value in reversed(lines)}
    flags = hashlib.sha256(fields.get("flags", fields.get("Features", "")).encode()).hexdigest()[:12]
    return f"{fields.get('model name', platform.machine())} {flags}"


def environment(folder: Path, given: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What a runner's environment says of it; flags that were given to the worker stay."""
    flags = [
        given.get("TF_XLA_FLAGS", ""),
        f"--tf_xla_persistent_cache_directory={folder}",
        "--tf_xla_persistent_cache_device_types=CPU",
    ]
    return {"TF_XLA_FLAGS": " ".join(filter(None, flags))}


def trim(folder: Path, most_bytes: int = MOST_BYTES) -> None:
    """Make the folder, and remove from it what is too much; a file that is gone meanwhile is fine."""
    folder.mkdir(parents=True, exist_ok=True)
    left = most_bytes
    for _, size, file in sorted(_files(folder), reverse=True):
        left -= size
        if left < 0:
            file.unlink(missing_ok=True)


def _files(folder: Path) -> Iterator[tuple[float, int, Path]]:
    for entry in entries(folder):
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        if not entry.is_dir(follow_symlinks=False):
            yield max(status.st_atime, status.st_mtime), status.st_size, Path(entry.path)
