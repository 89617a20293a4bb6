"""What a spec names as its inputs, and where."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class InputReference:
    """A `from` of a spec, and its place in what the user wrote."""

    pointer: str
    value: str
