"""Rows that several packages read together with those of another table."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Select, and_, select

from tapeworks_service.database.tables import assets, checkpoints, jobs


def assets_and_looks(*where: ColumnElement[bool]) -> Select[Any]:
    """Assets, each with the state and the document of the job that looks at it, null where none does."""
    looked_at = and_(jobs.c.project_id == assets.c.project_id, jobs.c.id == assets.c.job_id)
    job_columns = (jobs.c.state.label("job_state"), jobs.c.document.label("job_document"))
    return select(assets, *job_columns).select_from(assets.outerjoin(jobs, looked_at)).where(*where)


def checkpoints_of(project_id: str, job_id: str) -> Select[Any]:
    """A job's checkpoints, the newest first: an attempt that was resumed counts its steps from where it began."""
    newest = (checkpoints.c.attempt.desc(), checkpoints.c.step.desc(), checkpoints.c.created_at.desc())
    return (
        select(checkpoints)
        .where(checkpoints.c.project_id == project_id, checkpoints.c.job_id == job_id)
        .order_by(*newest)
    )
