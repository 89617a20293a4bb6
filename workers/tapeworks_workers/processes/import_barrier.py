"""Bars the import of Tapeworks in this process: what works here works where Tapeworks was never installed.

Imported by path, by processes that know nothing of Tapeworks: the standard library only.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

BARRED = "tapeworks"
"""What the names of our packages begin with."""


def bar() -> None:
    """Make `tapeworks*` impossible to import in this process."""
    sys.path[:] = [entry for entry in sys.path if not _is_ours(Path(entry))]
    sys.meta_path.insert(0, _Barrier())


class _Barrier:
    """First on `sys.meta_path`: says that Tapeworks is not there."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Part of Python's import protocol."""
        if name.startswith(BARRED):
            raise ModuleNotFoundError(f"No module named {name!r}: it is barred in this process", name=name)


def _is_ours(entry: Path) -> bool:
    return any(entry.glob("tapeworks*/__init__.py")) and not (entry / "keras").is_dir()
