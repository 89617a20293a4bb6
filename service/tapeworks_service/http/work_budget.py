"""How much processor time the check of one request may take, and a place beside the event loop for long ones.

Strangers' specs are checked against strangers' schemas: what that comes to is not known before. So the check counts its
own processor time and ends itself. Long checks run one at a time on a thread, each project's in turn: many threads that
compute would keep the loop from its turns.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

ResultT = TypeVar("ResultT")

AT_ONCE_SECONDS = 0.01
"""What a check may take within the loop."""
BESIDE_SECONDS = 5.0
"""How long all checks of a project are made beside the loop after one of them took longer than that."""
LONGEST_SECONDS = 4.0
"""What a check may take at all. A spec of the largest size with 15 000 layers takes 1.5 s."""

_thread = threading.local()


class WorkExceeded(Exception):
    """The work took more than its budget."""


@contextmanager
def budget(seconds: float) -> Iterator[None]:
    """Let the work inside take so many seconds of this thread's processor time; `spend` raises beyond."""
    _thread.until = time.thread_time() + seconds
    try:
        yield
    finally:
        _thread.until = None


def spend() -> None:
    """Called at each step of a check. Raises WorkExceeded where the budget is used up."""
    until = getattr(_thread, "until", None)
    if until is not None and time.thread_time() > until:
        raise WorkExceeded


class LongChecks:
    """Runs long checks beside the loop: one at a time, and of each project one in the queue."""

    def __init__(self) -> None:
        self._beside = ThreadPoolExecutor(1, "checks")
        self._turn = asyncio.Lock()
        self._projects: dict[str, tuple[asyncio.Lock, int]] = {}
        self._beside_until: dict[str, float] = {}

    def at_once(self, project_id: str) -> bool:
        """Whether a check of this project may be tried within the loop: not where one was long a moment ago."""
        return time.monotonic() >= self._beside_until.get(project_id, 0.0)

    async def run(self, project_id: str, work: Callable[[], ResultT]) -> ResultT:
        """What the work returns or raises."""
        now = time.monotonic()
        self._beside_until = {name: until for name, until in self._beside_until.items() if until > now}
        self._beside_until[project_id] = now + BESIDE_SECONDS
        lock, users = self._projects.get(project_id, (asyncio.Lock(), 0))
        self._projects[project_id] = lock, users + 1
        try:
            async with lock, self._turn:
                running = asyncio.get_running_loop().run_in_executor(self._beside, _tidied, work)
                try:
                    return await asyncio.shield(running)
                except asyncio.CancelledError:
                    await asyncio.wait({running})  # the next one would only queue behind it
                    raise
                finally:
                    del running  # it holds the error, and the error's traceback this frame
        finally:
            lock, users = self._projects.pop(project_id)
            if users > 1:
                self._projects[project_id] = lock, users - 1

    def close(self) -> None:
        """Take no more."""
        self._beside.shutdown(wait=False, cancel_futures=True)


def _tidied(work: Callable[[], ResultT]) -> ResultT:
    """The work, after what the last one left in cycles: errors of a schema refer to each other and to the value."""
    gc.collect(1)
    return work()
