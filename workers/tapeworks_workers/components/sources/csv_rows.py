"""Where rows of CSV end: the rules of RFC 4180 as pyarrow and pandas apply them.

- A quotation mark opens a quoted field only where the field begins: at the start of a row, or after a delimiter. Any
  other one is text, as in `24" monitor`.
- Within a quoted field two quotation marks are one of its text, and line ends are text.
- A row ends with LF, CR LF or CR. Empty lines are no rows.

A file is cut into parts of about 1 MiB, each of whole rows, whose rows are counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tapeworks_workers.components.sources.safe_casts import Array
from tapeworks_workers.components.sources.text_files import TextFile

LONGEST_ROW = 64 * 1024 * 1024
_LF, _CR = 10, 13


class Unclosed(ValueError):
    """A quoted field without an end; `offset`: where it begins."""

    def __init__(self, offset: int) -> None:
        super().__init__("a quotation mark opens a field, and none closes it")
        self.offset = offset


@dataclass(frozen=True)
class Rows:
    """Rows that follow each other: their place in the text, and their number."""

    start: int
    end: int
    count: int


@dataclass(frozen=True)
class Dialect:
    """The characters of a file that are not values."""

    delimiter: str = ","
    quotechar: str = '"'
    comment: str | None = None

    @cached_property
    def _tokens(self) -> re.Pattern[bytes]:
        """A quoted field from its opening mark to its closing one or the end of the text; or a comment."""
        quote, delimiter = (re.escape(one.encode()) for one in (self.quotechar, self.delimiter))
        inner = rb"[^%b]*+(?:%b%b[^%b]*+)*+" % (quote, quote, quote, quote)
        # The lookbehind stands after the mark, so that the search for it is one for a single byte.
        field = rb"(%b)(?<=[\r\n%b]%b)%b(?:(%b)|\Z)" % (quote, delimiter, quote, inner, quote)
        return re.compile(field + (rb"|%b[^\r\n]*" % re.escape(self.comment.encode()) if self.comment else b""))

    @cached_property
    def _before_marks(self) -> Array:
        """By byte: whether a mark after it may open a field, or be the second of two marks."""
        table = np.zeros(256, np.bool_)
        table[[_LF, _CR, ord(self.delimiter), ord(self.quotechar)]] = True
        return table

    def without_comments(self, text: bytes) -> bytes:
        """Text of whole rows without comments; the line ends stay."""
        if self.comment is None or self.comment.encode() not in text:
            return text
        return self._tokens.sub(lambda found: found[0] if found[1] else b"", b"\n" + text)[1:]

    def quoted(self, text: bytes) -> Array:
        """The offsets at which quoted fields begin and end, by turns; the text begins with a row."""
        quote = self.quotechar.encode()
        if quote not in text:
            return np.empty(0, np.int64)
        if self.comment is None or self.comment.encode() not in text:
            octets = np.frombuffer(text, np.uint8)
            marks = np.flatnonzero(octets == quote[0])
            opening = marks[::2]
            # Every second mark opens a field, or is the second of two marks in a field: then there are no others.
            before = octets[opening[1:] - 1] if opening[0] == 0 else octets[opening - 1]
            if self._before_marks[before].all():
                return marks
        flips: list[int] = []
        for found in self._tokens.finditer(b"\n" + text):
            if found[1]:
                flips += [found.start() - 1] if found[2] is None else [found.start() - 1, found.end() - 2]
        return np.array(flips, np.int64)

    def breaks(self, text: bytes, *, final: bool) -> tuple[Array, Array]:
        """The offsets after the line ends that end rows, and those of quoted fields. `final`: no text follows."""
        octets = np.frombuffer(text, np.uint8)
        ends = np.flatnonzero(octets == _LF)
        if b"\r" in text and text.count(b"\r") > text.count(b"\r\n"):  # to find is ten times as fast as to count
            returns = np.flatnonzero(octets == _CR)
            last = returns == len(text) - 1
            followed = octets[np.minimum(returns + 1, len(text) - 1)] == _LF
            alone = returns[~followed & ~last] if not final else returns[~followed | last]
            ends = np.sort(np.concatenate([ends, alone])) if len(alone) else ends
        flips = self.quoted(text)
        if len(flips):
            ends = ends[np.searchsorted(flips, ends) % 2 == 0]
        return ends + 1, flips

    def starts(self, text: bytes) -> Array:
        """The offsets at which rows begin in a text of whole rows, without empty lines and comments."""
        ends, _ = self.breaks(text, final=True)
        begins = np.concatenate([[0], ends])
        ends = np.append(ends, len(text))
        kept = [
            begin
            for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)
            if (line := text[begin:end].rstrip(b"\r\n"))
            and not (self.comment is not None and line.startswith(self.comment.encode()))
        ]
        return np.array(kept, np.int64)

    def count(self, text: bytes, ends: Array) -> int:
        """The rows of a text of whole rows, by the offsets after their line ends."""
        if self.comment is not None and self.comment.encode() in text:
            text = self.without_comments(text)
            ends, _ = self.breaks(text, final=True)
        octets = np.frombuffer(text, np.uint8)
        begins = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
        lengths = ends - begins - 1
        blank = lengths == 0
        pairs = np.flatnonzero(lengths == 1)
        blank[pairs] = (octets[begins[pairs]] == _CR) & (octets[ends[pairs] - 1] == _LF)
        rest = len(text) - (int(ends[-1]) if len(ends) else 0)
        return len(ends) - int(blank.sum()) + (rest > 0)

    def parts(self, blocks: Iterable[bytes], start: int = 0) -> Iterator[Rows]:
        """The rows of a text in parts of about a block each, from an offset on. Raises Unclosed."""
        text, begun = b"", start
        for block, final in _with_last(_from(blocks, start)):
            text += block
            ends, flips = self.breaks(text, final=final)
            if final and len(flips) % 2:
                raise Unclosed(begun + int(flips[-1]))
            size = len(text) if final else int(ends[-1]) if len(ends) else 0
            if size and (count := self.count(text[:size], ends)):
                yield Rows(begun, begun + size, count)
            text, begun = text[size:], begun + size
            if len(text) > LONGEST_ROW:
                raise Unclosed(begun)


def _from(blocks: Iterable[bytes], start: int) -> Iterator[bytes]:
    for block in blocks:
        if start < len(block):
            yield block[start:]
        start = max(0, start - len(block))


def _with_last(blocks: Iterator[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Each block, and whether it is the last one."""
    held = next(blocks, None)
    for block in blocks:
        if held is not None:
            yield held, False
        held = block
    if held is not None:
        yield held, True


def check_characters(**given: str | None) -> None:
    """Raises ValueError for characters that a dialect cannot have."""
    for name, character in given.items():
        if character is not None and (len(character) != 1 or not character.isascii() or character in "\r\n\0"):
            raise ValueError(f"{name} is one ASCII character, not {character!r}")
    used = [character for character in (given["delimiter"], given["quotechar"], given["comment"]) if character]
    if len(set(used)) < len(used):
        raise ValueError("delimiter, quotechar and comment must differ")
    if given["decimal"] == given["thousands"]:
        raise ValueError("decimal and thousands must differ")


@dataclass(frozen=True)
class CsvFile:
    """One file, and where its rows are."""

    text: TextFile
    names: list[str]
    """Of its fields, as its header has them, then made unique."""
    unnamed: list[str]
    """Those to which the header gives no name."""
    parts: list[Rows]
