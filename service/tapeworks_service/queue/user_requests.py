"""What a user wants of a job that is there: cancel, pause, resume.

Where nobody holds the job it is done at once; else it is kept in `requested`, its worker hears of it, and the end of
the attempt goes by it (`queue.finish`). What cannot be had is 409 and says why.
"""

from __future__ import annotations

from sqlalchemy import RowMapping

from tapeworks.errors import ProblemCode
from tapeworks.schemas.jobs import FINAL, HELD, Requested, State
from tapeworks_service.database.engine import Transaction
from tapeworks_service.problems import Problem
from tapeworks_service.queue.fence import lock
from tapeworks_service.queue.record_log import NewEvent
from tapeworks_service.queue.scheduling import fair_rank
from tapeworks_service.queue.transitions import Transition, end, move


async def cancel(tx: Transaction, job_id: str, *, project_id: str) -> None:
    """Cancel: it overrules a pause. Raises 404, 409 where the job has ended."""
    row = await lock(tx, job_id, project_id=project_id)
    state = State(row["state"])
    if state in FINAL:
        raise _conflict(row, f"the job is already {state.value}")
    if state in HELD:
        await _ask(tx, row, Requested.CANCEL)
        return
    values = {"finished_at": await tx.now(), "phase": None, "not_before": None, "waiting": 0}
    await end(tx, row, Transition(State.CANCELLED, values=values, document={"waiting_for": []}))


async def pause(tx: Transaction, job_id: str, *, project_id: str) -> None:
    """Pause: a queued job at once. Raises 404, 409 where the job trains no more, is paused or about to be cancelled."""
    row = await lock(tx, job_id, project_id=project_id)
    state = State(row["state"])
    if state in FINAL or state is State.PAUSED:
        raise _conflict(row, f"the job is already {state.value}")
    if state in (State.EXPORTING, State.VERIFYING):
        hint = "It ends shortly. Cancel it to stop it."
        raise _conflict(row, f"training is complete: a job in the state {state.value} cannot be paused", hint)
    if row["requested"] == Requested.CANCEL.value:
        raise _conflict(row, "the job is being cancelled")
    if state in HELD:
        await _ask(tx, row, Requested.PAUSE)
        return
    document = {"paused_at": await tx.now()}
    await move(tx, row, Transition(State.PAUSED, values={"phase": None, "not_before": None}, document=document))


async def resume(tx: Transaction, job_id: str, *, project_id: str) -> None:
    """Queue a paused job again, or take back a pause that has not come about. Raises 404, 409 for any other."""
    row = await lock(tx, job_id, project_id=project_id)
    state = State(row["state"])
    if state in HELD and row["requested"] == Requested.PAUSE.value:
        await _ask(tx, row, Requested.NONE)
        return
    if state is not State.PAUSED:
        raise _conflict(row, f"the job is {state.value}, not paused")
    now = await tx.now()
    values = {"queued_at": now, "fair_rank": await fair_rank(tx, row["project_id"], row["priority"])}
    if row["timeout_seconds"] is not None and row["started_at"] is not None:
        # The limit is on the time that the job had: a pause is none of it.
        values["timeout_seconds"] = row["timeout_seconds"] + max(now - row["document"]["paused_at"], 0.0)
    await move(tx, row, Transition(State.QUEUED, values=values, document={"paused_at": None}, message="resumed"))


async def _ask(tx: Transaction, row: RowMapping, wish: Requested) -> None:
    """Note a wish for the worker that holds the job; the same again changes nothing."""
    if row["requested"] != wish.value:
        events = [NewEvent("requested", {"requested": wish.value})]
        await move(tx, row, Transition(values={"requested": wish.value}, events=events))


def _conflict(row: RowMapping, detail: str, hint: str | None = None) -> Problem:
    return Problem(ProblemCode.CONFLICT, detail, hint=hint, extra={"state": row["state"]})
