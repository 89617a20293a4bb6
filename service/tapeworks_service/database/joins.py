"""Rows that several packages read together with those of another table."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Select, and_, select

from tapeworks_service.database.tables import assets, jobs


def assets_and_looks(*where: ColumnElement[bool]) -> Select[Any]:
    """Assets, each with the state and the document of the job that looks at it, null where none does."""
    looked_at = and_(jobs.c.project_id == assets.c.project_id, jobs.c.id == assets.c.job_id)
    told = (jobs.c.state.label("job_state"), jobs.c.document.label("job_document"))
    return select(assets, *told).select_from(assets.outerjoin(jobs, looked_at)).where(*where)
