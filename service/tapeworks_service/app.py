"""The FastAPI application, assembled: `create_app(settings)`."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import structlog
from fastapi import FastAPI
from sqlalchemy import insert, select

from tapeworks_service import health, keys, openapi, problems, reference
from tapeworks_service.artifacts import routes as artifacts
from tapeworks_service.artifacts.store import Store
from tapeworks_service.artifacts.sweep import sweep_forever
from tapeworks_service.bundles import routes as bundles
from tapeworks_service.callers import Callers
from tapeworks_service.catalogue import routes as catalogue
from tapeworks_service.catalogue.cache import CatalogueCache
from tapeworks_service.connections import Connections, Limits
from tapeworks_service.context import Context
from tapeworks_service.cursors import Cursors
from tapeworks_service.database.engine import Database, Transaction
from tapeworks_service.database.tables import installation
from tapeworks_service.datasets import routes as datasets
from tapeworks_service.jobs import record_routes, submit_routes
from tapeworks_service.jobs import routes as jobs
from tapeworks_service.jobs.bodies import Bodies
from tapeworks_service.jobs.clock_steps import ClockWatch
from tapeworks_service.jobs.reaper import reap_forever
from tapeworks_service.jobs.tails import Tails
from tapeworks_service.jobs.turns import FitCache
from tapeworks_service.jobs.waiting import Waiting
from tapeworks_service.leases import routes as leases
from tapeworks_service.logs import RequestIds
from tapeworks_service.loop_lateness import LoopLateness
from tapeworks_service.packages import routes as packages
from tapeworks_service.prometheus import Measured, Measures
from tapeworks_service.settings import ServiceSettings, StartRefused
from tapeworks_service.waking import Hub
from tapeworks_service.work_budget import LongChecks
from tapeworks_service.workers import routes as workers
from tapeworks_service.workers.rows import Workers

log = structlog.get_logger(__name__)


def create_app(settings: ServiceSettings) -> FastAPI:
    """The service as an ASGI application. Making or starting it raises `StartRefused`."""
    measures = Measures()
    hub = Hub()
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
            caches = (CatalogueCache(), FitCache(), Workers(), Waiting(), Bodies(), Tails(), Callers())
            watches = (ClockWatch(), LoopLateness(settings.lease_seconds, measures))
            checks = LongChecks()
            house = Context(settings, database, hub, store, *caches, *watches, checks, cursors, measures)
            app.state.context = house
            works = (reap_forever(house), sweep_forever(house), house.loop.watch_forever())
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
        docs_url=None,  # reference.py
        redoc_url=None,
        # Nobody sets a provider up; to look for one costs each request 5 % of its time.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.hub = hub
    app.state.connections = Connections(Limits.of(settings), measures)
    app.state.refused = None
    problems.install(app)
    openapi.install(app)
    app.add_middleware(Measured, measures=measures)
    app.add_middleware(RequestIds)
    rooms = (jobs, submit_routes, record_routes, artifacts, datasets, packages, bundles, catalogue, workers, leases)
    for room in (*rooms, health, reference):
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
