"""Writes of a SQLite file: transactions that come at the same time are committed together.

A commit waits for the disk; a small statement takes less than a hop to a thread and back. So statements run in the
event loop's own thread, one transaction after another, each within a savepoint of its own; `BEGIN` and `COMMIT` run
beside the loop, and so does a DELETE, which may take a job's million rows with it. Whoever comes while a commit is on
its way is in the next one. A transaction is over when the commit that holds it is: what was acknowledged is on disk.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

from sqlalchemy import Connection, CursorResult, Delete, Engine, Executable
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from tapeworks_service.database.inline_connection import InlineConnection

T = TypeVar("T")
ROLLED_BACK = sqlite3.OperationalError("the database rolled the transaction back")


class GroupWriter:
    """The one connection that writes."""

    def __init__(self, engine: Engine, *, turn_seconds: float) -> None:
        self._engine = engine
        self._turn_seconds = turn_seconds
        self._beside = ThreadPoolExecutor(1, "sqlite")
        self._turn = asyncio.Lock()
        self._group: asyncio.Future[None] | None = None
        """Done when what was written since the last commit is committed."""
        self._commits: set[asyncio.Task[None]] = set()
        self._connection: Connection
        self._driver: sqlite3.Connection

    async def __aenter__(self) -> GroupWriter:
        self._connection = self._engine.connect()
        self._driver = cast("sqlite3.Connection", self._connection.connection.driver_connection)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*self._commits)
        self._connection.close()
        self._beside.shutdown()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[InlineConnection]:
        """A transaction. Raises PoolTimeout where its turn does not come, OperationalError where it cannot be made."""
        await self._await_turn()
        try:
            group = await self._joined()
            if not self._driver.in_transaction:  # lost with another member: see below
                raise OperationalError("SAVEPOINT", None, ROLLED_BACK)
            self._say("SAVEPOINT member")
            try:
                yield _WritingConnection(self._connection, self._run)
            except BaseException:
                # Where the disk is full SQLite rolls the whole group back by itself: then its commit says so to all.
                if self._driver.in_transaction:
                    self._say("ROLLBACK TO member")
                    self._say("RELEASE member")
                raise
            if self._driver.in_transaction:
                self._say("RELEASE member")
        finally:
            self._turn.release()
        await asyncio.shield(group)

    async def _await_turn(self) -> None:
        try:
            async with asyncio.timeout(self._turn_seconds):
                await self._turn.acquire()
        except TimeoutError:
            raise PoolTimeout(f"other transactions wrote for {self._turn_seconds:g} s") from None

    async def _joined(self) -> asyncio.Future[None]:
        """The group that is open; the first of a group begins it, and has it committed after those who wait already."""
        if self._group is None:
            try:
                await self._run(lambda: self._say("BEGIN IMMEDIATE"))
            except asyncio.CancelledError:
                self._driver.rollback()
                raise
            self._group = asyncio.get_running_loop().create_future()
            self._group.add_done_callback(lambda done: done.exception())  # its members may all have been cancelled
            task = asyncio.create_task(self._commit(self._group))
            self._commits.add(task)
            task.add_done_callback(self._commits.discard)
        return self._group

    async def _commit(self, group: asyncio.Future[None]) -> None:
        async with self._turn:  # those who waited before it are in the group by now
            self._group = None
            try:
                if not self._driver.in_transaction:
                    raise ROLLED_BACK
                await self._run(self._driver.commit)
            except sqlite3.Error as error:
                self._driver.rollback()
                group.set_exception(OperationalError("COMMIT", None, error))
            else:
                group.set_result(None)

    def _say(self, statement: str) -> None:
        try:
            self._driver.execute(statement)
        except sqlite3.Error as error:
            raise OperationalError(statement, None, error) from error

    async def _run(self, call: Callable[[], T]) -> T:
        """Do it beside the loop. Cancelled, it is waited for all the same: the connection is in use until then."""
        running = asyncio.get_running_loop().run_in_executor(self._beside, call)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait({running})
            raise


class _WritingConnection(InlineConnection):
    """Statements of a transaction of a group."""

    def __init__(self, connection: Connection, run: Callable[[Callable[[], Any]], Any]) -> None:
        super().__init__(connection)
        self._run = run

    async def execute(self, statement: Executable, parameters: Any = None) -> CursorResult[Any]:
        """Execute one statement; one that deletes, beside the loop."""
        if isinstance(statement, Delete):
            result: CursorResult[Any] = await self._run(lambda: self._connection.execute(statement, parameters))
            return result
        return await super().execute(statement, parameters)
