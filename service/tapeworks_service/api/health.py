"""Is the service alive, is it ready, what does it count; and what this version does not do yet."""

from __future__ import annotations

import asyncio
import platform
from collections import Counter
from importlib import metadata
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response
from sqlalchemy import func, select

from tapeworks.errors import ProblemCode
from tapeworks.schemas.access import Versions
from tapeworks_service.api.dependencies import Reader
from tapeworks_service.api.messages import answer, problems
from tapeworks_service.context import ContextDep
from tapeworks_service.database.tables import catalogues, jobs
from tapeworks_service.observability.metrics import CONTENT_TYPE
from tapeworks_service.problems import Problem, not_supported
from tapeworks_service.workers.repository import read_workers

router = APIRouter(tags=["service"])


@router.get("/healthz", operation_id="health", summary="Liveness: the process responds")
async def healthz() -> Response:
    """Always 200."""
    return answer({"status": "ok"})


@router.get("/readyz", operation_id="readiness", summary="Readiness: a job could run now", responses=problems(503))
async def readyz(context: ContextDep) -> Response:
    """Database, store, and the catalogue of at least one live worker; 503 says which is missing."""
    checks: dict[str, Any] = {"database": "ok", "store": "ok", "catalogue": "ok"}
    async with context.database.read() as tx:
        known = {row["digest"] for row in await tx.all(select(catalogues.c.digest))}
        rows = await read_workers(tx, lost_after=context.settings.lease_seconds)
    if not any(not row.lost and row.catalogue_digest in known for row in rows):
        checks["catalogue"] = "no live worker has registered its components"
    try:
        await context.store.check()
    except Problem as problem:
        checks["store"] = problem.detail
    wrong = [value for value in checks.values() if value != "ok"]
    if wrong:
        hint = "Each entry of checks reports what is missing; the first start takes longer."
        raise Problem(ProblemCode.UNAVAILABLE, "; ".join(wrong), hint=hint, extra={"checks": checks})
    return answer({"status": "ready", "checks": checks})


@router.get("/metrics", operation_id="prometheus", summary="Metrics for Prometheus", responses=problems(401, 403, 503))
async def metrics(caller: Reader, context: ContextDep) -> Response:
    """Text format."""
    async with context.database.read() as tx:
        counted = await tx.all(select(jobs.c.state, func.count().label("jobs")).group_by(jobs.c.state))
        rows = await read_workers(tx, lost_after=context.settings.lease_seconds)
    by_state = {row["state"]: row["jobs"] for row in counted}
    workers = Counter("lost" if row.lost else "ready" for row in rows)
    text = await asyncio.to_thread(context.measures.render, jobs=by_state, workers=workers)  # about 10 ms
    return Response(text, media_type=CONTENT_TYPE)


@router.get(
    "/v1/version",
    operation_id="get_versions",
    summary="What runs here",
    response_model=Versions,
    responses=problems(401, 403, 503),
)
async def get_versions(caller: Reader, context: ContextDep) -> Response:
    """Versions of the service. `GET /v1/workers` has those of TensorFlow and Keras, which run on the workers."""
    versions = Versions(
        tapeworks=metadata.version("tapeworks"),
        python=platform.python_version(),
        database="sqlite" if context.database.url.get_backend_name() == "sqlite" else "postgresql",
        packages=context.settings.allow_packages,
    )
    return answer(versions)


async def _later(caller: Reader, rest: str = "") -> Response:
    """Named by the contract; this version answers 422 `not_supported`."""
    raise not_supported("registered models")


for _path in ("/v1/models", "/v1/models/{rest:path}"):
    router.add_api_route(_path, _later, methods=["GET", "POST", "PUT", "PATCH", "DELETE"], include_in_schema=False)
