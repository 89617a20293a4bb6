"""What a runner prints, as log records: whole lines, none too long, not too many at once.

A job that prints without end must fill neither the disk nor the database: above a rate, lines are
counted instead of kept, and the count becomes a line of its own.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

MAX_TEXT = 16_384
"""Characters of a log record; the rest of a longer line is left out."""
LINES_PER_SECOND = 200.0
BURST = 2_000
TAIL_LINES = 30
_CHUNK = 1 << 16

Stream = Literal["stdout", "stderr"]
_CUT = " … (cut)"


class Output:
    """The lines of one attempt; `keep` is given a log record for each."""

    def __init__(self, keep: Callable[[dict[str, Any]], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._keep = keep
        self._clock = clock
        self._allowance = float(BURST)
        self._at = clock()
        self._left_out = 0
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        """The last lines on stderr: they are shown when a process ends without a result."""

    async def relay(self, descriptor: int, stream: Stream) -> None:
        """Keep what comes out of a pipe until its end; closes it."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=_CHUNK)
        pipe, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb")
        )
        pending = b""
        try:
            while chunk := await reader.read(_CHUNK):
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    self.line(stream, line)
                pending = pending[: 4 * MAX_TEXT + 1]  # enough to know that it is too long
        finally:
            if pending:
                self.line(stream, pending)
            pipe.close()
            self._tell_left_out(stream)

    def line(self, stream: Stream, line: bytes) -> None:
        """Keep one line, or count it where there are too many."""
        text = line.decode(errors="replace").rstrip("\r").rpartition("\r")[2].replace("\0", "␀")
        if len(text) > MAX_TEXT:
            text = text[: MAX_TEXT - len(_CUT)] + _CUT
        if stream == "stderr":
            self.tail.append(text[:500])
        now = self._clock()
        self._allowance = min(float(BURST), self._allowance + (now - self._at) * LINES_PER_SECOND)
        self._at = now
        if self._allowance < 1:
            self._left_out += 1
            return
        self._tell_left_out(stream)
        self._allowance -= 1
        self._keep({"record": "log", "stream": stream, "text": text})

    def _tell_left_out(self, stream: Stream) -> None:
        if self._left_out:
            text = f"… {self._left_out} lines left out: more than {LINES_PER_SECOND:g} a second"
            self._left_out = 0
            self._keep({"record": "log", "stream": stream, "text": text})
