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

from sqlalchemy import Column, Engine, Select, bindparam, func, select
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from tapeworks_service.database.postgresql import connected

Row = Mapping[str, Any]
_MOST_KEYS = 1_000


@dataclass(frozen=True, eq=False)
class Look:
    """Rows of plain columns by their key: a constant."""

    key: Column[str]
    columns: tuple[Column[Any], ...]
    """With the key."""

    @cached_property
    def of_keys(self) -> Select[Any]:
        """The rows of the list `:keys`."""
        return select(*self.columns).where(self.key.in_(bindparam("keys", expanding=True)))

    @cached_property
    def of_keys_in_json(self) -> Select[Any]:
        """The rows of the JSON list `:keys`."""
        keys = select(func.json_each(bindparam("keys")).table_valued("value").c.value)
        return select(*self.columns).where(self.key.in_(keys))


Fetch = Callable[[Look, Sequence[str]], Awaitable[Sequence[Row]]]


class _Asked:
    """A row that is asked for. An event, since a future that many await must be shielded from each, at 30 µs."""

    def __init__(self) -> None:
        self.answered = asyncio.Event()
        self.row: Row | None = None
        self.error: Exception | None = None

    def tell(self, row: Row | None, error: Exception | None) -> None:
        """To all who wait."""
        self.row, self.error = row, error
        self.answered.set()


class GatheredLooks:
    """Looks at rows by one query at a time."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._waiting: dict[Look, dict[str, _Asked]] = defaultdict(dict)
        self._running: asyncio.Task[None] | None = None

    async def first(self, look: Look, key: str) -> Row | None:
        """The row of a key, None where there is none. Raises what the query raises."""
        waiting = self._waiting[look]
        asked = waiting.get(key)
        if asked is None:
            asked = waiting[key] = _Asked()
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        await asked.answered.wait()
        if asked.error is not None:
            raise asked.error
        return asked.row

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
                        waiting[key].tell(None, error)
                else:
                    for key in part:
                        waiting[key].tell(found.get(key), None)


def from_postgresql(engine: AsyncEngine) -> Fetch:
    """Rows by one statement without a transaction around it: no BEGIN, no ROLLBACK. Raises DatabaseAway, DBAPIError."""
    outside = engine.execution_options(isolation_level="AUTOCOMMIT")

    async def fetch(look: Look, keys: Sequence[str]) -> Sequence[Row]:
        async with connected(outside) as connection:
            rows = (await connection.execute(look.of_keys, {"keys": list(keys)})).mappings()
            return [{str(name): value for name, value in row.items()} for row in rows]

    return fetch


class SqliteLooks:
    """Single statements on a connection kept for them, each a transaction of its own: a few microseconds apiece.

    SQLAlchemy compiles a statement once; what it does around each execution takes longer than these rows.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._compiled: dict[Look, str] = {}
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

    async def fetch(self, look: Look, keys: Sequence[str]) -> Sequence[Row]:
        """The rows of the keys. Raises SQLAlchemy's OperationalError, as any other reader would."""
        text = self._compiled.get(look)
        if text is None:
            text = self._compiled[look] = str(look.of_keys_in_json.compile(dialect=self._dialect))
        try:
            rows: list[Row] = self._connection.execute(text, {"keys": json.dumps(keys)}).fetchall()
        except sqlite3.Error as error:
            raise OperationalError(text, keys, error) from error
        return rows
