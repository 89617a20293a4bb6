"""TFRecord files: which records can be read, and which file and record an error is of.

TensorFlow's own errors name neither. `examine(path, …)` reads a file as a job does, with its checksums.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tensorflow as tf

from tapeworks_workers.components.sources.image_files import BrokenImage

_AT_ONCE = 256
_BLOCK = 1 << 20
_ANY_FORMAT = 47
"""For zlib: gzip or zlib, as the header says."""
UNREADABLE = (tf.errors.OpError, UnicodeDecodeError, BrokenImage)
"""What parsing a broken record raises; UnicodeDecodeError: TensorFlow's message, which quotes its bytes."""


@dataclass(frozen=True)
class RecordFile:
    """What a TFRecord file holds."""

    path: Path
    compression: str
    records: int
    """Up to the first that is damaged in its frame: nothing behind that can be found."""
    broken: dict[int, str] = field(default_factory=dict)
    """Number of a record, from 0 → why it cannot be parsed. That of `records` is damaged in its frame."""

    def reasons(self) -> list[str]:
        """One sentence for each broken record."""
        return [self.reason(number) for number in self.broken]

    def reason(self, number: int) -> str:
        """File, number of the record from 1, and why it cannot be read."""
        rest = ", so the rest of the file is lost" if number == self.records else ""
        return f"{self.path.name}, record {number + 1}: {self.broken[number]}{rest}"


def examine(
    path: Path, compression: str, parse: Callable[[tf.Tensor], Any], *, until_first: bool = False
) -> RecordFile:
    """Read and parse every record, or those up to the first that is broken.

    Args:
        compression: `GZIP`, `ZLIB` or none.
        parse: takes a vector of records. Its OpErrors and BrokenImages are reasons.
    """
    records = tf.data.TFRecordDataset(str(path), compression_type=compression)
    broken: dict[int, str] = {}
    count = 0
    batches = iter(records.batch(_AT_ONCE))
    while True:
        try:
            batch = next(batches, None)
        except tf.errors.OpError:
            return _to_the_end(path, compression, records, count, parse, broken, until_first=until_first)
        if batch is None:
            if compression and not is_complete(path):
                broken[count] = "the compressed data ends early"
            return RecordFile(path, compression, count, broken)
        _parse(batch, count, parse, broken, until_first=until_first)
        if broken and until_first:
            return RecordFile(path, compression, count + _AT_ONCE, broken)
        count += len(batch)


def _to_the_end(
    path: Path,
    compression: str,
    records: tf.data.Dataset,
    count: int,
    parse: Callable[[tf.Tensor], Any],
    broken: dict[int, str],
    *,
    until_first: bool,
) -> RecordFile:
    """The rest of a file whose next batch holds a damaged frame, record by record."""
    rest = iter(records.skip(count))
    while True:
        try:
            record = next(rest, None)
        except tf.errors.OpError as error:
            broken[count] = said(error)
            return RecordFile(path, compression, count, broken)
        if record is None or (broken and until_first):
            return RecordFile(path, compression, count, broken)
        _parse(record[None], count, parse, broken, until_first=until_first)
        count += 1


def _parse(
    batch: tf.Tensor,
    before: int,
    parse: Callable[[tf.Tensor], Any],
    broken: dict[int, str],
    *,
    until_first: bool,
) -> None:
    try:
        parse(batch)
    except UNREADABLE:
        for number, record in enumerate(batch):
            try:
                parse(record[None])
            except UNREADABLE as error:
                broken[before + number] = said(error)
                if until_first:
                    return


def is_complete(path: Path) -> bool:
    """Whether compressed data (gzip, also of several members, or zlib) ends as it says. TensorFlow takes data that is
    cut for whole, and reads the records that are there."""
    unpacked = zlib.decompressobj(_ANY_FORMAT)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            try:
                while block:
                    if unpacked.eof:
                        unpacked = zlib.decompressobj(_ANY_FORMAT)
                    unpacked.decompress(block)
                    block = unpacked.unused_data
            except zlib.error:
                return False
    return unpacked.eof


def said(error: Exception) -> str:
    """The message; TensorFlow's without its names of nodes and operations."""
    if isinstance(error, UnicodeDecodeError):
        return "is not a tf.train.Example"
    if isinstance(error, BrokenImage):
        return str(error)
    message = str(error.message) if isinstance(error, tf.errors.OpError) else str(error)
    message = message.partition("}} ")[2] or message
    message = message.partition(" [Op:")[0].partition("Name: <unknown>, ")[2] or message.partition(" [Op:")[0]
    return " ".join(message.split())
