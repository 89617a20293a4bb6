"""What a claim reads: never the queue, whatever waits in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, event, insert, text

from tapeworks_service.database.engine import Database
from tapeworks_service.database.tables import jobs
from tapeworks_service.ids import new_id
from tests.support.queues import Queue

UNFIT = 2_000


@contextmanager
def statements(database: Database) -> Iterator[list[tuple[str, Any]]]:
    """The queries of jobs that are made within the block, as the driver is given them."""
    seen: list[tuple[str, Any]] = []

    def remember(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("SELECT") and "jobs" in statement:
            seen.append((statement, parameters))

    engine = database._postgresql.sync_engine if database._sqlite is None else database._sqlite.writer._engine
    event.listen(engine, "before_cursor_execute", remember)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", remember)


def plan(connection: Connection, statement: str, parameters: Any) -> str:
    """What the database says that it would do."""
    how = "EXPLAIN" if connection.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"
    rows = connection.exec_driver_sql(f"{how} {statement}", parameters)
    return "\n".join(" ".join(str(part) for part in row) for row in rows)


def reads_the_queue(line: str) -> bool:
    """Whether a line of a plan goes through jobs other than by the claim's index or a key."""
    sqlite = re.search(r"\b(SCAN|SEARCH) (jobs|head)\b", line) is not None
    by_key = "ix_jobs_claim" in line or "PRIMARY KEY" in line or "(id=?)" in line
    return (sqlite and not by_key) or "Seq Scan on jobs" in line or "ix_jobs_round" in line


async def explained(database: Database, queries: list[tuple[str, Any]]) -> list[str]:
    if database._sqlite is not None:
        with database._sqlite.reader.connect() as connection:
            return [plan(connection, *query) for query in queries]
    async with database._postgresql.connect() as other:
        return [await other.run_sync(plan, *query) for query in queries]


@pytest.mark.parametrize("analysed", [True, False], ids=["statistics", "none"])
def test_a_claim_goes_by_its_index_however_many_unfit_jobs_are_ahead(on_queue: Any, analysed: bool) -> None:
    async def body(one: Queue) -> None:
        unfit = dict(await one.row(await one.add(rack="b", priority=9)))
        fit = await one.add()
        del unfit["queue_seq"]
        copies = [{**unfit, "id": new_id("job"), "fair_rank": number} for number in range(1, UNFIT)]
        async with one.database.write() as tx:
            await tx.execute(insert(jobs), copies)
        if analysed:
            async with one.database.write() as tx:
                await tx.execute(text("ANALYZE"))
        with statements(one.database) as made:
            claimed = await one.must_claim()
        assert claimed.job_id == fit
        plans = await explained(one.database, made)
        assert len(plans) >= 3, made
        assert "ix_jobs_claim" in "\n".join(plans)
        whole = [told for told in plans if any(map(reads_the_queue, told.splitlines()))]
        assert not whole, "\n\n".join(whole)

    on_queue(body)
