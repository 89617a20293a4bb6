"""A queue on a real database, past HTTP: what its guards do is seen call by call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import insert

from tapeworks.errors import FailureCode, ProblemCode
from tapeworks.schemas.jobs import Failure, State
from tapeworks.spec.job_spec import JobSpec
from tapeworks_service.api.jobs.record_streams import entries
from tapeworks_service.database.engine import Database
from tapeworks_service.database.tables import events, jobs, projects
from tapeworks_service.ids import new_id
from tapeworks_service.problems import Problem
from tapeworks_service.queue import queue, user_requests
from tapeworks_service.queue.fence import Fence, lock_held
from tapeworks_service.queue.job_draft import NewJob
from tapeworks_service.queue.requirements import Requirements
from tapeworks_service.queue.scheduling import RequirementsCache
from tapeworks_service.wakeups import WakeHub
from tapeworks_service.workers.repository import WorkerRow
from tests.service.queue.test_requirements import worker
from tests.support.hand_worker import spec

SECRET = b"s" * 32
MACHINE = worker()
LOST = Failure(code=FailureCode.WORKER_LOST, message="gone", retryable=True)


class Queue:
    """A database with its queue, and one need that every job has."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._requests = 0

    async def add(self, *, project: str = "default", priority: int = 0, rack: str | None = None, **limits: Any) -> str:
        resources = {"worker_labels": {"rack": rack}} if rack else {}
        document = JobSpec.model_validate(spec(priority=priority, limits=limits, resources=resources)).document()
        job_id = new_id("job")
        needs = Requirements.of(JobSpec.model_validate(document).resources, [])
        async with self.database.write() as tx:
            new = NewJob(job_id, project, "train", document, [], needs, {})
            await queue.enqueue(tx, new)
        return job_id

    async def claim(self, *, lease_seconds: float = 20.0, machine: WorkerRow = MACHINE) -> Fence | None:
        self._requests += 1
        who = queue.Claim("worker", f"request-{self._requests}", SECRET, lease_seconds)
        async with self.database.write() as tx:
            satisfied = {key: 0 for key, _ in await RequirementsCache().suitable(tx, machine, frozenset())}
            claimed = await queue.claim(tx, who, satisfied)
        return None if claimed is None else Fence(claimed[0]["id"], claimed[0]["attempt"], claimed[1])

    async def must_claim(self, *, lease_seconds: float = 20.0) -> Fence:
        fence = await self.claim(lease_seconds=lease_seconds)
        assert fence is not None
        return fence

    async def finish(self, fence: Fence, outcome: str, failure: Failure | None = None) -> State:
        async with self.database.write() as tx:
            row = await lock_held(tx, fence)
            return await queue.finish(tx, row, queue.AttemptOutcome(outcome, failure), retry_seconds=0.0)

    async def advance(self, fence: Fence, state: State) -> None:
        async with self.database.write() as tx:
            await queue.advance(tx, fence, state, phase=None, message=None, at=await tx.now())

    async def cancel(self, job_id: str) -> None:
        async with self.database.write() as tx:
            await user_requests.cancel(tx, job_id, project_id="default")

    async def reap(self) -> list[str]:
        """End the attempts whose lease has expired by the database's clock."""
        async with self.database.read() as tx:
            now = await tx.now()
            silent = {lease: 20.0 for lease in await queue.held_leases(tx) if lease.expires_at < now}
        async with self.database.write() as tx:
            return await queue.reap(tx, silent, retry_seconds=0.0)

    async def row(self, job_id: str) -> Any:
        async with self.database.read() as tx:
            return await tx.one(jobs.select().where(jobs.c.id == job_id))

    async def states(self, job_id: str) -> list[str]:
        """The states that the events tell, in order."""
        async with self.database.read() as tx:
            rows = await entries(tx, events, ("default", job_id), after=0, limit=1000)
        assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
        return [row["data"]["state"] for row in rows if row["type"] == "state"]


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Queue]:
    database = Database(url, hub=WakeHub(), busy_seconds=5)
    await database.open()
    try:
        async with database.write() as tx:
            for project in ("default", "other"):
                await tx.execute(insert(projects).values(id=project, created_at=await tx.now()))
        yield Queue(database)
    finally:
        await database.close()


async def refused(call: Awaitable[Any]) -> ProblemCode:
    with pytest.raises(Problem) as caught:
        await call
    return caught.value.code
