"""A row that many ask for at the same moment, read once.

A thousand requests that wait for one job are woken together. Those that ask before a read has begun share it; those
that ask while it runs share the next one, since what was read before a question was asked is no answer to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import Column, Select, bindparam, select

from tapeworks_service.single_flight import PendingResult

if TYPE_CHECKING:
    from tapeworks_service.database.engine import Transaction

Row = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class KeyedQuery:
    """Rows of plain columns by their key: a constant."""

    key: Column[str]
    columns: tuple[Column[Any], ...]

    @cached_property
    def statement(self) -> Select[Any]:
        """The row of `:key`."""
        return select(*self.columns).where(self.key == bindparam("key"))


class SharedReads:
    """Reads of single rows, one at a time for each key. `begin`: a transaction for one statement."""

    def __init__(self, begin: Callable[[], AbstractAsyncContextManager[Transaction]]) -> None:
        self._begin = begin
        self._waiting: dict[tuple[KeyedQuery, str], PendingResult[Row | None]] = {}
        self._running: dict[tuple[KeyedQuery, str], asyncio.Task[None]] = {}

    async def first(self, query: KeyedQuery, key: str) -> Row | None:
        """The row of a key, None where there is none. Raises what the read raises."""
        place = (query, key)
        answer = self._waiting.get(place)
        if answer is None:
            answer = self._waiting[place] = PendingResult()
            if place not in self._running:
                self._running[place] = asyncio.create_task(self._run(place))
        return await answer.get()

    async def _run(self, place: tuple[KeyedQuery, str]) -> None:
        """Read until nobody waits for this row."""
        query, key = place
        while (answer := self._waiting.get(place)) is not None:
            try:
                async with self._begin() as tx:
                    del self._waiting[place]
                    answer.give(cast("Row | None", await tx.one(query.statement, {"key": key})))
            except Exception as error:
                if self._waiting.get(place) is answer:  # it could not begin
                    del self._waiting[place]
                answer.fail(error)
        del self._running[place]
