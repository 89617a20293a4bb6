"""What every request needs, made once per application and passed in: no globals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from tapeworks_service.auth.callers import CallerCache
from tapeworks_service.catalogue.cache import CatalogueCache
from tapeworks_service.database.clock_steps import ClockWatch
from tapeworks_service.database.engine import Database
from tapeworks_service.http.cursors import Cursors
from tapeworks_service.http.work_budget import LongChecks
from tapeworks_service.jobs.response_cache import JobCache
from tapeworks_service.jobs.stream_tails import StreamTailCache
from tapeworks_service.observability.loop_lateness import LoopLateness
from tapeworks_service.observability.metrics import Metrics
from tapeworks_service.queue.scheduling import RequirementsCache
from tapeworks_service.queue.unschedulable import UnschedulableReasons
from tapeworks_service.settings import ServiceSettings
from tapeworks_service.storage.store import Store
from tapeworks_service.wakeups import WakeHub
from tapeworks_service.workers.repository import Workers


@dataclass(frozen=True, kw_only=True)
class Context:
    """The parts of the service."""

    settings: ServiceSettings
    database: Database
    hub: WakeHub
    store: Store
    catalogues: CatalogueCache
    fits: RequirementsCache
    workers: Workers
    waiting: UnschedulableReasons
    bodies: JobCache
    tails: StreamTailCache
    callers: CallerCache
    clock: ClockWatch
    loop: LoopLateness
    checks: LongChecks
    cursors: Cursors
    measures: Metrics


def context_of(request: Request) -> Context:
    """The parts of the service that answers a request."""
    context: Context = request.app.state.context
    return context


async def _context(request: Request) -> Context:  # a plain function would run in a thread of its own
    return context_of(request)


ContextDep = Annotated[Context, Depends(_context)]
"""The parts of the service, as a route's argument."""
