"""Text files: the encoding is checked before anything is read, and what is no UTF-8 becomes UTF-8.

`examine(path, encoding)` reads a whole file once and raises BrokenText with the line that cannot be decoded.
`lines(path, encoding)` and `whole(path, encoding)` are functions of a graph. A byte order mark is no part of a text.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

UTF_8 = "utf-8"
_CHUNK_BYTES = 1 << 20
_UTF_16 = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


class BrokenText(ValueError):
    """A file that is not in the encoding; the message names the file and the line."""


@dataclass(frozen=True)
class TextFile:
    """A file that can be decoded."""

    path: Path
    marked: bool = False
    """Whether it begins with UTF-8's byte order mark."""


def codec(encoding: str) -> str:
    """Python's name of a text encoding. Raises ValueError."""
    try:
        "".encode(encoding)  # refuses codecs that are not of text
        name = codecs.lookup(encoding).name
    except LookupError as error:
        raise ValueError(
            f'encoding must be one that Python knows ("utf-8", "latin-1", "utf-16", "cp1252"), not {encoding!r}'
        ) from error
    return UTF_8 if name in ("utf-8-sig", "ascii") else name


def examine(path: Path, encoding: str) -> TextFile:
    """Decode a file, part by part. Raises BrokenText."""
    decoder, line = codecs.getincrementaldecoder(encoding)(), 1
    marked = False
    with path.open("rb") as file:
        for number in range(path.stat().st_size // _CHUNK_BYTES + 2):
            chunk = file.read(_CHUNK_BYTES)
            if number == 0:
                marked = encoding == UTF_8 and chunk.startswith(codecs.BOM_UTF8)
                _check_utf_16(path, chunk, encoding)
            try:
                line += decoder.decode(chunk, final=not chunk).count("\n")
            except UnicodeDecodeError as error:
                raise _broken(path, encoding, line, error) from error
            if not chunk:
                break
    return TextFile(path, marked)


def _check_utf_16(path: Path, head: bytes, encoding: str) -> None:
    if encoding != UTF_8:
        return
    if head[:2] in _UTF_16:
        raise BrokenText(f'{path.parent.name}/{path.name} is UTF-16, not UTF-8; give "encoding": "utf-16"')
    if len(head) >= 4 and (head[1:4:2] == b"\0\0" or head[0:4:2] == b"\0\0"):
        order = "utf-16-le" if head[1] == 0 else "utf-16-be"
        raise BrokenText(f'{path.parent.name}/{path.name} is UTF-16, not UTF-8; give "encoding": "{order}"')


def _broken(path: Path, encoding: str, line: int, error: UnicodeDecodeError) -> BrokenText:
    line += error.object[: error.start].count(b"\n")
    remedy = 'give its "encoding", such as "latin-1" or "cp1252"' if encoding == UTF_8 else "give its own encoding"
    byte = error.object[error.start]
    return BrokenText(f"{path.parent.name}/{path.name}, line {line}: byte 0x{byte:02x} is not {encoding}; {remedy}")


# ── in a graph ───────────────────────────────────────────────────────────────────────────────────


def whole(path: tf.Tensor, encoding: str) -> tf.Tensor:
    """The text of a file as UTF-8, a string scalar."""
    if encoding == UTF_8:
        text = tf.io.read_file(path)
        mark = tf.constant(codecs.BOM_UTF8)
        marked = tf.strings.substr(text, 0, len(codecs.BOM_UTF8)) == mark
        return tf.cond(marked, lambda: tf.strings.substr(text, len(codecs.BOM_UTF8), -1), lambda: text)
    return _python(lambda name: np.array(_decoded(name, encoding).encode(), object), path, [])


def lines(path: tf.Tensor, encoding: str, marked: bool) -> tf.data.Dataset:
    """The lines of a file as UTF-8, empty ones included. `marked`: whether some file begins with a byte order mark."""
    if encoding != UTF_8:
        split = _python(lambda name: _lines(_decoded(name, encoding)), path, [None])
        return tf.data.Dataset.from_tensor_slices(split)
    found = tf.data.TextLineDataset(path)
    return found.enumerate().map(_unmarked) if marked else found


@tf.autograph.experimental.do_not_convert
def _unmarked(index: tf.Tensor, line: tf.Tensor) -> tf.Tensor:
    return tf.cond(index == 0, lambda: tf.strings.regex_replace(line, "^\ufeff", ""), lambda: line)


def _python(function: Callable[[bytes], np.ndarray], path: tf.Tensor, shape: list[int | None]) -> tf.Tensor:
    """Stateless, so the iterator can be saved."""
    return tf.ensure_shape(tf.numpy_function(function, [path], tf.string, stateful=False), shape)


def _decoded(name: bytes, encoding: str) -> str:
    return Path(name.decode()).read_bytes().decode(encoding).removeprefix("\ufeff")


def _lines(text: str) -> np.ndarray:
    """As TextLineDataset cuts them: at LF, less a CR before it."""
    found = [line.removesuffix("\r").encode() for line in text.split("\n")]
    return np.array(found if found[-1] else found[:-1], object).reshape(-1)
