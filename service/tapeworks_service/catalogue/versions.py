"""The order of versions."""

from __future__ import annotations


def version_order(version: str) -> list[tuple[int, int | str]]:
    """Sorts "10" after "9" and "1.2" after "1"."""
    return [(1, int(part)) if part.isdigit() else (0, part) for part in version.split(".")]
