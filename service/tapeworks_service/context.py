"""What every request needs, made once per application and passed in: no globals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from tapeworks_service.artifacts.store import Store
from tapeworks_service.callers import Callers
from tapeworks_service.catalogue.cache import CatalogueCache
from tapeworks_service.cursors import Cursors
from tapeworks_service.database.engine import Database
from tapeworks_service.jobs.bodies import Bodies
from tapeworks_service.jobs.clock_steps import ClockWatch
from tapeworks_service.jobs.tails import Tails
from tapeworks_service.jobs.turns import FitCache
from tapeworks_service.jobs.waiting import Waiting
from tapeworks_service.loop_lateness import LoopLateness
from tapeworks_service.prometheus import Measures
from tapeworks_service.settings import ServiceSettings
from tapeworks_service.waking import Hub
from tapeworks_service.work_budget import LongChecks
from tapeworks_service.workers.rows import Workers


@dataclass(frozen=True)
class Context:
    """The parts of the service."""

    settings: ServiceSettings
    database: Database
    hub: Hub
    store: Store
    catalogues: CatalogueCache
    fits: FitCache
    workers: Workers
    waiting: Waiting
    bodies: Bodies
    tails: Tails
    callers: Callers
    clock: ClockWatch
    loop: LoopLateness
    checks: LongChecks
    cursors: Cursors
    measures: Measures


def context_of(request: Request) -> Context:
    """The parts of the service that answers a request."""
    context: Context = request.app.state.context
    return context


async def _context(request: Request) -> Context:  # a plain function would run in a thread of its own
    return context_of(request)


House = Annotated[Context, Depends(_context)]
"""The parts of the service, as a route's argument."""
