"""Checkpoints that wait for their upload. Each holds an open file, so only a few wait: the newest, and the best."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any

from tapeworks_workers.safe_files import OpenFile

MAX_WAITING = 8


@dataclass(frozen=True)
class CheckpointFile:
    """A checkpoint that the runner wrote: its announcement, and the open file."""

    file: OpenFile
    path: str
    step: int
    epoch: int
    metrics: dict[str, Any]
    best: bool


class CheckpointQueue:
    """First in, first out. Where more than `most` wait, the oldest that is not the latest best one is closed."""

    def __init__(self, most: int = MAX_WAITING) -> None:
        self._most = most
        self._waiting: deque[CheckpointFile] = deque()
        self._there = asyncio.Event()
        self._unfinished = 0
        self._finished = asyncio.Event()
        self._finished.set()

    def put(self, checkpoint: CheckpointFile) -> CheckpointFile | None:
        """Add one; the one that was superseded, closed, or None."""
        self._waiting.append(checkpoint)
        self._unfinished += 1
        self._there.set()
        self._finished.clear()
        if len(self._waiting) <= self._most:
            return None
        best = next((one for one in reversed(self._waiting) if one.best), None)
        superseded = next(one for one in self._waiting if one is not best)
        self._waiting.remove(superseded)
        superseded.file.close()
        self.task_done()
        return superseded

    async def get(self) -> CheckpointFile:
        """Wait for the next one; `task_done` follows once it has been handled."""
        while not self._waiting:
            self._there.clear()
            await self._there.wait()
        return self._waiting.popleft()

    def task_done(self) -> None:
        """One that was taken out has been handled."""
        self._unfinished -= 1
        if self._unfinished == 0:
            self._finished.set()

    async def join(self) -> None:
        """Wait until all have been handled."""
        await self._finished.wait()

    def close(self) -> None:
        """Close the files of those that wait."""
        while self._waiting:
            self._waiting.popleft().file.close()
            self.task_done()
