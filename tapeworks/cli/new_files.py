"""Files that a command writes for a user: all of them or none, and never over a file with other content."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tapeworks.errors import TapeworksError


class FilesExist(TapeworksError):
    """A file to be written is there already, with other content."""


def write_files(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write files (path below `folder` → content). Returns those that are new; a file with this content stays.

    Raises `FilesExist` before anything is written.
    """
    targets = {folder / name: content for name, content in files.items()}
    others = [path for path, content in targets.items() if path.exists() and not _holds(path, content)]
    if others:
        shown = ", ".join(map(str, others[:5]))
        raise FilesExist(f"{shown} already exists with other content: choose another folder, or move it away")
    new = [path for path in targets if not path.exists()]
    for path in new:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(targets[path])
    return new


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content
