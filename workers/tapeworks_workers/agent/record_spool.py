"""The records of one attempt on their way to the service: an append-only file that outlives an outage.

A record gets its index when it is appended, so the service sees each once and without gaps. What is
stored there is forgotten here; the file is emptied whenever all of it is. On a full disk records wait in memory, up to
a few MiB. Above its limit the spool drops log lines and metric points, before they have an index, and counts them;
states, facts and events are always kept: `room` lets their sender wait.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tapeworks_workers.safe_files import NO_SPACE

MAX_BATCH_RECORDS = 1_000
MAX_BATCH_BYTES = 512 * 1024
MAX_HELD_BYTES = 4 * 1024 * 1024
"""Of records in memory, while the disk takes none."""
DISPENSABLE = frozenset({"log", "metric"})


@dataclass(frozen=True)
class _Line:
    offset: int
    size: int
    at: float
    held: bytes | None = None
    """The record where it is not in the file."""


class Spool:
    """Appended to by the relay, read in batches by the sender; one event loop."""

    def __init__(self, path: Path, *, limit: int) -> None:
        self._file = path.open("w+b", buffering=0)
        self._limit = limit
        self._end = 0
        self._held = 0
        self._lines: deque[_Line] = deque()
        self.stored = 0
        """Index of the last record that the service has."""
        self.last = 0
        """Index of the last record."""
        self._dropped = 0
        self._news = asyncio.Event()
        self._moved = asyncio.Event()
        self._emptied = asyncio.Event()
        self._emptied.set()
        self._abandoned = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a record without index. Raises OSError where neither the disk nor memory takes what must be kept."""
        if self._abandoned:
            return
        line = json.dumps({**record, "index": self.last + 1}, separators=(",", ":")).encode()
        dispensable = record.get("record") in DISPENSABLE
        if dispensable and self._end + len(line) > self._limit:
            self._dropped += 1
            return
        try:
            self._lines.append(self._kept(line, time.monotonic()))
        except OSError as error:
            if not dispensable or error.errno not in NO_SPACE:
                raise
            self._dropped += 1
            return
        self.last += 1
        self._news.set()
        self._emptied.clear()

    def _kept(self, line: bytes, at: float) -> _Line:
        """Write a line behind the last one, or hold it where the disk is full."""
        self._file.seek(self._end)
        try:
            self._write(line)
        except OSError as error:
            if error.errno not in NO_SPACE or self._held + len(line) > MAX_HELD_BYTES:
                raise
            self._held += len(line)
            return _Line(self._end, len(line), at, held=line)
        kept = _Line(self._end, len(line), at)
        self._end += len(line)
        return kept

    def _write(self, line: bytes) -> None:
        view = memoryview(line)
        while view:
            view = view[self._file.write(view) :]

    def take_dropped(self) -> int:
        """How many records were dropped for want of space since this was asked last."""
        dropped, self._dropped = self._dropped, 0
        return dropped

    async def news(self) -> None:
        """Wait until a record is there that the service does not have."""
        await self._news.wait()

    async def room(self) -> None:
        """Wait while more than the limit waits for the service."""
        while self._end > self._limit and not self._abandoned:
            await self._moved.wait()

    async def reached(self, index: int) -> None:
        """Wait until the service has every record up to an index."""
        while self.stored < index:
            await self._moved.wait()

    async def emptied(self) -> None:
        """Wait until the service has every record."""
        while self._lines:
            await self._emptied.wait()

    def batch(self, limit: int = MAX_BATCH_RECORDS) -> list[dict[str, Any]]:
        """The oldest records that the service does not have, with index and at_offset (seconds ago)."""
        now = time.monotonic()
        records: list[dict[str, Any]] = []
        size = 0
        for line in list(self._lines)[:limit]:
            size += line.size
            if records and size > MAX_BATCH_BYTES:
                break
            record = json.loads(self._read(line))
            records.append({**record, "at_offset": max(0.0, now - line.at)})
        return records

    def _read(self, line: _Line) -> bytes:
        if line.held is not None:
            return line.held
        self._file.seek(line.offset)
        parts, size = [], line.size
        while size:
            part = self._file.read(size)
            if not part:
                raise OSError("the spool file was truncated")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def forget(self, stored: int) -> None:
        """The service has everything up to this index."""
        while self._lines and self.stored < stored:
            self._let_go(self._lines.popleft())
            self.stored += 1
        self._moved.set()
        self._moved = asyncio.Event()
        if not self._lines:
            self._news.clear()
            self._emptied.set()
            self._file.truncate(0)
            self._end = 0

    def abandon(self) -> None:
        """The service takes no more: what waits is given up, and nothing is added any more."""
        self._abandoned = True
        stored = self.stored
        self.forget(stored + len(self._lines))
        self.stored = self.last = stored

    def replace_first(self, record: Mapping[str, Any]) -> None:
        """Put another record in the place of the oldest one, which the service refuses."""
        first = self._lines.popleft()
        self._let_go(first)
        line = json.dumps({**record, "index": self.stored + 1}, separators=(",", ":")).encode()
        self._lines.appendleft(self._kept(line, first.at))

    def _let_go(self, line: _Line) -> None:
        if line.held is not None:
            self._held -= line.size
