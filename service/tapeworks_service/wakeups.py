"""Wakes requests that wait for something to change.

Waking is an optimisation: whoever waits looks again by itself after a while, so a missed wake or
another service instance costs time, never correctness. A waiting request holds no connection.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

QUEUE = "queue"
"""The topic of jobs that became claimable."""


def job_topic(job_id: str) -> str:
    """The topic of everything that happens to one job."""
    return f"job:{job_id}"


class Listener:
    """One waiting request: registered before its first look, so that nothing falls between look and wait."""

    def __init__(self, hub: WakeHub) -> None:
        self._hub = hub
        self._event = asyncio.Event()

    def wake(self) -> None:
        """End the wait."""
        self._event.set()

    async def wait(self, seconds: float) -> None:
        """Until woken, or for so many seconds."""
        if self._hub.closing:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(max(seconds, 0.0)):  # wait_for makes a task of each wait in Python 3.11
                await self._event.wait()
        self._event.clear()


class WakeHub:
    """Topics and who waits for them, within one process and event loop."""

    def __init__(self) -> None:
        self._listeners: dict[str, set[Listener]] = defaultdict(set)
        self.closing = False
        """True once the server goes down: waits end at once, streams close."""

    @contextmanager
    def listen(self, *topics: str) -> Iterator[Listener]:
        """Register for topics while the block runs."""
        listener = Listener(self)
        for topic in topics:
            self._listeners[topic].add(listener)
        try:
            yield listener
        finally:
            for topic in topics:
                self._listeners[topic].discard(listener)
                if not self._listeners[topic]:
                    del self._listeners[topic]

    def wake(self, topics: Iterable[str]) -> None:
        """Wake everyone who waits for one of the topics."""
        for topic in topics:
            for listener in self._listeners.get(topic, ()):
                listener.wake()

    def close(self) -> None:
        """Let every waiting request go: the server is about to stop."""
        self.closing = True
        self.wake(list(self._listeners))
