"""The queue: the only writer of a job's state.

Every transition is one guarded UPDATE (id, state, attempt, token); its row count is the answer.
The fence of an attempt is its number and its lease token, of which only a hash is stored. What a
user asked for stands apart, in `requested`, until the attempt ends. Time is the database's.

    queued → starting → running → exporting → verifying → succeeded
    held → queued (reaped, released, failed with attempts left) · unfinished → failed | cancelled

A queued job that waits for others (`waiting` > 0) is not claimed. The transaction that ends the job it
waits for pins its input, or ends it too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, and_, insert, or_, select, update

from tapeworks.errors import FAILURES, FailureCode, ProblemCode
from tapeworks.jobs import FINAL, HELD, Failure, Requested, State
from tapeworks_service.artifacts.uploads import drop_unreferenced
from tapeworks_service.database.clock import instant
from tapeworks_service.database.engine import Transaction
from tapeworks_service.database.tables import job_inputs, job_labels, jobs
from tapeworks_service.jobs.fence import Fence, hold, lease_lost, lease_token, lock
from tapeworks_service.jobs.inputs import Input, Pin, pin_of, waiting_inputs
from tapeworks_service.jobs.journal import NewEvent, Owner, append_events
from tapeworks_service.jobs.new_job import NewJob
from tapeworks_service.jobs.turns import fair_rank, head, remember_fit
from tapeworks_service.problems import Problem
from tapeworks_service.waking import QUEUE, job_topic

_LONGEST_PAUSE_SECONDS = 60.0
_LEASE_COLUMNS = {"token_hash": None, "lease_expires_at": None, "worker_id": None, "gpus": 0, "phase": None}


# ── the guarded update ───────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Move:
    """A change of a job's row: values, the events that tell of it, and where it goes."""

    to: State | None = None
    message: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    document: Mapping[str, Any] = field(default_factory=dict)
    events: Sequence[NewEvent] = ()
    at: float | None = None


async def _move(tx: Transaction, row: RowMapping, move: Move) -> None:
    """Apply a change to the row as it was read. Raises 409 where another transaction was first."""
    values, document, told = dict(move.values), {**row["document"], **move.document}, list(move.events)
    at = await tx.now() if move.at is None else move.at
    attempt = values.get("attempt", row["attempt"])
    phase = values.get("phase", row["phase"])
    if move.to is not None:
        data = {"state": move.to.value, "phase": phase, **({"message": move.message} if move.message else {})}
        told.append(NewEvent("state", data, at))
        if move.to != row["state"]:
            # A worker's record says when it happened by an offset: its transition is still not before the last.
            when = max(instant(at), document["transitions"][-1]["at"])
            step = {"state": move.to.value, "phase": phase, "attempt": attempt, "at": when}
            document["transitions"] = [*document["transitions"], {**step, "message": move.message}]
        values["state"] = move.to.value
    changed = (
        update(jobs)
        .where(
            jobs.c.id == row["id"],
            jobs.c.state == row["state"],
            jobs.c.attempt == row["attempt"],
            jobs.c.token_hash.is_not_distinct_from(row["token_hash"]),
        )
        .values(revision=jobs.c.revision + 1, event_seq=jobs.c.event_seq + len(told), document=document, **values)
        .returning(jobs.c.event_seq)
    )
    last = (await tx.execute(changed)).scalar_one_or_none()
    if last is None:
        raise lease_lost("the job moved on meanwhile")
    owner = Owner(row["project_id"], row["id"], attempt)
    await append_events(tx, owner, last - len(told) + 1, told)
    tx.wake(job_topic(row["id"]))
    if move.to is State.QUEUED:
        tx.wake(QUEUE)


# ── into the queue ───────────────────────────────────────────────────────────────────────────────


