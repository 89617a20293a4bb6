"""Work that several ask for at the same moment, done once."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Hashable
from typing import Any, Generic, TypeVar

KeyT = TypeVar("KeyT", bound=Hashable)
ResultT = TypeVar("ResultT")


class Joined(Generic[KeyT, ResultT]):
    """Who asks for a key while it is worked on gets what comes of that.

    A hundred who wait for one job are woken together: without this, each of them reads what none has kept yet.
    """

    def __init__(self) -> None:
        self._running: dict[KeyT, asyncio.Task[ResultT]] = {}

    async def get(self, key: KeyT, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        """What comes of the work that is running for the key, else of this one. Raises what it raises.

        One who goes away ends it for nobody.
        """
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.create_task(work)
            task.add_done_callback(lambda done: self._ended(key, done))
        else:
            work.close()
        return await asyncio.shield(task)

    def _ended(self, key: KeyT, task: asyncio.Task[ResultT]) -> None:
        del self._running[key]
        if not task.cancelled():
            task.exception()  # all who asked may be gone: one that nobody takes is no news then
