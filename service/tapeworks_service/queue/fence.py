"""The fence of an attempt: its number and a lease token, of which only a hash is stored.

Whoever changes anything about an attempt first reads the job's row through `lock_held`: it locks the row
and answers `lease_lost` to everyone but the attempt that has the job.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from sqlalchemy import RowMapping, select

from tapeworks.errors import ProblemCode
from tapeworks.schemas.jobs import HELD
from tapeworks_service.database.engine import Transaction
from tapeworks_service.database.tables import jobs
from tapeworks_service.problems import Problem, not_found


@dataclass(frozen=True)
class Fence:
    """What a worker must show to change an attempt."""

    job_id: str
    attempt: int
    token: str

    @property
    def token_hash(self) -> str:
        """What is stored of the token."""
        return hashlib.sha256(self.token.encode()).hexdigest()


def lease_token(secret: bytes, *, job_id: str, attempt: int, request_id: str) -> str:
    """The token of a lease: random to everyone else, the same again for a resent request."""
    return hmac.new(secret, f"{job_id}\n{attempt}\n{request_id}".encode(), hashlib.sha256).hexdigest()


def lease_lost(detail: str = "the attempt's lease on the job is no longer valid") -> Problem:
    """409: the runner must be stopped."""
    return Problem(ProblemCode.LEASE_LOST, detail)


async def lock(tx: Transaction, job_id: str, *, project_id: str | None = None) -> RowMapping:
    """The job's row, locked until the transaction ends. Raises 404."""
    statement = select(jobs).where(jobs.c.id == job_id).with_for_update()
    if project_id is not None:
        statement = statement.where(jobs.c.project_id == project_id)
    row = await tx.one(statement)
    if row is None:
        raise not_found("job", job_id)
    return row


async def lock_held(tx: Transaction, fence: Fence) -> RowMapping:
    """The row of a job that this attempt holds, locked. Raises 404, 409 `lease_lost`."""
    row = await lock(tx, fence.job_id)
    if not holds(row, fence):
        raise lease_lost()
    return row


async def read_held(tx: Transaction, fence: Fence) -> RowMapping:
    """The same for those who only read: nothing is locked. Raises 404, 409 `lease_lost`."""
    row = await tx.one(select(jobs).where(jobs.c.id == fence.job_id))
    if row is None:
        raise not_found("job", fence.job_id)
    if not holds(row, fence):
        raise lease_lost()
    return row


def holds(row: RowMapping, fence: Fence) -> bool:
    """Whether the attempt holds the job. A lease that expired but was not reaped still counts."""
    known = row["token_hash"] or ""
    current = row["state"] in HELD and row["attempt"] == fence.attempt
    return current and hmac.compare_digest(known, fence.token_hash)