async def enqueue(tx: Transaction, new: NewJob) -> None:
    """Insert a queued job. Raises IntegrityError where its idempotency key is taken."""
    now = await tx.now()
    spec = new.spec
    await remember_fit(tx, new.needs)
    first = {"state": State.QUEUED.value, "phase": None, "attempt": 0, "at": instant(now), "message": None}
    waiting_for = [one.source_id for one in new.inputs if one.pin is None]
    lineage = {**new.lineage, **({"inputs": [one.told() for one in new.inputs]} if new.inputs else {})}
    told = [NewEvent("state", {"state": State.QUEUED.value, "phase": None})]
    told += [NewEvent("pinned", one.told()) for one in new.inputs if one.pin is not None]
    told += [NewEvent("waiting", {"waiting_for": waiting_for})] if waiting_for else []
    row = {
        "project_id": new.project_id, "id": new.id, "kind": new.kind, "name": spec["name"], "labels": spec["labels"],
        "priority": new.priority, "fit_key": new.needs.fit_key, "parent_id": new.parent_id,
        "fair_rank": await fair_rank(tx, new.project_id, new.priority),
        "retry_of": new.retry_of, "idempotency_key": new.idempotency_key, "body_hash": new.body_hash,
        "state": State.QUEUED.value, "requested": Requested.NONE.value, "attempt": 0, "failed_attempts": 0,
        "max_attempts": new.max_attempts, "timeout_seconds": new.timeout_seconds, "waiting": len(waiting_for),
        "gpus": 0, "created_at": now, "queued_at": now, "revision": 1, "event_seq": len(told), "log_seq": 0,
        "metric_seq": 0, "record_index": 0, "progress": {}, "spec": spec, "components": new.components,
        "document": {"transitions": [first], "lineage": lineage, "waiting_for": waiting_for},
    }  # fmt: skip
    await tx.execute(insert(jobs).values(row))
    await write_labels(tx, new.project_id, new.id, spec["labels"])
    of_job = {"project_id": new.project_id, "job_id": new.id}
    rows = [{**of_job, "index": index, **one.columns()} for index, one in enumerate(new.inputs)]
    if rows:
        await tx.execute(insert(job_inputs), rows)
    await append_events(tx, Owner(new.project_id, new.id, 0), 1, told)
    tx.wake(QUEUE)


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
    row = await tx.one(head(list(satisfied), now))
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
    await _move(tx, row, Move(State.STARTING, values=values, document={"worker": who.worker_id}))
    return await lock(tx, row["id"]), token


async def renew(tx: Transaction, fence: Fence, *, lease_seconds: float) -> RowMapping:
    """Extend a lease. Raises 404, 409 `lease_lost`."""
    row = await hold(tx, fence)
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
    row = await hold(tx, fence)
    if to not in HELD or HELD.index(to) < HELD.index(State(row["state"])):
        return
    await _move(tx, row, Move(to, message=message, values={"phase": phase}, at=at))


# ── the end of an attempt ────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Ending:
    """How an attempt ended: what its worker said, or `worker_lost` from the reaper."""

    outcome: str
    failure: Failure | None = None
    document: Mapping[str, Any] = field(default_factory=dict)
    body_hash: str | None = None
    """Of the finish request: the same again is answered alike."""


async def finish(tx: Transaction, row: RowMapping, ending: Ending, *, retry_seconds: float) -> State:
    """End the attempt that holds the row: to a final state, or back to the queue. Returns the new state."""
    now = await tx.now()
    cancelled = row["requested"] == Requested.CANCEL.value
    paused = row["requested"] == Requested.PAUSE.value
    values: dict[str, Any] = {
        **_LEASE_COLUMNS,
        "requested": Requested.NONE.value,
        "ended_attempt": row["attempt"],
        "ended_token_hash": row["token_hash"],
        "ended_body_hash": ending.body_hash,
    }
    move = Move(values=values, document=ending.document)
    if ending.outcome == "succeeded":
        move = replace(move, to=State.SUCCEEDED)
    elif cancelled:
        move = replace(move, to=State.CANCELLED)
    elif ending.outcome == "failed":
        failure = ending.failure or Failure(code=FailureCode.INTERNAL, message="the worker gave no reason")
        move = _failed(row, failure, move, now=now, retry_seconds=retry_seconds)
    elif paused:
        move = replace(move, to=State.PAUSED)
    else:
        move = replace(move, to=State.QUEUED, message="handed back by its worker")
    to = move.to or State.FAILED  # every branch above names a state
    when = {"finished_at": now} if to in FINAL else {"queued_at": now} if to is State.QUEUED else {}
    await _end(tx, row, replace(move, to=to, values={**move.values, **when}))
    await drop_unreferenced(tx, row)
    return to


