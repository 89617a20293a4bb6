"""What a job reads: jobs, checkpoints and uploads that its spec names, each pinned to one file that is kept for it.

A job that succeeded is pinned to its bundle, or to its latest checkpoint where it exports none; a checkpoint
to itself, an upload too. A job that has not ended yet is waited for; the queue pins it when it succeeds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, Select, and_, select

from tapeworks.errors import Finding, ProblemCode, SpecInvalid
from tapeworks.schemas.jobs import FINAL, JobKind, State
from tapeworks_service.database.engine import Transaction
from tapeworks_service.database.queries import assets_and_looks, checkpoints_of
from tapeworks_service.database.tables import artifacts, assets, checkpoints, job_inputs, jobs
from tapeworks_service.specs.input_references import InputReference

_ASSET = re.compile(r"(ds|pkg|bundle)_[0-9A-Za-z]{1,57}")
ASSETS = {"ds": "dataset", "pkg": "package", "bundle": "bundle"}
"""Prefix of an id → kind of what was uploaded."""


@dataclass(frozen=True)
class PinnedFile:
    """The file that a job reads."""

    kind: str
    bytes: int
    sha256: str
    key: str
    checkpoint_id: str | None = None

    @classmethod
    def of(cls, kind: str, row: Mapping[Any, Any], checkpoint_id: str | None = None) -> PinnedFile:
        """From a row with bytes, sha256 and key."""
        return cls(kind, row["bytes"], row["sha256"], row["key"], checkpoint_id)


@dataclass(frozen=True)
class Input:
    """One input of a new job; without a pin it waits for the job `source_id`."""

    reference: str
    source_id: str
    pin: PinnedFile | None
    resume: bool = False
    """A checkpoint that the job goes on from as if it were its own."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """How the files of a dataset are read, as it was pushed."""

    def columns(self) -> dict[str, Any]:
        """The input as columns of `job_inputs`."""
        unpinned = dict.fromkeys(("kind", "bytes", "sha256", "key", "checkpoint_id"))
        pinned = unpinned if self.pin is None else asdict(self.pin)
        return {"reference": self.reference, "source_id": self.source_id, "resume": self.resume, **pinned}

    def document(self) -> dict[str, Any]:
        """The input as reported in `lineage.inputs` and in the event `pinned`."""
        if _ASSET.fullmatch(self.reference) and self.pin is not None:
            options = {"options": dict(self.options)} if self.options else {}
            return {"from": self.reference, "kind": self.pin.kind, "sha256": self.pin.sha256, **options}
        kept = ("kind", "checkpoint_id", "sha256")
        return {
            "from": self.reference,
            "job_id": self.source_id,
            **{name: getattr(self.pin, name, None) for name in kept},
            **({"resume": True} if self.resume else {}),
        }


# ── at POST ──────────────────────────────────────────────────────────────────────────────────────


async def resolve(tx: Transaction, project_id: str, references: Sequence[InputReference]) -> list[Input]:
    """The inputs of a spec, each id once. Raises `SpecInvalid` where one leads nowhere.

    The jobs that are named stay locked until the transaction ends: none of them can end, prune or be deleted
    before the new job's row is there to hear of it.
    """
    uploaded = await _assets(tx, project_id, [one.value for one in references if _ASSET.fullmatch(one.value)])
    others = dict.fromkeys(one.value for one in references if not _ASSET.fullmatch(one.value))
    owners = {value: await _owner(tx, project_id, value) for value in others}
    sources = {owner: await _locked(tx, owner) for owner in sorted({owner for owner in owners.values() if owner})}
    found: dict[str, Input] = {}
    findings: list[Finding] = []
    for one in references:
        if _ASSET.fullmatch(one.value):
            outcome: Input | Finding = _of_asset(one, uploaded.get(one.value))
            if isinstance(outcome, Finding):
                findings.append(outcome)
            else:
                found[one.value] = outcome
            continue
        owner = owners[one.value]
        source = None if owner is None else sources[owner]
        outcome = await _resolved(tx, one, source)
        if isinstance(outcome, Finding):
            findings.append(outcome)
        else:
            found[one.value] = outcome
    if findings:
        raise SpecInvalid(findings)
    return list(found.values())


async def _assets(tx: Transaction, project_id: str, ids: Sequence[str]) -> dict[str, RowMapping]:
    """Uploads by id, with the state of the jobs that look at them; none is deleted before the transaction ends."""
    if not ids:
        return {}
    own = (assets.c.project_id == project_id, assets.c.id.in_(ids))
    held = select(assets.c.id).where(*own).order_by(assets.c.id).with_for_update(read=True, key_share=True)
    await tx.all(held)
    return {row["id"]: row for row in await tx.all(assets_and_looks(*own))}


def _of_asset(reference: InputReference, row: RowMapping | None) -> Input | Finding:
    """An upload that may be read. A dataset that is still looked at is: its source looks at it too."""
    value = reference.value
    kind = ASSETS[value.partition("_")[0]]
    if row is None:
        return Finding(reference.pointer, ProblemCode.INVALID_VALUE, f"there is no {kind} {value!r}")
    if row["job_state"] in (State.FAILED.value, State.CANCELLED.value):
        failure = row["job_document"].get("failure") or {}
        message = f"the {kind} {value!r} was refused: {failure.get('message', 'it was never inspected')}"
        return Finding(
            reference.pointer, ProblemCode.INVALID_VALUE, message, f"GET /v1/{kind}s/{value} has the reason."
        )
    return Input(value, row["id"], PinnedFile.of(kind, row), options=row["document"].get("options") or {})


async def _owner(tx: Transaction, project_id: str, value: str) -> str | None:
    """The job that a reference is about, in this project."""
    if value.startswith("ckpt_"):
        table, column = checkpoints, checkpoints.c.job_id
    else:
        table, column = jobs, jobs.c.id
    row = await tx.one(select(column.label("job_id")).where(table.c.project_id == project_id, table.c.id == value))
    return None if row is None else str(row["job_id"])


async def _locked(tx: Transaction, job_id: str) -> RowMapping | None:
    return await tx.one(select(jobs).where(jobs.c.id == job_id).with_for_update())


async def _resolved(tx: Transaction, reference: InputReference, source: RowMapping | None) -> Input | Finding:
    value = reference.value
    if source is None:
        what = "checkpoint" if value.startswith("ckpt_") else "job"
        hint = "Only the newest checkpoints of a job are kept (training.checkpoint.keep)." if what != "job" else ""
        return Finding(reference.pointer, ProblemCode.INVALID_VALUE, f"there is no {what} {value!r}", hint)
    if value.startswith("ckpt_"):
        row = await tx.one(checkpoints_of(source["project_id"], source["id"]).where(checkpoints.c.id == value))
        if row is None:  # pruned while we waited for the lock
            return Finding(reference.pointer, ProblemCode.INVALID_VALUE, f"there is no checkpoint {value!r}")
        return Input(value, source["id"], PinnedFile.of("checkpoint", row, value))
    if source["kind"] != JobKind.TRAIN.value:
        message = f"{value!r} is a job of kind {source['kind']}, which produces no model"
        return Finding(reference.pointer, ProblemCode.INVALID_VALUE, message, "Name a training job.")
    state = State(source["state"])
    if state not in FINAL:
        return Input(value, source["id"], None)
    pin = await pin_of(tx, source) if state is State.SUCCEEDED else None
    if pin is not None:
        return Input(value, source["id"], pin)
    message = f"{value!r} " + _nothing_left(state)
    return Finding(reference.pointer, ProblemCode.INVALID_VALUE, message, await _instead(tx, source))


def _nothing_left(state: State) -> str:
    if state is State.SUCCEEDED:
        return "has neither a bundle nor a checkpoint"
    return "was cancelled" if state is State.CANCELLED else "has failed"


async def _instead(tx: Transaction, source: RowMapping) -> str:
    latest = await _latest_checkpoint(tx, source)
    if latest is None:
        return "Name a job in the state succeeded."
    return f"Name its last checkpoint, {latest['id']!r} (step {latest['step']}), to start from it."


# ── pins ─────────────────────────────────────────────────────────────────────────────────────────


async def pin_of(tx: Transaction, source: RowMapping) -> PinnedFile | None:
    """What a job that succeeded is gone on from: its bundle, else its latest checkpoint; None where it left neither."""
    own = (artifacts.c.project_id == source["project_id"], artifacts.c.job_id == source["id"])
    bundle = await tx.one(select(artifacts).where(*own, artifacts.c.role == "bundle"))
    if bundle is not None:
        return PinnedFile.of("bundle", bundle)
    latest = await _latest_checkpoint(tx, source)
    return None if latest is None else PinnedFile.of("checkpoint", latest, latest["id"])


async def _latest_checkpoint(tx: Transaction, source: RowMapping) -> RowMapping | None:
    return await tx.one(checkpoints_of(source["project_id"], source["id"]).limit(1))


async def waiting_inputs(tx: Transaction, source: RowMapping) -> list[RowMapping]:
    """Inputs of other jobs that wait for this one."""
    waiting = select(job_inputs).where(_from(source), job_inputs.c.kind.is_(None))
    return await tx.all(waiting.order_by(job_inputs.c.job_id, job_inputs.c.index))  # locked in one order by all


async def users_of(tx: Transaction, source: RowMapping) -> list[RowMapping]:
    """Inputs of unfinished jobs that this one's files are kept for."""
    return await tx.all(_unfinished().where(_from(source)))


