"""Arrow IPC files (Feather version 2) and streams: where their record batches are, and a few of them as a table.

Both formats are a schema, dictionaries and record batches, each a message of metadata and a body; a file has a footer
that lists them. Messages are found without their bodies being read. Record batches are then read as a stream of their
own: the schema, the dictionaries before them, and they.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO

from tapeworks_workers.components.sources.parts import PART_BYTES, Part
from tapeworks_workers.components.sources.unpacked_size import check

_CONTINUATION = b"\xff\xff\xff\xff"
_HINT = "Write smaller record batches, for example with chunksize=100_000 in pyarrow.feather.write_feather."
_LONGEST_METADATA = 64 * 1024 * 1024


class Kind(StrEnum):
    """What a file is by its first bytes."""

    PARQUET = "Parquet"
    FILE = "Arrow IPC file"
    STREAM = "Arrow IPC stream"
    FEATHER_1 = "Feather version 1"


_MAGIC = {b"ARROW1": Kind.FILE, b"FEA1": Kind.FEATHER_1, _CONTINUATION: Kind.STREAM}


def kind_of(path: Path) -> Kind:
    """Parquet where the first bytes are those of no other kind."""
    with path.open("rb") as file:
        head = file.read(8)
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), Kind.PARQUET)


@dataclass(frozen=True)
class _Message:
    """A message: where its metadata and its body are, and what it says of its rows."""

    offset: int
    end: int
    header: int
    """`_SCHEMA`, `_DICTIONARY` or `_BATCH`."""
    rows: int = 0
    unpacked: int = 0
    """Bytes of its buffers without compression."""
    number: int = 0
    """Among the record batches of a file."""


class ArrowFile:
    """One file or stream. Each method raises ValueError and OSError for what is no Arrow."""

    def __init__(self, path: Path, kind: Kind) -> None:
        self.path = path
        self._kind = kind

    @functools.cached_property
    def schema(self) -> Any:
        """The Arrow schema."""
        import pyarrow as pa

        with self.path.open("rb") as file:
            if self._kind is Kind.FILE:
                return pa.ipc.open_file(file).schema
            return pa.ipc.open_stream(_bytes(file, self._messages[0])).schema

    @functools.cached_property
    def batches(self) -> list[_Message]:
        """The record batches that have rows."""
        return [one for one in self._messages if one.header == _BATCH and one.rows]

    @functools.cached_property
    def parts(self) -> list[Part]:
        """Numbers of record batches that are read together: the first, and the one after the last."""
        parts: list[Part] = []
        begun = size = 0
        for number, one in enumerate(self.batches):
            if size and size + one.unpacked > PART_BYTES:
                parts.append((begun, number))
                begun, size = number, 0
            size += one.unpacked
        return [*parts, (begun, len(self.batches))] if self.batches else []

    def rows(self, part: Part) -> int:
        """How many rows the record batches of a part have."""
        return sum(one.rows for one in self.batches[slice(*part)])

    def read(self, part: Part, names: Sequence[str]) -> Any:
        """Columns of the record batches of a part as a pyarrow.Table."""
        import pyarrow as pa

        fields = [self.schema.get_field_index(name) for name in names] or [0]  # one column at least has the rows
        options = pa.ipc.IpcReadOptions(included_fields=sorted(fields), use_threads=False)
        chosen = self.batches[slice(*part)]
        with self.path.open("rb") as file:
            if self._kind is Kind.FILE:
                reader = pa.ipc.open_file(file, options=options)
                table = pa.Table.from_batches([reader.get_batch(one.number) for one in chosen])
            else:
                table = pa.ipc.open_stream(self._stream(file, chosen), options=options).read_all()
        table.validate(full=True)  # offsets and texts of a stranger are not trusted
        return table.select(list(names))

    def _stream(self, file: BinaryIO, chosen: Sequence[_Message]) -> Any:
        """Record batches as a stream of their own: dictionaries may change between those of the file."""
        import pyarrow as pa

        first, *others = self._messages
        before = [one for one in others if one.header == _DICTIONARY and one.offset < chosen[-1].offset]
        messages = [first, *sorted([*before, *chosen], key=lambda one: one.offset)]
        return pa.py_buffer(b"".join(_bytes(file, one) for one in messages))

    def check_size(self) -> None:
        """Raises JobFailure where a record batch unpacks to more than it may."""
        for number, one in enumerate(self.batches):
            check(self.path, one.unpacked, f"record batch {number}", _HINT, component="parquet")

    # ── messages ──

    @functools.cached_property
    def _messages(self) -> list[_Message]:
        """Those of a file are its record batches alone."""
        with self.path.open("rb") as file:
            size = file.seek(0, 2)
            if self._kind is Kind.FILE:
                found = [
                    _message(file, place, size, number) for number, place in enumerate(self._of_footer(file, size))
                ]
                return [one for one in found if one is not None]
            messages = list(_all(file, 0, size))
        if not messages or messages[0].header != _SCHEMA:
            raise ValueError("begins with no schema")
        return messages

    def _of_footer(self, file: BinaryIO, size: int) -> list[int]:
        """The offsets of the record batches that the footer of a file lists."""
        file.seek(max(0, size - 10))
        tail = file.read(10)
        if len(tail) < 10 or tail[4:] != b"ARROW1":
            raise ValueError("has no footer: the file is cut")
        length = int.from_bytes(tail[:4], "little")
        if length > size - 10:
            raise ValueError("has no footer: the file is cut")
        file.seek(size - 10 - length)
        return _Table.root(file.read(length)).blocks(3)


_SCHEMA, _DICTIONARY, _BATCH = 1, 2, 3


def _bytes(file: BinaryIO, message: _Message) -> bytes:
    file.seek(message.offset)
    return file.read(message.end - message.offset)


def _all(file: BinaryIO, offset: int, size: int) -> Iterator[_Message]:
    """The messages of a stream up to its end."""
    while offset < size and (message := _message(file, offset, size)) is not None:
        yield message
        offset = message.end


def _message(file: BinaryIO, offset: int, size: int, number: int = 0) -> _Message | None:
    """The message at an offset; None for the mark of the stream's end. Raises ValueError."""
    file.seek(offset)
    prefix = file.read(8)
    if len(prefix) < 8 or not prefix.startswith(_CONTINUATION):
        raise ValueError(f"has no message at byte {offset}: the file is cut, or older than Arrow 0.15")
    length = int.from_bytes(prefix[4:], "little", signed=True)
    if length == 0:
        return None
    if not 0 < length <= min(size - offset - 8, _LONGEST_METADATA):
        raise ValueError(f"is cut within the message at byte {offset}")
    table = _Table.root(file.read(length))
    body = offset + 8 + length
    end = body + table.number(3, "q")
    if not body <= end <= size:
        raise ValueError(f"is cut within the message at byte {offset}")
    header, content = table.number(1, "B"), table.table(2)
    if header == _DICTIONARY and content is not None:
        content = content.table(1)
    if header == _SCHEMA or content is None:
        return _Message(offset, end, header)
    rows = content.number(0, "q")
    if rows < 0:
        raise ValueError(f"says of the message at byte {offset} that it has {rows} rows")
    return _Message(offset, end, header, rows, _unpacked(file, content, body), number)


