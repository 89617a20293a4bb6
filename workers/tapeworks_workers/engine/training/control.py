"""What may end a training from outside: commands of the agent and the time limit, seen between calls."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from tapeworks.errors import FailureCode, JobFailure
from tapeworks.schemas.worker_protocol import CommandName
from tapeworks_workers.processes.messages import CommandFrame

OUTCOMES = {"cancel": "cancelled", "pause": "paused", "drain": "released"}
"""Command → outcome of the attempt."""


class Interrupted(Exception):
    """The attempt ends here, well: a user or the worker asked for it."""

    def __init__(self, outcome: str) -> None:
        super().__init__(outcome)
        self.outcome = outcome


class Control:
    """Commands as they arrive, from the thread that reads the agent's frames, and the deadline."""

    def __init__(self, timeout_seconds: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._commands: deque[CommandName] = deque()  # appended to by one thread, emptied by another: atomic on a deque
        self._clock = clock
        self._timeout = timeout_seconds
        self._start = clock()

    def on_message(self, message: dict[str, Any]) -> None:
        """Take a frame of the agent."""
        if message.get("type") == "command":
            self._commands.append(CommandFrame.model_validate(message).command)

    def take(self) -> CommandName | None:
        """The next command, None where there is none."""
        return self._commands.popleft() if self._commands else None

    def peek(self) -> CommandName | None:
        """The next command, left where it is."""
        return self._commands[0] if self._commands else None

    def check_time(self) -> None:
        """Raises JobFailure `timeout` once the job's time is up."""
        if self._timeout is not None and self._clock() - self._start > self._timeout:
            raise JobFailure(
                FailureCode.TIMEOUT,
                f"limits.timeout_seconds has elapsed: this attempt had {self._timeout:g} s of it left",
            )
