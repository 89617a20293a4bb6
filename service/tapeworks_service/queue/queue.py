"""The queue: jobs go in, are claimed, renewed, moved on, and end.

Every transition is a guarded UPDATE (`moves.py`). The fence of an attempt is its number and its lease token, of
which only a hash is stored. What a user asked for stands apart, in `requested` (`wishes.py`), until the attempt
ends. Time is the database's.

    queued → starting → running → exporting → verifying → succeeded
    held → queued (reaped, released, failed with attempts left) · unfinished → failed | cancelled

A queued job that waits for others (`waiting` > 0) is not claimed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, and_, insert, select, update

from tapeworks.errors import FAILURES, FailureCode
from tapeworks.schemas.jobs import FINAL, HELD, Failure, Requested, State
from tapeworks_service.database.clock import instant
from tapeworks_service.database.engine import Transaction
from tapeworks_service.database.tables import job_inputs, job_labels, jobs
from tapeworks_service.queue.fence import Fence, lease_lost, lease_token, lock, lock_held
from tapeworks_service.queue.job_draft import NewJob
from tapeworks_service.queue.lease_watch import HeldLease
from tapeworks_service.queue.record_log import NewEvent, RecordOwner, append_events
from tapeworks_service.queue.scheduling import join_queue, next_job
from tapeworks_service.queue.transitions import Transition, end, move
from tapeworks_service.storage.uploads import drop_unreferenced
from tapeworks_service.wakeups import QUEUE
from tapeworks_service.workers.repository import IS_HELD

LONGEST_PAUSE_SECONDS = 60.0
_INSERT = insert(jobs)
_LEASE_COLUMNS = {"token_hash": None, "lease_expires_at": None, "worker_id": None, "gpus": 0, "phase": None}


# ── into the queue ───────────────────────────────────────────────────────────────────────────────


async def enqueue(tx: Transaction, new: NewJob) -> Mapping[str, Any]:
    """Insert a queued job; its row. Raises IntegrityError where its idempotency key is taken."""
    now = await tx.now()
    spec = new.spec
    first = {"state": State.QUEUED.value, "phase": None, "attempt": 0, "at": instant(now), "message": None}
    waiting_for = [one.source_id for one in new.inputs if one.pin is None]
    lineage = {**new.lineage, **({"inputs": [one.document() for one in new.inputs]} if new.inputs else {})}
    events = [NewEvent("state", {"state": State.QUEUED.value, "phase": None})]
    events += [NewEvent("pinned", one.document()) for one in new.inputs if one.pin is not None]
    events += [NewEvent("waiting", {"waiting_for": waiting_for})] if waiting_for else []
    row = {
        "project_id": new.project_id, "id": new.id, "kind": new.kind, "name": new.title, "labels": new.labels,
        "priority": new.priority, "fit_key": new.needs.fit_key, "parent_id": new.parent_id,
        "fair_rank": await join_queue(tx, new.needs, new.project_id, new.priority),
        "retry_of": new.retry_of, "owner": new.owner,
        "idempotency_key": new.idempotency_key, "body_hash": new.body_hash,
        "state": State.QUEUED.value, "requested": Requested.NONE.value, "attempt": 0, "failed_attempts": 0,
        "max_attempts": new.max_attempts, "timeout_seconds": new.timeout_seconds, "waiting": len(waiting_for),
        "gpus": 0, "created_at": now, "queued_at": now, "revision": 1, "event_seq": len(events), "log_seq": 0,
        "metric_seq": 0, "record_index": 0, "progress": {}, "spec": spec, "components": new.components,
        "phase": None, "started_at": None, "finished_at": None,
        "document": {"transitions": [first], "lineage": lineage, "waiting_for": waiting_for},
    }  # fmt: skip
    await tx.execute(_INSERT, row)
    await write_labels(tx, new.project_id, new.id, new.labels)
    of_job = {"project_id": new.project_id, "job_id": new.id}
    rows = [{**of_job, "index": index, **one.columns()} for index, one in enumerate(new.inputs)]
    if rows:
        await tx.execute(insert(job_inputs), rows)
    await append_events(tx, RecordOwner(new.project_id, new.id, 0), 1, events)
    tx.wake(QUEUE)
    return row


async def write_labels(tx: Transaction, project_id: str, job_id: str, labels: Mapping[str, str]) -> None:
    """Labels as rows, for filters; a job without any writes none."""
    rows = [{"project_id": project_id, "job_id": job_id, "name": name, "value": labels[name]} for name in labels]
    if rows:
        await tx.execute(insert(job_labels), rows)


# ── claim, renew, advance ────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Claim:
    """Who claims."""

    worker_id: str
    request_id: str
    secret: bytes
    lease_seconds: float


async def claim(tx: Transaction, who: Claim, satisfied: Mapping[str, int]) -> tuple[RowMapping, str] | None:
    """Take the job whose turn it is among the fit keys that the worker satisfies (key → GPUs it takes).

    Returns the row as it is now and the lease token; None where no job waits.
    """
    if not satisfied:
        return None
    now = await tx.now()
    row = await next_job(tx, list(satisfied), now)
    if row is None:
        return None
    attempt = row["attempt"] + 1
    token = lease_token(who.secret, job_id=row["id"], attempt=attempt, request_id=who.request_id)
    values = {
        "attempt": attempt,
        "worker_id": who.worker_id,
        "gpus": satisfied[row["fit_key"]],
        "token_hash": Fence(row["id"], attempt, token).token_hash,
        "lease_expires_at": now + who.lease_seconds,
        "started_at": now if row["started_at"] is None else row["started_at"],
        "not_before": None,
        "record_index": 0,
        "progress": {**row["progress"], "step": 0, "epoch": 0} if row["progress"] else {},
    }
    await move(tx, row, Transition(State.STARTING, values=values, document={"worker": who.worker_id}))
    return await lock(tx, row["id"]), token


async def renew(tx: Transaction, fence: Fence, *, lease_seconds: float) -> RowMapping:
    """Extend a lease. Raises 404, 409 `lease_lost`."""
    row = await lock_held(tx, fence)
    renewed = await tx.execute(
        update(jobs)
        .where(jobs.c.id == row["id"], jobs.c.attempt == fence.attempt, jobs.c.token_hash == fence.token_hash)
        .values(lease_expires_at=await tx.now() + lease_seconds)
    )
    if renewed.rowcount != 1:
        raise lease_lost()
    return row


async def advance(
    tx: Transaction, fence: Fence, to: State, *, phase: str | None, message: str | None, at: float
) -> None:
    """Move an attempt forward, or tell its phase; a step back is left out. Raises 409 `lease_lost`."""
    row = await lock_held(tx, fence)
    if to not in HELD or HELD.index(to) < HELD.index(State(row["state"])):
        return
    values = {"phase": phase, "event_bytes": row["event_bytes"] + len(message or "")}
    await move(tx, row, Transition(to, message=message, values=values, at=at))


# ── the end of an attempt ────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class AttemptOutcome:
    """How an attempt ended: what its worker said, or `worker_lost` from the reaper."""

    outcome: str
    failure: Failure | None = None
    document: Mapping[str, Any] = field(default_factory=dict)
    body_hash: str | None = None
    """Of the finish request: the same again is answered alike."""


async def finish(tx: Transaction, row: RowMapping, ending: AttemptOutcome, *, retry_seconds: float) -> State:
    """End the attempt that holds the row: to a final state, a pause, or back to the queue. Returns the new state.

    What succeeded is published, whatever was asked for meanwhile: the first commit wins.
    """
    now = await tx.now()
    values: dict[str, Any] = {
        **_LEASE_COLUMNS,
        "requested": Requested.NONE.value,
        "ended_attempt": row["attempt"],
        "ended_token_hash": row["token_hash"],
        "ended_body_hash": ending.body_hash,
    }
    change = Transition(values=values, document=ending.document)
    if ending.outcome == "succeeded":
        change = replace(change, to=State.SUCCEEDED)
    elif row["requested"] == Requested.CANCEL.value:
        change = replace(change, to=State.CANCELLED)
    elif ending.outcome == "failed":
        failure = ending.failure or Failure(code=FailureCode.INTERNAL, message="the worker gave no reason")
        change = _failed(row, failure, change, now=now, retry_seconds=retry_seconds)
    else:
        change = replace(change, to=State.QUEUED, message="returned to the queue by its worker")
    to = change.to or State.FAILED  # every branch above names a state
    if to is State.QUEUED and row["requested"] == Requested.PAUSE.value:
        to = State.PAUSED
        change = replace(change, message=None, document={**change.document, "paused_at": now})
    when = {"finished_at": now} if to in FINAL else {"queued_at": now} if to is State.QUEUED else {}
    await end(tx, row, replace(change, to=to, values={**change.values, **when}))
    await drop_unreferenced(tx, row)
    return to


def _failed(row: RowMapping, failure: Failure, change: Transition, *, now: float, retry_seconds: float) -> Transition:
    """A failed attempt: another one where that may help and attempts are left, else the job's end."""
    failed_attempts = row["failed_attempts"] + 1
    completed = failure.model_copy(
        update={
            "attempt": row["attempt"],
            "phase": failure.phase or row["phase"] or row["state"],
            "hint": failure.hint or FAILURES[failure.code].hint,
        }
    ).model_dump(mode="json")
    values = {**change.values, "failed_attempts": failed_attempts}
    change = replace(change, values=values, events=[NewEvent("attempt_failed", {"failure": completed})])
    if failure.retryable and failed_attempts < row["max_attempts"]:
        pause = min(retry_seconds * 2 ** (failed_attempts - 1), LONGEST_PAUSE_SECONDS)
        values["not_before"] = now + pause
        message = f"attempt {row['attempt']} failed ({failure.code.value}); {failed_attempts} of {row['max_attempts']}"
        return replace(change, to=State.QUEUED, message=message)
    document = {**change.document, "failure": completed}
    return replace(change, to=State.FAILED, message=failure.message[:500], document=document)


