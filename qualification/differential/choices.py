"""Random choices that remember what was chosen, so that a set-up can be printed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")


class Choices:
    """Draws from a seed. Each part of a set-up has a stream of its own: a change to one leaves the others alone."""

    def __init__(self, seed: int, part: str) -> None:
        self._random = random.Random(f"{seed}/{part}")  # a test's, no secret

    def one(self, options: Sequence[Item]) -> Item:
        """One of the options, all equally likely."""
        return self._random.choice(options)

    def chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def integer(self, low: int, high: int) -> int:
        """An integer, both ends included."""
        return self._random.randint(low, high)

    def some(self, options: Sequence[Item], low: int, high: int) -> list[Item]:
        """Between `low` and `high` different options, in random order."""
        return self._random.sample(list(options), min(len(options), self.integer(low, high)))

    def config(self, probability: float, **arguments: Sequence[Any]) -> dict[str, Any]:
        """Each argument with a probability, with one of its values."""
        return {name: self.one(values) for name, values in arguments.items() if self.chance(probability)}
