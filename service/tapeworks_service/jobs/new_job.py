"""A job before it is a row, and what its kind changes: a validation is a job that somebody sits and waits for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tapeworks.jobs import JobKind
from tapeworks_service.jobs.fit import Needs
from tapeworks_service.jobs.inputs import Input

AHEAD = 10
"""A validation's priority is so much above that of its spec."""
HIGHEST_PRIORITY = 100
VALIDATION_ATTEMPTS = 2
VALIDATION_SECONDS = 600.0


@dataclass(frozen=True)
class NewJob:
    """A job to queue."""

    id: str
    project_id: str
    kind: str
    spec: dict[str, Any]
    components: list[dict[str, Any]]
    needs: Needs
    lineage: dict[str, Any]
    idempotency_key: str | None = None
    body_hash: str | None = None
    parent_id: str | None = None
    retry_of: str | None = None
    inputs: Sequence[Input] = ()

    @property
    def priority(self) -> int:
        """The spec's; a validation goes before the training jobs of its priority."""
        priority = int(self.spec["priority"])
        return min(priority + AHEAD, HIGHEST_PRIORITY) if self._validates else priority

    @property
    def max_attempts(self) -> int:
        """The spec's; a validation whose worker was lost is tried again once."""
        allowed = int(self.spec["limits"]["max_attempts"])
        return min(allowed, VALIDATION_ATTEMPTS) if self._validates else allowed

    @property
    def timeout_seconds(self) -> float | None:
        """The spec's; ten minutes at most for a validation."""
        timeout: float | None = self.spec["limits"]["timeout_seconds"]
        return min(timeout or VALIDATION_SECONDS, VALIDATION_SECONDS) if self._validates else timeout

    @property
    def _validates(self) -> bool:
        return self.kind == JobKind.VALIDATE.value
