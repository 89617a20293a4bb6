"""Work that several ask for at the same moment, done once."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Hashable
from typing import Any, Generic, TypeVar

KeyT = TypeVar("KeyT", bound=Hashable)
ResultT = TypeVar("ResultT")


class PendingResult(Generic[ResultT]):
    """What several wait for. An event: a future would have to be shielded from each of them, at 30 µs."""

    def __init__(self) -> None:
        self._given = asyncio.Event()
        self._result: ResultT
        self._error: BaseException | None = None

    def give(self, result: ResultT) -> None:
        """Sets the result for all waiting calls."""
        self._result = result
        self._given.set()

    def fail(self, error: BaseException) -> None:
        """All who wait raise it."""
        self._error = error
        self._given.set()

    async def get(self) -> ResultT:
        """Wait for it. Raises what it failed with."""
        await self._given.wait()
        if self._error is not None:
            raise self._error
        return self._result


class SingleFlight(Generic[KeyT, ResultT]):
    """Who asks for a key while it is worked on gets what comes of that.

    A hundred who wait for one job are woken together: without this, each of them reads what none has kept yet.
    """

    def __init__(self) -> None:
        self._running: dict[KeyT, tuple[PendingResult[ResultT], asyncio.Task[None]]] = {}

    async def get(self, key: KeyT, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        """What comes of the work that is running for the key, else of this one. Raises what it raises.

        One who goes away ends it for nobody.
        """
        if key in self._running:
            work.close()
        else:
            answer: PendingResult[ResultT] = PendingResult()
            self._running[key] = answer, asyncio.create_task(self._do(key, work, answer))
        return await self._running[key][0].get()

    async def _do(self, key: KeyT, work: Coroutine[Any, Any, ResultT], answer: PendingResult[ResultT]) -> None:
        try:
            answer.give(await work)
        except BaseException as error:
            answer.fail(error)
            if not isinstance(error, Exception):
                raise
        finally:
            del self._running[key]
