"""Counts what one attempt reports, and paces it: `tapeworks.schemas.report_limits` has the numbers.

A job that is faster than its rate waits: the agent reads its frames more slowly, nothing is lost. A total that is used
up ends the attempt with `quota_exceeded`, but for log lines and metric points, which are dropped with a diagnostic.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from tapeworks.errors import FailureCode, JobFailure
from tapeworks.schemas.report_limits import LIMITS, ReportLimits

YIELD_FRAMES, YIELD_BYTES = 16, 64 * 1024
"""After this much the event loop serves others."""
DROPPED = ("log_lines", "log_bytes", "points")
"""Totals whose excess is dropped: the job does not depend on them."""


class Allowance:
    """A token bucket: `most` at once, `per_second` from then on."""

    def __init__(self, per_second: float, most: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second, self._most, self._clock = per_second, most, clock
        self._left = most
        self._at = clock()

    def take(self, amount: float) -> float:
        """Take an amount; the seconds to wait until it has been earned."""
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._at) * self._per_second) - amount
        self._at = now
        return max(0.0, -self._left / self._per_second)


class ReportQuota:
    """The counters of one attempt."""

    def __init__(self, limits: ReportLimits = LIMITS, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._used: Counter[str] = Counter()
        self._frames = Allowance(limits.frames_per_second, limits.frames_at_once, clock)
        self._bytes = Allowance(limits.bytes_per_second, limits.bytes_at_once, clock)
        self._since_yield = [0, 0]

    def count(self, what: str, amount: int = 1) -> None:
        """Count something. Raises JobFailure `quota_exceeded` above its total."""
        self._used[what] += amount
        limit = getattr(self._limits, what)
        if self._used[what] > limit:
            raise JobFailure(
                FailureCode.QUOTA_EXCEEDED,
                f"the attempt exceeded its quota of {what.replace('_', ' ')}: {self._used[what]} of {limit}",
                retryable=False,
            )

    def admits(self, record: Mapping[str, Any], size: int) -> tuple[bool, str | None]:
        """Whether a record is kept, and the name of the quota that is used up by it, once.

        Raises JobFailure `quota_exceeded` where what must be kept exceeds its total.
        """
        kind = record.get("record")
        if kind == "log":
            return self._fits({"log_lines": 1, "log_bytes": len(record["text"].encode())})
        if kind == "metric":
            return self._fits({"points": len(record["values"])})
        if kind in ("event", "state"):
            self.count("events")
            self.count("event_bytes", size)
        self.count("records")
        return True, None

    def _fits(self, amounts: Mapping[str, int]) -> tuple[bool, str | None]:
        for what, amount in amounts.items():
            limit = getattr(self._limits, what)
            if self._used[what] + amount > limit:
                first = self._used[f"{what} dropped"] == 0
                self._used[f"{what} dropped"] += 1
                return False, what if first else None
        self._used.update(amounts)
        self.count("records")
        return True, None

    async def pace(self, size: int) -> None:
        """A frame of so many bytes was read: count it, and wait where the attempt is faster than its rate."""
        self.count("frame_bytes", size)
        wait = max(self._frames.take(1), self._bytes.take(size))
        self._since_yield = [self._since_yield[0] + 1, self._since_yield[1] + size]
        if wait or self._since_yield[0] >= YIELD_FRAMES or self._since_yield[1] >= YIELD_BYTES:
            self._since_yield = [0, 0]
            await asyncio.sleep(wait)