# ── what silence means ───────────────────────────────────────────────────────────────────────────


async def held_leases(tx: Transaction) -> list[HeldLease]:
    """Every lease that a worker holds, as it is stored."""
    columns = select(jobs.c.id, jobs.c.attempt, jobs.c.lease_expires_at)
    return [HeldLease(*tuple(row)) for row in (await tx.execute(columns.where(IS_HELD))).all()]


def _overdue(now: float) -> ColumnElement[bool]:
    return and_(
        jobs.c.state == State.QUEUED.value, jobs.c.started_at > 0, jobs.c.started_at + jobs.c.timeout_seconds < now
    )


async def any_overdue(tx: Transaction) -> bool:
    """Whether `reap` would end a queued job whose time is over; needs no lock."""
    return await tx.one(select(jobs.c.id).where(_overdue(await tx.now())).limit(1)) is not None


async def reap(
    tx: Transaction, silent: Mapping[HeldLease, float], *, retry_seconds: float, limit: int = 100
) -> list[str]:
    """End the attempts that were silent for so many seconds, and queued jobs whose time is over.

    A lease that was renewed since it was seen is left. Returns the ids of the jobs whose attempt was ended.
    """
    now = await tx.now()
    due = select(jobs).limit(limit).with_for_update(skip_locked=True)
    reaped = []
    for lease, seconds in list(silent.items())[:limit]:
        unchanged = (jobs.c.attempt == lease.attempt, jobs.c.lease_expires_at == lease.expires_at)
        row = await tx.one(due.where(IS_HELD, jobs.c.id == lease.job_id, *unchanged))
        if row is None:
            continue
        message = f"the worker {row['worker_id']} has not renewed its lease for {seconds:.0f} s"
        failure = Failure(code=FailureCode.WORKER_LOST, message=message, retryable=True)
        await finish(tx, row, AttemptOutcome("failed", failure), retry_seconds=retry_seconds)
        reaped.append(row["id"])
    for row in await tx.all(due.where(_overdue(now)).order_by(jobs.c.started_at)):
        message = f"the job's {row['timeout_seconds']:g} s elapsed before another attempt began"
        failure = Failure(code=FailureCode.TIMEOUT, message=message, hint=FAILURES[FailureCode.TIMEOUT].hint)
        values = {"finished_at": now, "not_before": None}
        document = {"failure": failure.model_dump(mode="json")}
        await end(tx, row, Transition(State.FAILED, message=message, values=values, document=document))
    return reaped
