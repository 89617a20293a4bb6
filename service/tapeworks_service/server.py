"""Runs the service under uvicorn: `run(settings)` returns when the server was stopped."""

from __future__ import annotations

import asyncio
import socket
from types import FrameType

import uvicorn

from tapeworks_service.app import create_app
from tapeworks_service.logs import configure
from tapeworks_service.settings import ServiceSettings, StartRefused
from tapeworks_service.waking import Hub

_GRACE_SECONDS = 10


class Server(uvicorn.Server):
    """Lets waiting requests and streams go as soon as it is asked to stop."""

    def __init__(self, config: uvicorn.Config, hub: Hub) -> None:
        super().__init__(config)
        self._hub = hub
        self._running_in: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        self._running_in = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM, SIGINT: no new connections, and nobody is kept waiting."""
        super().handle_exit(sig, frame)
        if self._running_in is not None:
            self._running_in.call_soon_threadsafe(self._hub.close)


def make_server(settings: ServiceSettings) -> Server:
    """A server for these settings, not started yet."""
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    return Server(config, app.state.hub)


def run(settings: ServiceSettings) -> None:
    """Serve until SIGTERM or SIGINT. Raises `StartRefused` where the settings do not allow a start."""
    configure(settings)
    server = make_server(settings)
    server.run()
    if not server.started:
        refused: StartRefused | None = server.config.app.state.refused  # type: ignore[union-attr]
        raise refused or StartRefused("the service did not start: see its log")
