"""The FastAPI application, assembled: `create_app(settings)`."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import structlog
from fastapi import FastAPI
from sqlalchemy import insert, select

from tapeworks_service import problems
from tapeworks_service.api import artifacts, health, leases, openapi, sessions, workers
from tapeworks_service.api import components as catalogue
from tapeworks_service.api import keys as key_routes
from tapeworks_service.api.assets import bundles, datasets, packages
from tapeworks_service.api.jobs import records, submission
from tapeworks_service.api.jobs import routes as jobs
from tapeworks_service.auth import keys
from tapeworks_service.auth.callers import CallerCache
from tapeworks_service.catalogue.cache import CatalogueCache
from tapeworks_service.context import Context
from tapeworks_service.database.clock_steps import ClockWatch
from tapeworks_service.database.engine import Database, Transaction
from tapeworks_service.database.tables import installation
from tapeworks_service.http.connections import Connections, Limits
from tapeworks_service.http.cursors import Cursors
from tapeworks_service.http.work_budget import LongChecks
from tapeworks_service.jobs.response_cache import JobCache
from tapeworks_service.jobs.stream_tails import StreamTailCache
from tapeworks_service.maintenance.reaper import reap_forever
from tapeworks_service.maintenance.sweeper import sweep_forever
from tapeworks_service.observability.logging import RequestIds
from tapeworks_service.observability.loop_lateness import LoopLateness
from tapeworks_service.observability.metrics import Metrics, MetricsMiddleware
from tapeworks_service.queue.scheduling import RequirementsCache
from tapeworks_service.queue.unschedulable import UnschedulableReasons
from tapeworks_service.settings import ServiceSettings, StartRefused
from tapeworks_service.storage.store import Store
from tapeworks_service.wakeups import WakeHub
from tapeworks_service.web import pages, reference
from tapeworks_service.workers.repository import Workers

log = structlog.get_logger(__name__)


def create_app(settings: ServiceSettings) -> FastAPI:
    """The service as an ASGI application. Making or starting it raises `StartRefused`."""
    measures = Metrics()
    hub = WakeHub()
    database = Database(settings.database, hub=hub, busy_seconds=settings.busy_seconds)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            await database.open()
            async with database.write() as tx:
                await tx.alone("start")
                await keys.prepare(tx, settings)
                cursors = Cursors(await _prepared_secret(tx))
            store = Store(settings.artifacts)
            checks = LongChecks()
            context = Context(
                settings=settings,
                database=database,
                hub=hub,
                store=store,
                catalogues=CatalogueCache(),
                fits=RequirementsCache(),
                workers=Workers(),
                waiting=UnschedulableReasons(),
                bodies=JobCache(),
                tails=StreamTailCache(),
                callers=CallerCache(),
                clock=ClockWatch(),
                loop=LoopLateness(settings.lease_seconds, measures),
                checks=checks,
                cursors=cursors,
                measures=measures,
            )
            app.state.context = context
            works = (reap_forever(context), sweep_forever(context), context.loop.watch_forever())
            rounds = [asyncio.create_task(work) for work in works]
            log.info("service_started", database=database.url.render_as_string(), data_dir=str(settings.data_dir))
            yield
            hub.close()
            checks.close()
            for task in rounds:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        except StartRefused as refused:
            app.state.refused = refused
            raise
        finally:
            await database.close()

    app = FastAPI(
        title="Tapeworks",
        version="0.1.0",
        description="Training as a service for TensorFlow and Keras 3.",
        lifespan=lifespan,
        openapi_url=None,  # openapi.py
        docs_url=None,  # web/reference.py
        redoc_url=None,
        # Nobody sets a provider up; to look for one costs each request 5 % of its time.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.hub = hub
    app.state.connections = Connections(Limits.of(settings), measures)
    app.state.refused = None
    problems.install(app)
    openapi.install(app)
    app.add_middleware(MetricsMiddleware, measures=measures)
    app.add_middleware(RequestIds)
    rooms = (jobs, submission, records, artifacts, datasets, packages, bundles, catalogue, workers, leases)
    for room in (*rooms, sessions, key_routes, health, reference, pages):
        app.router.routes.extend(room.router.routes)  # an included router matches each request a second time
    return app


async def _prepared_secret(tx: Transaction) -> bytes:
    """The secret that lease tokens and cursors are made from."""
    known = await tx.one(select(installation.c.value).where(installation.c.name == "lease_secret"))
    if known is not None:
        return bytes(known["value"])
    made = secrets.token_bytes(32)
    await tx.execute(insert(installation).values(name="lease_secret", value=made))
    return made
