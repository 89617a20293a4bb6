"""Reads of a SQLite file in the event loop's own thread.

A row by its key takes less time than a hop to a thread and back, of which the asyncio driver makes one for every
statement, its `BEGIN` and its cursor. Readers of a write-ahead log wait for nobody, so the loop is held for what a
query computes and no longer; whoever reads many rows lets others go on between parts of them (`stream`).
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

from pydantic_core import to_json
from sqlalchemy import Column, Connection, CursorResult, Dialect, Engine, Executable, Select, bindparam, select
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import OperationalError


def json_text(value: Any) -> str:
    """A column's JSON."""
    return to_json(value, inf_nan_mode="strings").decode()


class InlineConnection:
    """What a transaction needs of SQLAlchemy's `AsyncConnection`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def dialect(self) -> Dialect:
        """The database's."""
        return self._connection.dialect

    async def execute(self, statement: Executable, parameters: Any = None) -> CursorResult[Any]:
        """Execute one statement; its rows are there at once."""
        return self._connection.execute(statement, parameters)

    @asynccontextmanager
    async def stream(self, statement: Executable) -> AsyncIterator[InlineRows]:
        """Rows that are not all held at once."""
        with self._connection.execution_options(stream_results=True).execute(statement) as result:
            yield InlineRows(result)


class InlineRows:
    """The rows of a statement, in parts."""

    def __init__(self, result: CursorResult[Any]) -> None:
        self._result = result

    async def partitions(self, size: int) -> AsyncIterator[Any]:
        """So many rows at a time; others have their turn between."""
        for part in self._result.partitions(size):
            yield part
            await asyncio.sleep(0)


@dataclass(frozen=True, eq=False)
class Look:
    """Rows of plain columns that are asked for by their key over and over: a constant."""

    key: Column[str]
    columns: tuple[Column[Any], ...]
    """With the key."""

    @cached_property
    def of_key(self) -> Select[Any]:
        """The row of `:key`."""
        return select(*self.columns).where(self.key == bindparam("key"))

    @cached_property
    def of_keys(self) -> Select[Any]:
        """The rows of `:keys`."""
        return select(*self.columns).where(self.key.in_(bindparam("keys", expanding=True)))


class Looks:
    """Single statements on a connection kept for them, each a transaction of its own: a few microseconds apiece.

    SQLAlchemy compiles a statement once; what it does around each execution takes longer than these rows.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._compiled: dict[Look, str] = {}
        self._dialect = sqlite.dialect(paramstyle="named")
        self._connection: sqlite3.Connection

    def __enter__(self) -> Looks:
        pooled = self._engine.raw_connection()
        self._connection = cast("sqlite3.Connection", pooled.driver_connection)
        pooled.detach()  # it is ours alone
        self._connection.row_factory = sqlite3.Row
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def first(self, look: Look, key: str) -> Mapping[str, Any] | None:
        """The row. Raises SQLAlchemy's OperationalError, as any other reader would."""
        text = self._compiled.get(look)
        if text is None:
            text = self._compiled[look] = str(look.of_key.compile(dialect=self._dialect))
        try:
            row: Mapping[str, Any] | None = self._connection.execute(text, {"key": key}).fetchone()
        except sqlite3.Error as error:
            raise OperationalError(text, key, error) from error
        return row
