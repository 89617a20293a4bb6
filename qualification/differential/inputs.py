"""What models take: vectors, tokens and series that are shorter than their arrays, images, texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

STEPS, VOCABULARY = 5, 9
WORDS = ("cat", "dog", "cow", "hen", "fox", "")


@dataclass(frozen=True)
class Input:
    """Arrays for a number of rows, the shape of a row, and the dtype where it is not a float's."""

    arrays: Callable[[np.random.Generator, int], np.ndarray]
    shape: tuple[int, ...]
    dtype: str | None = None


def _vectors(random: np.random.Generator, rows: int) -> np.ndarray:
    return random.normal(size=(rows, 5))


def _tokens(random: np.random.Generator, rows: int) -> np.ndarray:
    drawn = random.integers(1, VOCABULARY, size=(rows, STEPS))
    return np.where(np.arange(STEPS) < random.integers(1, STEPS + 1, size=(rows, 1)), drawn, 0)


def _series(random: np.random.Generator, rows: int) -> np.ndarray:
    drawn = random.normal(size=(rows, STEPS, 3))
    return np.where((np.arange(STEPS) < random.integers(1, STEPS + 1, size=(rows, 1)))[..., None], drawn, 0.0)


def _images(random: np.random.Generator, rows: int) -> np.ndarray:
    return random.integers(0, 256, size=(rows, 6, 6, 2)).astype("uint8")


def _words(random: np.random.Generator, rows: int) -> np.ndarray:
    return np.array(WORDS)[random.integers(0, len(WORDS), size=(rows, STEPS))]


INPUTS = {
    "vector": Input(_vectors, (5,)),
    "tokens": Input(_tokens, (STEPS,), "int64"),
    "series": Input(_series, (STEPS, 3)),
    "images": Input(_images, (6, 6, 2)),
    "words": Input(_words, (STEPS,), "string"),
}