def _from(source: RowMapping) -> ColumnElement[bool]:
    return and_(job_inputs.c.project_id == source["project_id"], job_inputs.c.source_id == source["id"])


def _unfinished() -> Select[Any]:
    final = [state.value for state in FINAL]
    its_job = and_(jobs.c.project_id == job_inputs.c.project_id, jobs.c.id == job_inputs.c.job_id)
    return select(job_inputs).join(jobs, its_job).where(jobs.c.state.not_in(final))


# ── for the worker that holds the job ────────────────────────────────────────────────────────────


async def inputs_of(tx: Transaction, job: RowMapping) -> list[RowMapping]:
    """What the spec of a job names, in its order."""
    return await tx.all(select(job_inputs).where(*_own(job), ~job_inputs.c.resume).order_by(job_inputs.c.index))


async def resumed_from(tx: Transaction, job: RowMapping) -> RowMapping | None:
    """The checkpoint of another job that this one goes on from as if it were its own; None for most."""
    its_own = and_(checkpoints.c.project_id == job_inputs.c.project_id, checkpoints.c.id == job_inputs.c.checkpoint_id)
    return await tx.one(select(checkpoints).join(job_inputs, its_own).where(*_own(job), job_inputs.c.resume))


def _own(job: RowMapping) -> tuple[ColumnElement[bool], ...]:
    return job_inputs.c.project_id == job["project_id"], job_inputs.c.job_id == job["id"]


async def input_documents(tx: Transaction, job: RowMapping) -> list[dict[str, Any]]:
    """The JSON of `tapeworks.schemas.worker_protocol.LeaseInput` for each input of a job."""
    rows = await inputs_of(tx, job)
    uploaded = [row["source_id"] for row in rows if _ASSET.fullmatch(row["source_id"])]
    about = {}
    if uploaded:
        for one in await tx.all(select(assets).where(assets.c.id.in_(uploaded))):
            about[one["id"]] = {**one["document"], **{name: one[name] for name in ("name", "version", "format")}}
    kept = ("kind", "bytes", "sha256")
    return [
        {"from": row["reference"], **{name: row[name] for name in kept}, "about": about.get(row["source_id"], {})}
        for row in rows
    ]
