"""The checkpoints of a job, as rows."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, select

from tapeworks_service.database.tables import checkpoints


def checkpoints_of(project_id: str, job_id: str) -> Select[Any]:
    """A job's checkpoints, the newest first: an attempt that was resumed counts its steps from where it began."""
    newest = (checkpoints.c.attempt.desc(), checkpoints.c.step.desc(), checkpoints.c.created_at.desc())
    return (
        select(checkpoints)
        .where(checkpoints.c.project_id == project_id, checkpoints.c.job_id == job_id)
        .order_by(*newest)
    )
