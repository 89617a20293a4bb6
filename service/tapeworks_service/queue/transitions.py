"""The moves of a job: the one guarded UPDATE that changes its state, and what it means for those who wait for it.

It is guarded by id, state, attempt and token; its row count is the answer. The transaction that ends a job pins the
inputs of those that go on from it, or ends them too, and those that wait for them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import RowMapping, update

from tapeworks.errors import FAILURES, FailureCode
from tapeworks.schemas.jobs import FINAL, Failure, State
from tapeworks_service.database.clock import instant
from tapeworks_service.database.engine import Transaction
from tapeworks_service.database.tables import job_inputs, jobs
from tapeworks_service.queue.fence import lease_lost, lock
from tapeworks_service.queue.inputs import Input, PinnedFile, pin_of, waiting_inputs
from tapeworks_service.queue.record_log import NewEvent, RecordOwner, append_events
from tapeworks_service.queue.scheduling import fair_rank
from tapeworks_service.wakeups import QUEUE, job_topic

# ── the guarded update ───────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Transition:
    """A change of a job's row: values, the events that tell of it, and where it goes."""

    to: State | None = None
    message: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    document: Mapping[str, Any] = field(default_factory=dict)
    events: Sequence[NewEvent] = ()
    at: float | None = None


async def move(tx: Transaction, row: RowMapping, change: Transition) -> None:
    """Apply a change to the row as it was read. Raises 409 where another transaction was first."""
    values, document, events = dict(change.values), {**row["document"], **change.document}, list(change.events)
    at = await tx.now() if change.at is None else change.at
    attempt = values.get("attempt", row["attempt"])
    phase = values.get("phase", row["phase"])
    if change.to is not None:
        data = {"state": change.to.value, "phase": phase, **({"message": change.message} if change.message else {})}
        events.append(NewEvent("state", data, at))
        if change.to != row["state"]:
            # A worker's record says when it happened by an offset: its transition is still not before the last.
            when = max(instant(at), document["transitions"][-1]["at"])
            step = {"state": change.to.value, "phase": phase, "attempt": attempt, "at": when}
            document["transitions"] = [*document["transitions"], {**step, "message": change.message}]
        values["state"] = change.to.value
    changed = (
        update(jobs)
        .where(
            jobs.c.id == row["id"],
            jobs.c.state == row["state"],
            jobs.c.attempt == row["attempt"],
            jobs.c.token_hash.is_not_distinct_from(row["token_hash"]),
        )
        .values(revision=jobs.c.revision + 1, event_seq=jobs.c.event_seq + len(events), document=document, **values)
        .returning(jobs.c.event_seq)
    )
    last = (await tx.execute(changed)).scalar_one_or_none()
    if last is None:
        raise lease_lost("the job's state changed in the meantime")
    owner = RecordOwner(row["project_id"], row["id"], attempt)
    await append_events(tx, owner, last - len(events) + 1, events)
    tx.wake(job_topic(row["id"]))
    if change.to is State.QUEUED:
        tx.wake(QUEUE)


# ── those who wait for it ────────────────────────────────────────────────────────────────────────


async def end(tx: Transaction, row: RowMapping, change: Transition) -> None:
    """Move a job out of an attempt; where that is its end, tell those who wait for it, and those who wait for them."""
    await move(tx, row, change)
    if change.to not in FINAL:
        return
    pin = await pin_of(tx, row) if change.to is State.SUCCEEDED else None
    doomed = deque(await _settle(tx, row, pin, why=_why(row["id"], change)))
    while doomed:
        job_id, why = doomed.popleft()
        waiting = await lock(tx, job_id)
        if State(waiting["state"]) in FINAL:
            continue  # another of its inputs ended it
        code = FailureCode.DEPENDENCY_FAILED
        failure = Failure(code=code, message=why, hint=FAILURES[code].hint, phase=State.QUEUED.value)
        values = {"finished_at": await tx.now(), "waiting": 0}
        document = {"failure": failure.model_dump(mode="json"), "waiting_for": []}
        lost = Transition(State.FAILED, message=why, values=values, document=document)
        await move(tx, waiting, lost)
        doomed += await _settle(tx, waiting, None, why=_why(job_id, lost))


def _why(job_id: str, change: Transition) -> str:
    """Pass the end of a job to one that waited for it."""
    if change.to is State.SUCCEEDED:
        return f"{job_id}, which this job starts from, has neither a bundle nor a checkpoint"
    code = (change.document.get("failure") or {}).get("code")
    became = "was cancelled" if change.to is State.CANCELLED else f"failed ({code})"
    return f"{job_id}, which this job starts from, {became}"


async def _settle(tx: Transaction, source: RowMapping, pin: PinnedFile | None, *, why: str) -> list[tuple[str, str]]:
    """Pin the inputs that wait for a job that has ended. Returns the jobs that cannot go on without, and why."""
    doomed = []
    for waiting in await waiting_inputs(tx, source):
        if pin is None:
            doomed.append((waiting["job_id"], why))
        else:
            await _pin(tx, waiting, pin)
    return doomed


async def _pin(tx: Transaction, waiting: RowMapping, pin: PinnedFile) -> None:
    row = await lock(tx, waiting["job_id"])
    if State(row["state"]) in FINAL:
        return
    pinned = Input(waiting["reference"], waiting["source_id"], pin)
    own = [job_inputs.c[name] == waiting[name] for name in ("project_id", "job_id", "index")]
    await tx.execute(update(job_inputs).where(*own).values(pinned.columns()))
    lineage = row["document"]["lineage"]
    inputs = [pinned.document() if one["from"] == pinned.reference else one for one in lineage["inputs"]]
    left = [job_id for job_id in row["document"]["waiting_for"] if job_id != pinned.source_id]
    values: dict[str, Any] = {"waiting": len(left)}
    if not left:
        values["queued_at"] = await tx.now()
        values["fair_rank"] = await fair_rank(tx, row["project_id"], row["priority"])
        tx.wake(QUEUE)
    document = {"lineage": {**lineage, "inputs": inputs}, "waiting_for": left}
    await move(tx, row, Transition(values=values, document=document, events=[NewEvent("pinned", pinned.document())]))
