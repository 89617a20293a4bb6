"""Transactions on a SQLite file that come at the same time: committed together, and yet each for itself."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, func, insert, select
from sqlalchemy.exc import OperationalError

from tapeworks_service.database.engine import Database
from tapeworks_service.database.tables import projects
from tapeworks_service.wakeups import WakeHub


class Refused(Exception):
    """What a transaction may end with."""


@pytest.fixture
def on_file(tmp_path: Path) -> Callable[[Callable[[Database, Path], Awaitable[None]]], None]:
    """Runs a coroutine function with a database in a file of its own."""
    file = tmp_path / "groups.db"

    def run(body: Callable[[Database, Path], Awaitable[None]]) -> None:
        async def main() -> None:
            database = Database(f"sqlite+aiosqlite:///{file}", hub=WakeHub(), busy_seconds=0.2)
            await database.open()
            try:
                await body(database, file)
            finally:
                await database.close()

        asyncio.run(main())

    return run


async def add(database: Database, name: str, *, fails: bool = False) -> str:
    async with database.write() as tx:
        await tx.execute(insert(projects), {"id": name, "created_at": 0.0})
        if fails:
            raise Refused(name)
    return name


async def count(database: Database) -> int:
    async with database.read() as tx:
        return int((await tx.execute(select(func.count()).select_from(projects))).scalar_one())


def on_disk(file: Path) -> set[str]:
    """What another process sees."""
    with closing(sqlite3.connect(file)) as other:
        return {name for (name,) in other.execute("SELECT id FROM projects")}


@contextmanager
def said(database: Database) -> Iterator[list[str]]:
    """The statements of the writing connection within the block."""
    assert database._sqlite is not None
    statements: list[str] = []
    driver = database._sqlite.writer._driver
    driver.set_trace_callback(statements.append)
    try:
        yield statements
    finally:
        driver.set_trace_callback(None)


def test_what_comes_together_is_committed_together_and_is_there_when_it_is_answered(on_file: Any) -> None:
    async def body(database: Database, file: Path) -> None:
        with said(database) as statements:
            names = await asyncio.gather(*(add(database, f"p{number}") for number in range(40)))
            assert on_disk(file) == set(names)
        assert 1 <= statements.count("COMMIT") <= 4, statements

    on_file(body)


def test_one_that_fails_takes_nothing_of_the_others_with_it(on_file: Any) -> None:
    async def body(database: Database, file: Path) -> None:
        calls = [add(database, f"p{number}", fails=number % 3 == 0) for number in range(30)]
        given = await asyncio.gather(*calls, return_exceptions=True)
        failed = [str(one) for one in given if isinstance(one, Refused)]
        kept = {one for one in given if isinstance(one, str)}
        assert len(failed) == 10
        assert on_disk(file) == kept
        assert len(kept) == 20

    on_file(body)


def test_who_gives_up_waiting_leaves_the_rest_as_it_is(on_file: Any) -> None:
    async def body(database: Database, file: Path) -> None:
        tasks = [asyncio.create_task(add(database, f"p{number}")) for number in range(20)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        given = await asyncio.gather(*tasks, return_exceptions=True)
        assert {one for one in given if isinstance(one, str)} == {f"p{number}" for number in range(1, 20, 2)}
        assert {f"p{number}" for number in range(1, 20, 2)} <= on_disk(file)
        assert await add(database, "later") == "later"

    on_file(body)


def test_a_file_that_another_process_holds_is_told_and_comes_back(on_file: Any) -> None:
    async def body(database: Database, file: Path) -> None:
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            given = await asyncio.gather(*(add(database, f"p{number}") for number in range(3)), return_exceptions=True)
            assert all(isinstance(one, OperationalError) and "locked" in str(one) for one in given), given
            assert await count(database) == 0, "readers go on"
            other.execute("ROLLBACK")
        assert await add(database, "later") == "later"
        assert on_disk(file) == {"later"}

    on_file(body)


def test_a_group_that_the_database_rolled_back_is_nobodys_success(on_file: Any) -> None:
    async def body(database: Database, file: Path) -> None:
        assert database._sqlite is not None
        driver = database._sqlite.writer._driver

        async def lost() -> None:
            async with database.write() as tx:
                await tx.execute(insert(projects), {"id": "lost", "created_at": 0.0})
                driver.rollback()  # as SQLite does itself where the disk is full
                raise Refused

        given = await asyncio.gather(add(database, "first"), lost(), add(database, "last"), return_exceptions=True)
        assert isinstance(given[0], OperationalError), given
        assert isinstance(given[1], Refused)
        assert isinstance(given[2], OperationalError), given
        assert on_disk(file) == set()
        assert await add(database, "later") == "later"

    on_file(body)


def test_a_deletion_runs_beside_the_loop_in_the_order_of_its_transaction(on_file: Any) -> None:
    async def body(database: Database, file: Path) -> None:
        await add(database, "old")
        async with database.write() as tx:
            gone = await tx.execute(delete(projects).where(projects.c.id == "old"))
            assert gone.rowcount == 1
            await tx.execute(insert(projects), {"id": "new", "created_at": 0.0})
        assert on_disk(file) == {"new"}

    on_file(body)
