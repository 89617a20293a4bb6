"""What a spec can say and this version does not do: one table; a row goes when its feature comes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tapeworks.errors import Finding, ProblemCode
from tapeworks.spec.references import escape


@dataclass(frozen=True)
class Unsupported:
    """A place of the canonical document (`*` is any key or index) and the values that work."""

    place: str
    allowed: tuple[Any, ...]
    hint: str = "Leave it out."


TABLE = (
    Unsupported("/export/signatures", (None,)),
    Unsupported("/resources/workers", (1,), "A job runs on one worker."),
)


def unsupported(document: dict[str, Any], table: tuple[Unsupported, ...] = TABLE) -> Iterator[Finding]:
    """A finding for every place of a canonical spec document that asks for what is not there yet."""
    for row in table:
        for pointer, value in _places(document, row.place.split("/")[1:], ""):
            if not any(value == allowed and isinstance(value, type(allowed)) for allowed in row.allowed):
                message = f"{row.place.rpartition('/')[2]}: not supported by this version"
                yield Finding(pointer, ProblemCode.NOT_SUPPORTED, message, row.hint)


def _places(value: Any, steps: list[str], pointer: str) -> Iterator[tuple[str, Any]]:
    if not steps:
        yield pointer, value
    elif isinstance(value, dict):
        for key in value if steps[0] == "*" else [steps[0]]:
            if key in value:
                yield from _places(value[key], steps[1:], f"{pointer}/{escape(key)}")
    elif isinstance(value, list) and steps[0] == "*":
        for index, item in enumerate(value):
            yield from _places(item, steps[1:], f"{pointer}/{index}")
