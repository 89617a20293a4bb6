"""Collects everything of a model or a call of `fit` that a job cannot do, for one error with all of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tapeworks.errors import ComponentError


class Unsupported:
    """The parts without a counterpart, in the order in which they were found."""

    def __init__(self) -> None:
        self._found: list[str] = []

    def add(self, what: str, remedy: str) -> None:
        """Note one part and what to write instead."""
        self._found.append(f"{what}: {remedy}")

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Note a ComponentError of the block instead of raising it."""
        try:
            yield
        except ComponentError as error:
            self._found.extend(error.parts if isinstance(error, SeveralUnsupported) else [str(error)])

    def check(self) -> None:
        """Raise ComponentError with everything that was found, if anything was."""
        found = list(dict.fromkeys(self._found))
        if len(found) == 1:
            raise ComponentError(found[0])
        if found:
            raise SeveralUnsupported(found)


class SeveralUnsupported(ComponentError):
    """Several parts have no counterpart in a job; `parts` holds one message with its remedy for each."""

    def __init__(self, parts: list[str]) -> None:
        self.parts = parts
        super().__init__(f"{len(parts)} parts cannot become part of a job:\n" + "\n".join(f"- {one}" for one in parts))
