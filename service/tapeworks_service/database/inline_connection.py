"""Reads of a SQLite file in the event loop's own thread.

A row by its key takes less time than a hop to a thread and back, of which the asyncio driver makes one for every
statement, its `BEGIN` and its cursor. Readers of a write-ahead log wait for nobody, so the loop is held for what a
query computes and no longer; whoever reads many rows lets others go on between parts of them (`stream`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pydantic_core import to_json
from sqlalchemy import Connection, CursorResult, Dialect, Executable


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
