"""Runs the service under uvicorn: `run(settings)` returns when the server was stopped."""

from __future__ import annotations

import gc
import socket
from types import FrameType

import uvicorn

from tapeworks_service.app import create_app
from tapeworks_service.logs import configure
from tapeworks_service.settings import ServiceSettings, StartRefused
from tapeworks_service.waking import Hub

_GRACE_SECONDS = 10
_COLLECTED_AFTER = (50_000, 20, 50)
"""New objects until the youngest are walked through, and how often that is done until the older ones are."""


class Server(uvicorn.Server):
    """Says why it does not start, and lets waiting requests and streams go as soon as it is to stop."""

    def __init__(self, config: uvicorn.Config, hub: Hub) -> None:
        super().__init__(config)
        self._hub = hub

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


def make_server(settings: ServiceSettings) -> Server:
    """A server for these settings, not started yet."""
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        proxy_headers=False,  # nothing asks whence a request came
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    return Server(config, app.state.hub)


def run(settings: ServiceSettings) -> None:
    """Serve until SIGTERM or SIGINT. Raises `StartRefused` where the settings do not allow a start."""
    configure(settings)
    server = make_server(settings)
    # To collect stops every request, for a few tenths of a second where it walks through all that is imported: that
    # stays. A request leaves no cycles, so there is little to find.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTED_AFTER)
    server.run()
