"""How late the event loop is: a loop that stands still answers nobody, heartbeats included.

A task sleeps for a fixed time, over and over; what it oversleeps is the lateness of everything in the loop. How much of
that the process itself computed is measured beside it: the rest is a machine with too little to give.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

import structlog

from tapeworks_service.observability.metrics import Metrics

TICK_SECONDS = 0.1
_COUNTED = 1 / 40
"""Of a lease: shorter delays keep nobody from renewing."""
_STALLED = 1 / 4
"""Of a lease: a loop that was late for so long within one was stalled."""

log = structlog.get_logger(__name__)


class LoopLateness:
    """The recent lateness of the loop in which `watch_forever` runs."""

    def __init__(self, lease_seconds: float, measures: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease_seconds = lease_seconds
        self._measures = measures
        self._clock = clock
        self._due = float("inf")
        self._late: deque[tuple[float, float]] = deque()
        """When the loop went on again, and how late it was."""

    async def watch_forever(self) -> None:
        """Run until cancelled."""
        while True:
            self._due, computed = self._clock() + TICK_SECONDS, time.process_time()
            await asyncio.sleep(TICK_SECONDS)
            self._note(max(self._clock() - self._due, 0.0), time.process_time() - computed)

    def _note(self, seconds: float, computed: float) -> None:
        self._measures.lateness.observe(seconds)
        self._measures.own_lateness.observe(min(seconds, computed))
        if seconds >= self._lease_seconds * _COUNTED:
            self._late.append((self._clock(), seconds))
        if seconds >= self._lease_seconds * _STALLED:
            log.warning("event_loop_stalled", seconds=round(seconds, 3))

    @property
    def stalled(self) -> bool:
        """Whether workers could not renew for a good part of the last lease; a delay that lasts still counts."""
        now = self._clock()
        while self._late and self._late[0][0] < now - self._lease_seconds:
            self._late.popleft()
        late = sum(seconds for _, seconds in self._late) + max(now - self._due, 0.0)
        return late >= self._lease_seconds * _STALLED
