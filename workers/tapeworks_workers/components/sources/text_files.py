"""Files of lines as UTF-8 bytes: plain, gzip'd, or in another encoding.

Offsets are those of the UTF-8 text. A plain file is read at any offset; a gzip'd or recoded one has to be read from
its start, so streams stay open, and the next part continues where the one before it ended.
"""

from __future__ import annotations

import codecs
import gzip
import io
import threading
import weakref
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_OPEN_STREAMS = 4
BLOCK_BYTES = 1024 * 1024
BOM = b"\xef\xbb\xbf"
_GZIP = b"\x1f\x8b\x08"
_UTF_8 = ("utf-8", "utf-8-sig", "ascii")


class Undecodable(ValueError):
    """Bytes that are no text of the encoding, or no gzip."""


class TextFile:
    """One file.

    Args:
        path: of the file; its first bytes say whether it is compressed.
        encoding: a Python codec's name.

    Raises LookupError where it names none.
    """

    def __init__(self, path: Path, encoding: str = "utf-8") -> None:
        self.path = path
        b"a".decode(encoding, "ignore")  # refuses codecs that give no text, as zip
        codecs.getincrementaldecoder(encoding)
        self._codec = codecs.lookup(encoding).name
        with path.open("rb") as file:
            self._packed = file.read(len(_GZIP)) == _GZIP
        self._plain = self._codec in _UTF_8 and not self._packed
        self._streams: list[tuple[int, BinaryIO]] = []
        weakref.finalize(self, _close, self._streams)
        self._lock = threading.Lock()

    def blocks(self, size: int = BLOCK_BYTES) -> Iterator[bytes]:
        """The whole text in blocks of a size. Raises Undecodable."""
        with self._opened() as stream:
            while block := _read(stream, size):
                yield block

    def head(self, size: int) -> bytes:
        """The first bytes. Raises Undecodable."""
        with self._opened() as stream:
            return _read(stream, size)

    def read(self, start: int, end: int) -> bytes:
        """The bytes from `start` to before `end`. Raises Undecodable."""
        if self._plain:
            with self.path.open("rb") as file:
                file.seek(start)
                return file.read(end - start)
        with self._lock:
            position, stream = self._nearest(start)
            try:
                while position < start and (skipped := _read(stream, min(start - position, BLOCK_BYTES))):
                    position += len(skipped)
                content = _read(stream, end - start)
            except BaseException:
                stream.close()
                raise
            self._streams.append((position + len(content), stream))
            return content

    def line_at(self, offset: int) -> int:
        """The number of the line that begins at or before an offset."""
        line, before, left = 1, b"", offset
        for block in self.blocks():
            block = block[:left]
            left -= len(block)
            joined = before[-1:] + block
            line += block.count(b"\n") + block.count(b"\r") - joined.count(b"\r\n")
            before = block
            if not left:
                break
        return line

    def _nearest(self, start: int) -> tuple[int, BinaryIO]:
        """The open stream that needs least reading to come to `start`, else a new one."""
        usable = [one for one in self._streams if one[0] <= start]
        if usable:
            best = max(usable, key=lambda one: one[0])
            self._streams.remove(best)
            return best
        if len(self._streams) >= _OPEN_STREAMS:
            self._streams.pop(0)[1].close()
        return 0, self._opened()

    def _opened(self) -> BinaryIO:
        raw: BinaryIO = gzip.open(self.path, "rb") if self._packed else self.path.open("rb")  # type: ignore[assignment]
        if self._codec in _UTF_8:
            return raw
        return io.BufferedReader(_Recoded(raw, self._codec), BLOCK_BYTES)


def _close(streams: list[tuple[int, BinaryIO]]) -> None:
    for _, stream in streams:
        stream.close()


def _read(stream: BinaryIO, size: int) -> bytes:
    try:
        return stream.read(size)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise Undecodable(f"cannot be decompressed: {error}") from error


class _Recoded(io.RawIOBase):
    """A stream of one encoding, read as UTF-8."""

    def __init__(self, raw: BinaryIO, encoding: str) -> None:
        self._raw = raw
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._encoding = encoding
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._ready:
            block = self._raw.read(BLOCK_BYTES // 4)
            try:
                self._ready = self._decoder.decode(block, final=not block).encode()
            except UnicodeError as error:
                raise Undecodable(f"is not {self._encoding}: {error}") from error
            if not block:
                break
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def close(self) -> None:
        self._raw.close()
        super().close()
