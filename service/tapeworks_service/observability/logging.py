"""Logs by structlog: colours to a terminal, JSON lines to anything else."""

from __future__ import annotations

import logging
import sys

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tapeworks_service.ids import new_id
from tapeworks_service.settings import ServiceSettings

log = structlog.get_logger(__name__)

REQUEST_ID_HEADER = "X-Request-Id"
_RAW_HEADER = REQUEST_ID_HEADER.lower().encode()


class RequestIds:
    """Gives each request an id: in every log line about it, and in its answer's `X-Request-Id`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = new_id("req")
        # All that is ever bound: what an earlier request of the connection left is replaced.
        structlog.contextvars.bind_contextvars(request_id=request_id, method=scope["method"], path=scope["path"])

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (_RAW_HEADER, request_id.encode())]
                log.debug("request", status=message["status"])
            await send(message)

        await self._app(scope, receive, named)


def configure(settings: ServiceSettings) -> None:
    """Set up logging for this process, the libraries' loggers included."""
    level = getattr(logging, settings.log_level.upper())
    console = settings.log_format == "console" or (settings.log_format == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    renderer: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer()]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in ("alembic", "aiosqlite", "sqlalchemy", "uvicorn.error", "sse_starlette"):
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