def _unpacked(file: BinaryIO, batch: _Table, body: int) -> int:
    """Bytes of a record batch's buffers; each compressed one begins with its own length."""
    spans = batch.pairs(2)
    if batch.table(3) is None:
        return sum(length for _, length in spans)
    total = 0
    for start, length in spans:
        if length >= 8:
            file.seek(body + start)
            stated = int.from_bytes(file.read(8), "little", signed=True)
            total += length if stated == -1 else max(0, stated)
    return total


@dataclass(frozen=True)
class _Table:
    """A table of the FlatBuffers format, in which Arrow writes its metadata. Each method raises ValueError."""

    buffer: bytes
    place: int

    @classmethod
    def root(cls, buffer: bytes) -> _Table:
        return cls(buffer, _unpack(buffer, 0, "I"))

    def number(self, field: int, form: str) -> int:
        """A scalar; 0 where the field is not stored."""
        at = self._field(field)
        return _unpack(self.buffer, at, form) if at else 0

    def table(self, field: int) -> _Table | None:
        at = self._field(field)
        return _Table(self.buffer, at + _unpack(self.buffer, at, "I")) if at else None

    def pairs(self, field: int) -> list[tuple[int, int]]:
        """A vector of structs of two int64."""
        start, count = self._vector(field)
        return [
            (_unpack(self.buffer, start + 16 * one, "q"), _unpack(self.buffer, start + 16 * one + 8, "q"))
            for one in range(count)
        ]

    def blocks(self, field: int) -> list[int]:
        """The offsets of a footer's vector of blocks: int64 offset, int32 length and padding, int64 length."""
        start, count = self._vector(field)
        return [_unpack(self.buffer, start + 24 * one, "q") for one in range(count)]

    def _vector(self, field: int) -> tuple[int, int]:
        at = self._field(field)
        if not at:
            return 0, 0
        at += _unpack(self.buffer, at, "I")
        return at + 4, _unpack(self.buffer, at, "I")

    def _field(self, number: int) -> int:
        """Where a field is; 0 where it is not stored."""
        fields = self.place - _unpack(self.buffer, self.place, "i")
        offset = 4 + 2 * number
        stored = _unpack(self.buffer, fields + offset, "H") if offset < _unpack(self.buffer, fields, "H") else 0
        return self.place + stored if stored else 0


def _unpack(buffer: bytes, at: int, form: str) -> int:
    try:
        return int(struct.unpack_from(f"<{form}", buffer, at)[0]) if at >= 0 else 0
    except struct.error as error:
        raise ValueError("has metadata that is not Arrow") from error
