"""A JSON array of objects as JSON lines: each object on a line of its own, every byte at the same offset.

The commas between the objects become line ends; line ends and the brackets of the array become spaces. So the file is
read in parts of whole objects, as JSON lines are, and never as a whole.
"""

from __future__ import annotations

import re

import numpy as np

from tapeworks_workers.components.sources.safe_casts import Array
from tapeworks_workers.components.sources.text_files import BOM

_ESCAPES = re.compile(rb"\\.", re.DOTALL)
_SPACES = bytes.maketrans(b"\n\r", b"  ")
_QUOTE, _COMMA, _TAB, _SPACE, _LF = b'",\t \n'
_DEPTH = np.zeros(256, np.int32)
_DEPTH[list(b"[{")] = 1
_DEPTH[list(b"]}")] = -1


class BrokenArray(ValueError):
    """The text is no JSON array; `offset`: where, in bytes from the first block on."""

    def __init__(self, offset: int, message: str) -> None:
        super().__init__(message)
        self.offset = offset


def begins_array(head: bytes) -> bool:
    """Whether a text that begins so is a JSON array."""
    return head.removeprefix(BOM).lstrip().startswith(b"[")


class ArrayLines:
    """Turns an array into lines, block by block; it holds what the next block must know of those before it.

    Args:
        inside: whether the first block begins between two objects of the array, not at its opening bracket.
    """

    def __init__(self, *, inside: bool = False) -> None:
        self._depth = 1 if inside else 0
        self._opened = inside
        self._in_text = False
        self._escaped = False
        self._offset = 0

    @property
    def closed(self) -> bool:
        """Whether the array has ended."""
        return self._opened and self._depth == 0

    def lines(self, block: bytes) -> bytes:
        """The block as lines, as many bytes as it has. Raises BrokenArray."""
        if not block:
            return block
        octets = np.frombuffer(block.translate(_SPACES), np.uint8).copy()
        within = self._within_texts(block)
        steps = _DEPTH[octets]
        steps[within] = 0
        depths = np.cumsum(steps, dtype=np.int32)
        depths += np.int32(self._depth)
        ends = np.flatnonzero((depths == 0) | (depths - steps == 0))
        if len(ends):
            self._check_ends(ends, octets, steps, depths)
        octets[(octets == _COMMA) & (depths == 1) & ~within] = _LF
        octets[ends] = _SPACE
        self._depth = int(depths[-1])
        self._offset += len(block)
        return octets.tobytes()

    def _within_texts(self, block: bytes) -> Array:
        """By byte, whether it lies in a text."""
        plain = block
        if self._escaped:
            plain = b"_" + plain[1:]
        if b"\\" in plain:
            plain = _ESCAPES.sub(b"__", plain)
        self._escaped = plain.endswith(b"\\")
        quotes = np.frombuffer(plain, np.uint8) == _QUOTE
        within = np.cumsum(quotes, dtype=np.int32) + np.int32(self._in_text) & 1 == 1
        self._in_text = bool(within[-1])
        return within

    def _check_ends(self, ends: Array, octets: Array, steps: Array, depths: Array) -> None:
        """Outside of the array there is nothing but white space. Raises BrokenArray."""
        for position in ends[(octets[ends] != _SPACE) & (octets[ends] != _TAB)].tolist():
            opens = steps[position] == 1 and not self._opened
            if not opens and not (steps[position] == -1 and depths[position] == 0):
                message = "holds more after the end of the array" if self._opened else "does not begin as an array"
                raise BrokenArray(self._offset + position, message)
            self._opened = True
