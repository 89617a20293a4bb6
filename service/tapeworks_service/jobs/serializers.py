"""A job's row as the job object that a user sees."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from sqlalchemy import RowMapping

from tapeworks.schemas.jobs import FINAL
from tapeworks_service.database.clock import instant, optional_instant

FINISHED = frozenset(state.value for state in FINAL)


def job_document(row: Mapping[Any, Any], *, unschedulable: str | None = None) -> dict[str, Any]:
    """The JSON of `tapeworks.schemas.jobs.Job`."""
    document = row["document"]
    spec = row["spec"] or None
    return {
        "id": row["id"],
        "object": "job",
        "kind": row["kind"],
        "revision": row["revision"],
        "name": row["name"],
        "labels": row["labels"],
        "owner": row["owner"],
        "priority": row["priority"],
        "spec": spec,
        "state": row["state"],
        "requested": row["requested"],
        "waiting_for": document.get("waiting_for", []),
        "unschedulable": None if unschedulable is None else {"reason": unschedulable},
        "phase": row["phase"],
        "transitions": document["transitions"],
        "progress": {"step": 0, "epoch": 0, "epochs": spec and spec["training"]["epochs"], **row["progress"]},
        "metrics": document.get("metrics", {}),
        "best": document.get("best"),
        "attempt": row["attempt"],
        "failed_attempts": row["failed_attempts"],
        "max_attempts": row["max_attempts"],
        "worker": document.get("worker"),
        "created_at": instant(row["created_at"]),
        "queued_at": instant(row["queued_at"]),
        "started_at": optional_instant(row["started_at"]),
        "finished_at": optional_instant(row["finished_at"]),
        "failure": document.get("failure"),
        "checkpoints": document.get("checkpoints", {"latest": None, "best": None}),
        "model": document.get("model"),
        "result": document.get("result"),
        "diagnostics": document.get("diagnostics", {}),
        "lineage": {**document.get("lineage", {}), "retry_of": row["retry_of"], "parent": row["parent_id"]},
    }


def etag(revision: int, unschedulable: str | None) -> str:
    """Moves on with the revision; whether a queued job fits a worker changes without one."""
    reason = "" if unschedulable is None else "-" + hashlib.sha256(unschedulable.encode()).hexdigest()[:12]
    return f'"{revision}{reason}"'


def event_document(row: RowMapping) -> dict[str, Any]:
    """The JSON of `tapeworks.schemas.jobs.Event`."""
    keys = ("seq", "attempt", "type", "data")
    return {**{key: row[key] for key in keys}, "at": instant(row["at"])}


def line_document(row: RowMapping) -> dict[str, Any]:
    """The JSON of `tapeworks.schemas.jobs.LogLine`."""
    keys = ("seq", "attempt", "stream", "text")
    return {**{key: row[key] for key in keys}, "at": instant(row["at"])}


def point_document(row: RowMapping) -> dict[str, Any]:
    """One metric's value at one step, as streams send it."""
    keys = ("seq", "attempt", "name", "step")
    return {**{key: row[key] for key in keys}, "value": number(row["value"]), "at": instant(row["at"])}


def number(value: float | None) -> float | str:
    """A stored metric value for JSON, which has no NaN and no infinity."""
    if value is None:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def checkpoint_document(row: RowMapping) -> dict[str, Any]:
    """The JSON of `tapeworks.schemas.jobs.Checkpoint`."""
    keys = ("id", "step", "epoch", "attempt", "bytes", "sha256", "metrics", "best")
    return {**{key: row[key] for key in keys}, "created_at": instant(row["created_at"])}


def artifact_document(row: RowMapping) -> dict[str, Any]:
    """The JSON of `tapeworks.schemas.jobs.Artifact`."""
    keys = ("path", "bytes", "sha256", "attempt")
    return {**{key: row[key] for key in keys}, "created_at": instant(row["created_at"])}