def _failed(row: RowMapping, failure: Failure, move: Move, *, now: float, retry_seconds: float) -> Move:
    """A failed attempt: another one where that may help and attempts are left, else the job's end."""
    failed_attempts = row["failed_attempts"] + 1
    told = failure.model_copy(
        update={
            "attempt": row["attempt"],
            "phase": failure.phase or row["phase"] or row["state"],
            "hint": failure.hint or FAILURES[failure.code].hint,
        }
    ).model_dump(mode="json")
    values = {**move.values, "failed_attempts": failed_attempts}
    move = replace(move, values=values, events=[NewEvent("attempt_failed", {"failure": told})])
    if failure.retryable and failed_attempts < row["max_attempts"]:
        pause = min(retry_seconds * 2 ** (failed_attempts - 1), _LONGEST_PAUSE_SECONDS)
        values["not_before"] = now + pause
        message = f"attempt {row['attempt']} failed ({failure.code.value}); {failed_attempts} of {row['max_attempts']}"
        return replace(move, to=State.QUEUED, message=message)
    document = {**move.document, "failure": told}
    return replace(move, to=State.FAILED, message=failure.message[:500], document=document)


# ── those who wait for it ────────────────────────────────────────────────────────────────────────


async def _end(tx: Transaction, row: RowMapping, move: Move) -> None:
    """Move a job out of an attempt; where that is its end, tell those who wait for it, and those who wait for them."""
    await _move(tx, row, move)
    if move.to not in FINAL:
        return
    pin = await pin_of(tx, row) if move.to is State.SUCCEEDED else None
    doomed = deque(await _settle(tx, row, pin, why=_why(row["id"], move)))
    while doomed:
        job_id, why = doomed.popleft()
        waiting = await lock(tx, job_id)
        if State(waiting["state"]) in FINAL:
            continue  # another of its inputs ended it
        code = FailureCode.DEPENDENCY_FAILED
        failure = Failure(code=code, message=why, hint=FAILURES[code].hint, phase=State.QUEUED.value)
        values = {"finished_at": await tx.now(), "waiting": 0}
        document = {"failure": failure.model_dump(mode="json"), "waiting_for": []}
        lost = Move(State.FAILED, message=why, values=values, document=document)
        await _move(tx, waiting, lost)
        doomed += await _settle(tx, waiting, None, why=_why(job_id, lost))


def _why(job_id: str, move: Move) -> str:
    """What became of a job, told to one that waited for it."""
    if move.to is State.SUCCEEDED:
        return f"{job_id}, which this job goes on from, left neither a bundle nor a checkpoint"
    code = (move.document.get("failure") or {}).get("code")
    became = "was cancelled" if move.to is State.CANCELLED else f"failed ({code})"
    return f"{job_id}, which this job goes on from, {became}"


async def _settle(tx: Transaction, source: RowMapping, pin: Pin | None, *, why: str) -> list[tuple[str, str]]:
    """Pin the inputs that wait for a job that has ended. Returns the jobs that cannot go on without, and why."""
    doomed = []
    for waiting in await waiting_inputs(tx, source):
        if pin is None:
            doomed.append((waiting["job_id"], why))
        else:
            await _pin(tx, waiting, pin)
    return doomed


