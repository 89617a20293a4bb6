"""Rows that are asked for by their key over and over, gathered.

Those that are asked for while a query is on its way, or in the same moment, are asked for together in the next one: a
query costs more than the row, and a thousand who wait for one job, and are woken together, are one key.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import asyncpg
from sqlalchemy import Column, Engine, Select, String, any_, bindparam, func, select
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from tapeworks_service.database.postgresql import DatabaseAway, drivers_errors, let_go, taken
from tapeworks_service.single_flight import PendingResult

Row = Mapping[str, Any]
_MOST_KEYS = 1_000


@dataclass(frozen=True, eq=False)
class KeyedQuery:
    """Rows of plain columns by their key: a constant."""

    key: Column[str]
    columns: tuple[Column[Any], ...]
    """With the key."""

    @cached_property
    def of_keys_in_array(self) -> Select[Any]:
        """The rows of the array `:keys`."""
        return select(*self.columns).where(self.key == any_(bindparam("keys", type_=ARRAY(String))))

    @cached_property
    def of_keys_in_json(self) -> Select[Any]:
        """The rows of the JSON list `:keys`."""
        keys = select(func.json_each(bindparam("keys")).table_valued("value").c.value)
        return select(*self.columns).where(self.key.in_(keys))


Fetch = Callable[[KeyedQuery, Sequence[str]], Awaitable[Sequence[Row]]]


class BatchedReads:
    """Looks at rows by one query at a time."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._waiting: dict[KeyedQuery, dict[str, PendingResult[Row | None]]] = defaultdict(dict)
        self._running: asyncio.Task[None] | None = None

    async def first(self, look: KeyedQuery, key: str) -> Row | None:
        """The row of a key, None where there is none. Raises what the query raises."""
        waiting = self._waiting[look]
        answer = waiting.get(key)
        if answer is None:
            answer = waiting[key] = PendingResult()
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        return await answer.get()

    async def _run(self) -> None:
        while self._waiting:
            look, waiting = self._waiting.popitem()
            keys = list(waiting)
            for at in range(0, len(keys), _MOST_KEYS):
                part = keys[at : at + _MOST_KEYS]
                try:
                    found = {row[look.key.name]: row for row in await self._fetch(look, part)}
                except Exception as error:
                    for key in part:
                        waiting[key].fail(error)
                else:
                    for key in part:
                        waiting[key].give(found.get(key))


class PostgresqlLooks:
    """Single statements on a connection kept for them, without a transaction around each: no BEGIN, no ROLLBACK."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._compiled: dict[KeyedQuery, str] = {}
        self._connection: asyncpg.Connection | None = None

    async def close(self) -> None:
        """Give the connection up; the next look makes another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await let_go(connection)

    async def fetch(self, look: KeyedQuery, keys: Sequence[str]) -> Sequence[Row]:
        """The rows of the keys. Raises DatabaseAway."""
        text = self._compiled.get(look)
        if text is None:
            text = self._compiled[look] = str(look.of_keys_in_array.compile(dialect=self._engine.dialect))
        if self._connection is None or self._connection.is_closed():
            self._connection = await taken(self._engine)
        try:
            with drivers_errors():
                rows: Sequence[Row] = await self._connection.fetch(text, keys)
        except DatabaseAway:
            await self.close()
            raise
        return rows


class SqliteLooks:
    """Single statements on a connection kept for them, each a transaction of its own: a few microseconds apiece.

    SQLAlchemy compiles a statement once; what it does around each execution takes longer than these rows.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._compiled: dict[KeyedQuery, str] = {}
        self._dialect = sqlite.dialect(paramstyle="named")
        self._connection: sqlite3.Connection

    def __enter__(self) -> SqliteLooks:
        pooled = self._engine.raw_connection()
        self._connection = cast("sqlite3.Connection", pooled.driver_connection)
        pooled.detach()  # it is ours alone
        self._connection.row_factory = sqlite3.Row
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    async def fetch(self, look: KeyedQuery, keys: Sequence[str]) -> Sequence[Row]:
        """The rows of the keys. Raises SQLAlchemy's OperationalError, as any other reader would."""
        text = self._compiled.get(look)
        if text is None:
            text = self._compiled[look] = str(look.of_keys_in_json.compile(dialect=self._dialect))
        try:
            rows: list[Row] = self._connection.execute(text, {"keys": json.dumps(keys)}).fetchall()
        except sqlite3.Error as error:
            raise OperationalError(text, keys, error) from error
        return rows
