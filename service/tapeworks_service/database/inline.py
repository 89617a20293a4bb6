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
from typing import Any, cast

from sqlalchemy import Connection, CursorResult, Dialect, Engine, Executable, Select
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import OperationalError


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


class Looks:
    """Single statements on a connection kept for them, each a transaction of its own: a few microseconds apiece.

    SQLAlchemy compiles a statement once; what it does around each execution takes longer than these rows.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._compiled: dict[Select[Any], str] = {}
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

    def first(self, statement: Select[Any], parameters: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The first row. Raises SQLAlchemy's OperationalError, as any other reader would."""
        text = self._compiled.get(statement)
        if text is None:
            text = self._compiled[statement] = str(statement.compile(dialect=self._dialect))
        try:
            row: Mapping[str, Any] | None = self._connection.execute(text, parameters).fetchone()
        except sqlite3.Error as error:
            raise OperationalError(text, parameters, error) from error
        return row
