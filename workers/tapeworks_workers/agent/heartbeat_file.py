"""Signs of life of an agent, written by its event loop: a loop that is blocked writes none.

Each is the time of CLOCK_MONOTONIC, which all processes of a machine share and which stands while it is suspended. It
goes to the descriptor that a supervisor gave (`tapeworks.supervisor`) and to `worker.beat` in the work folder, which
`python -m tapeworks_workers.health` reads.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import structlog

from tapeworks_workers.health import FILE

BEAT_SECONDS = 1.0

log = structlog.get_logger(__name__)


class Beats:
    """Writes signs of life until it is cancelled. `descriptor`: of the supervisor's file, if there is one."""

    def __init__(self, folder: Path, descriptor: int | None) -> None:
        self._descriptor = descriptor
        if descriptor is not None:
            os.set_inheritable(descriptor, False)  # no runner writes them for us
        self._file = os.open(folder / FILE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)

    async def keep(self) -> None:
        """Write one now and then every second."""
        failed = False
        try:
            while True:
                now = f"{time.monotonic():020.3f}\n".encode()
                if self._descriptor is not None:
                    os.pwrite(self._descriptor, now, 0)
                try:
                    os.pwrite(self._file, now, 0)
                except OSError as error:  # the supervisor still sees the other one
                    if not failed:
                        log.error("the worker's folder cannot be written", file=FILE, error=str(error))
                    failed = True
                await asyncio.sleep(BEAT_SECONDS)
        finally:
            os.close(self._file)
