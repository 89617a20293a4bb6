"""Every earlier schema, with rows in it, becomes the newest one, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect
from sqlalchemy.ext.asyncio import create_async_engine

from tapeworks_service.database.migrations import configuration, upgrade
from tapeworks_service.database.tables import metadata
from tests.support.hand_worker import HandLease, spec

REVISIONS = [script.revision for script in ScriptDirectory.from_config(configuration()).walk_revisions()][1:]


def on(url: str, work: Callable[[Connection], Any]) -> Any:
    """Run something in a transaction on a database."""

    async def main() -> Any:
        engine = create_async_engine(url)
        try:
            async with engine.begin() as connection:
                return await connection.run_sync(work)
        finally:
            await engine.dispose()

    return asyncio.run(main())


def test_the_migrations_make_the_tables_of_the_code(new_database: Callable[[], str | None], tmp_path: Path) -> None:
    def work(connection: Connection) -> None:
        upgrade(connection)
        upgrade(connection)
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        indexes = {index["name"]: index for index in inspect(connection).get_indexes("jobs")}
        assert indexes["ix_jobs_claim"]["column_names"][:3] == ["state", "waiting", "fit_key"]
        command.downgrade(configuration(connection), "base")
        assert inspect(connection).get_table_names() == ["alembic_version"]

    on(new_database() or f"sqlite+aiosqlite:///{tmp_path / 'empty.db'}", work)


@pytest.mark.slow
@pytest.mark.parametrize("revision", REVISIONS)
def test_rows_of_every_earlier_revision_go_on(own_service: Any, revision: str) -> None:
    with own_service() as (_, worker):
        worker.register()
        done = worker.submit(spec(name="trained before"))["id"]
        worker.lease().succeed(b"weights")
        held = worker.submit(spec(labels={"team": "a"}))["id"]
        lease = worker.lease()
        lease.state("running")
        lease.records({"record": "metric", "step": 1, "values": {"loss": 1.0}})
        lease.checkpoint(b"state", step=1)
        queued = worker.submit()["id"]
    on(own_service.url, lambda connection: command.downgrade(configuration(connection), revision))
    with own_service() as (client, worker):
        states = {job: worker.job(job)["state"] for job in (done, held, queued)}
        assert list(states.values()) == ["succeeded", "running", "queued"]
        assert client.get(f"/v1/jobs/{done}/model").content == b"weights"
        assert [one["step"] for one in client.get(f"/v1/jobs/{held}/checkpoints").json()["data"]] == [1]
        assert client.get(f"/v1/jobs/{held}/metrics").json()["data"][0]["points"][0][:2] == [1, 1.0]
        assert [job["id"] for job in client.get("/v1/jobs?label=team=a").json()["data"]] == [held]
        again = HandLease(client, lease.lease)
        again.index = lease.index
        assert again.heartbeat().status_code == 200, "the lease of before the upgrade still holds"
        assert again.finish("succeeded").is_success
        assert worker.lease().job_id == queued
        continued = worker.submit(spec(training={"epochs": 1, "initial_state": {"from": done}}))
        assert continued["state"] == "queued"
