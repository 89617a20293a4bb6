"""Runs the service under uvicorn: `run(settings)` returns when the server was stopped."""

from __future__ import annotations

import gc
import socket
import sys
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from tapeworks_service.app import create_app
from tapeworks_service.http.bounded_protocol import bounded_protocol
from tapeworks_service.http.connections import Connections, allow_many_files
from tapeworks_service.observability.logging import configure
from tapeworks_service.settings import ServiceSettings, StartRefused
from tapeworks_service.wakeups import WakeHub

_GRACE_SECONDS = 10
_COLLECTED_AFTER = (50_000, 20, 50)
"""New objects until the youngest are walked through, and how often that is done until the older ones are."""

_SWITCH_SECONDS = 0.0005
"""How long a thread that computes keeps the event loop waiting for its turn."""


class Server(uvicorn.Server):
    """Says why it does not start, and lets waiting requests and streams go as soon as it is to stop."""

    def __init__(self, config: uvicorn.Config, hub: WakeHub) -> None:
        super().__init__(config)
        self._hub = hub
        self._connections: Connections = config.app.state.connections  # type: ignore[union-attr]

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second; once a second, close connections whose time is over."""
        if counter % 10 == 0:
            self._connections.sweep()
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen. Raises `StartRefused`."""
        try:
            await super().startup(sockets)
        except SystemExit:
            refused = getattr(getattr(self.config.app, "state", None), "refused", None)
            raise refused or StartRefused("the service did not start: see its log") from None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what waits, then close all connections."""
        self._hub.close()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM, SIGINT: stop in order, and exit with 0; a second one does not wait."""
        self.force_exit = self.should_exit
        self.should_exit = True


def configured(app: FastAPI, **options: Any) -> uvicorn.Config:
    """How uvicorn serves the application: the logs are ours, and `bounded_http.py` asks whence a request came."""
    protocol = bounded_protocol(app.state.connections)
    return uvicorn.Config(
        app, http=protocol, ws="none", log_config=None, access_log=False, proxy_headers=False, **options
    )


def make_server(settings: ServiceSettings) -> Server:
    """A server for these settings, not started yet."""
    app = create_app(settings)
    options = {"host": settings.host, "port": settings.port, "timeout_graceful_shutdown": _GRACE_SECONDS}
    return Server(configured(app, **options), app.state.hub)


def tune_gc() -> None:
    """Collect garbage seldom, once the application is made: for a process that does nothing but serve.

    To collect stops every request, for a few tenths of a second where it walks through all that is imported: that stays
    now. A request leaves no cycles, so there is little to find.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTED_AFTER)
    sys.setswitchinterval(_SWITCH_SECONDS)


def run(settings: ServiceSettings) -> None:
    """Serve until SIGTERM or SIGINT. Raises `StartRefused` where the settings do not allow a start."""
    configure(settings)
    allow_many_files()
    server = make_server(settings)
    tune_gc()
    server.run()
