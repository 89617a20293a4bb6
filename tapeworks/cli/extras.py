"""Whether what a command needs is installed."""

from __future__ import annotations

from importlib.util import find_spec

from tapeworks.errors import TapeworksError


def require(module: str, extra: str, what: str) -> None:
    """Raises TapeworksError where a module is missing, with the extra that has it."""
    if find_spec(module) is None:
        raise TapeworksError(f"{what} needs the extra {extra!r}: python -m pip install 'tapeworks[{extra}]'")
