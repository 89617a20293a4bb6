"""Every metric of the service."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LATENESS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The metrics of one application."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "tapeworks_requests", "Requests answered", ["method", "route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "tapeworks_request_seconds", "Seconds until a response was complete", ["route"], registry=self.registry
        )
        self.jobs = Gauge("tapeworks_jobs", "Jobs by state", ["state"], registry=self.registry)
        self.workers = Gauge("tapeworks_workers", "Workers by state", ["state"], registry=self.registry)
        self.submitted = Counter("tapeworks_jobs_submitted", "Jobs accepted", registry=self.registry)
        self.leases = Counter("tapeworks_leases", "Attempts leased to workers", registry=self.registry)
        self.reaped = Counter("tapeworks_leases_reaped", "Attempts whose lease expired", registry=self.registry)
        self.ended = Counter("tapeworks_attempts_ended", "Attempts by outcome", ["outcome"], registry=self.registry)
        self.lateness = Histogram(
            "tapeworks_loop_lateness_seconds", "Event loop lag, sampled ten times a second",
            buckets=LATENESS_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.own_lateness = Histogram(
            "tapeworks_loop_own_lateness_seconds", "Event loop lag that the service's own work explains",
            buckets=LATENESS_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.steps = Counter("tapeworks_clock_steps", "Wall clock adjustments corrected", registry=self.registry)
        self.refused = Counter(
            "tapeworks_connections_refused", "Connections and requests refused before authentication", ["reason"],
            registry=self.registry,
        )  # fmt: skip
        self._rendering = threading.Lock()
        self.uploaded = Counter("tapeworks_uploaded_bytes", "Bytes of stored upload parts", registry=self.registry)

    def render(self, *, jobs: Mapping[str, int], workers: Mapping[str, int]) -> bytes:
        """The text that Prometheus scrapes."""
        with self._rendering:  # on a thread, where another scrape may be at it
            for gauge, counts in ((self.jobs, jobs), (self.workers, workers)):
                gauge.clear()
                for state, count in counts.items():
                    gauge.labels(state).set(count)
            return generate_latest(self.registry)


class MetricsMiddleware:
    """Counts each request under its route's template, so that ids make no labels."""

    def __init__(self, app: ASGIApp, measures: Metrics) -> None:
        self._app = app
        self._measures = measures
        self._known: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            count, seconds = self._of(scope["method"], route, status)
            count.inc()
            seconds.observe(time.perf_counter() - started)

    def _of(self, method: str, route: str, status: int) -> tuple[Counter, Histogram]:
        """Kept, since to find them by their labels takes longer than to count."""
        key = (method, route, status)
        if key not in self._known:
            self._known[key] = self._measures.requests.labels(*key), self._measures.seconds.labels(route)
        return self._known[key]