async def _pin(tx: Transaction, waiting: RowMapping, pin: Pin) -> None:
    row = await lock(tx, waiting["job_id"])
    if State(row["state"]) in FINAL:
        return
    pinned = Input(waiting["reference"], waiting["source_id"], pin)
    own = [job_inputs.c[name] == waiting[name] for name in ("project_id", "job_id", "index")]
    await tx.execute(update(job_inputs).where(*own).values(pinned.columns()))
    lineage = row["document"]["lineage"]
    inputs = [pinned.told() if one["from"] == pinned.reference else one for one in lineage["inputs"]]
    left = [job_id for job_id in row["document"]["waiting_for"] if job_id != pinned.source_id]
    values: dict[str, Any] = {"waiting": len(left)}
    if not left:
        values["queued_at"] = await tx.now()
        values["fair_rank"] = await fair_rank(tx, row["project_id"], row["priority"])
        tx.wake(QUEUE)
    document = {"lineage": {**lineage, "inputs": inputs}, "waiting_for": left}
    await _move(tx, row, Move(values=values, document=document, events=[NewEvent("pinned", pinned.told())]))


# ── what a user asks for, and what silence means ─────────────────────────────────────────────────


async def cancel(tx: Transaction, job_id: str, *, project_id: str) -> None:
    """Cancel: at once where nobody holds the job, else it is asked of its worker. Raises 404, 409."""
    row = await lock(tx, job_id, project_id=project_id)
    state = State(row["state"])
    if state in FINAL:
        raise Problem(ProblemCode.CONFLICT, f"the job is {state.value} already", extra={"state": state.value})
    if state not in HELD:
        values = {"finished_at": await tx.now(), "phase": None, "not_before": None, "waiting": 0}
        await _end(tx, row, Move(State.CANCELLED, values=values, document={"waiting_for": []}))
    elif row["requested"] != Requested.CANCEL.value:
        asked = Requested.CANCEL.value
        told = [NewEvent("requested", {"requested": asked})]
        await _move(tx, row, Move(values={"requested": asked}, events=told))


def _lapsed(now: float) -> ColumnElement[bool]:
    return and_(jobs.c.state.in_([state.value for state in HELD]), jobs.c.lease_expires_at < now)


def _overdue(now: float) -> ColumnElement[bool]:
    return and_(
        jobs.c.state == State.QUEUED.value, jobs.c.started_at > 0, jobs.c.started_at + jobs.c.timeout_seconds < now
    )


async def anything_to_reap(tx: Transaction) -> bool:
    """Whether `reap` would find anything; needs no lock."""
    now = await tx.now()
    return await tx.one(select(jobs.c.id).where(or_(_lapsed(now), _overdue(now))).limit(1)) is not None


async def reap(tx: Transaction, *, retry_seconds: float, limit: int = 100) -> list[str]:
    """End the attempts whose lease ran out, and queued jobs whose time is over. Returns the ids of the former."""
    now = await tx.now()
    due = select(jobs).order_by(jobs.c.lease_expires_at).limit(limit).with_for_update(skip_locked=True)
    reaped = []
    for row in await tx.all(due.where(_lapsed(now))):
        over = now - row["lease_expires_at"]
        message = f"the worker {row['worker_id']} was not heard of for {over:.0f} s beyond its lease"
        failure = Failure(code=FailureCode.WORKER_LOST, message=message, retryable=True)
        await finish(tx, row, Ending("failed", failure), retry_seconds=retry_seconds)
        reaped.append(row["id"])
    for row in await tx.all(due.where(_overdue(now))):
        message = f"the job's {row['timeout_seconds']:g} s were over before another attempt began"
        failure = Failure(code=FailureCode.TIMEOUT, message=message, hint=FAILURES[FailureCode.TIMEOUT].hint)
        values = {"finished_at": now, "not_before": None}
        document = {"failure": failure.model_dump(mode="json")}
        await _end(tx, row, Move(State.FAILED, message=message, values=values, document=document))
    return reaped
