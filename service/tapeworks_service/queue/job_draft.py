"""A job before it is a row, and what its kind changes: validations, inspections and admissions are waited for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tapeworks.schemas.jobs import JobKind
from tapeworks_service.queue.inputs import Input
from tapeworks_service.queue.requirements import Requirements

AHEAD = 10
"""The priority of one that is waited for is so much above that of its spec."""
HIGHEST_PRIORITY = 100
AWAITED_ATTEMPTS = 2
AWAITED_SECONDS = 600.0


@dataclass(frozen=True)
class NewJob:
    """A job to queue."""

    id: str
    project_id: str
    kind: str
    spec: dict[str, Any]
    """Empty where the job's kind says all."""
    components: list[dict[str, Any]]
    needs: Requirements
    lineage: dict[str, Any]
    idempotency_key: str | None = None
    body_hash: str | None = None
    parent_id: str | None = None
    retry_of: str | None = None
    inputs: Sequence[Input] = ()

    owner: str | None = None
    """The name of the key that submits it."""
    name: str | None = None
    """Of a job without a spec: one with a spec has its name."""

    @property
    def labels(self) -> dict[str, str]:
        """The spec's."""
        return dict(self.spec.get("labels", {}))

    @property
    def title(self) -> str | None:
        """The spec's name, or its own."""
        return self.spec["name"] if self.spec else self.name

    @property
    def priority(self) -> int:
        """The spec's; a job that somebody waits for goes before the training jobs of its priority."""
        priority = int(self.spec.get("priority", 0))
        return min(priority + AHEAD, HIGHEST_PRIORITY) if self._awaited else priority

    @property
    def max_attempts(self) -> int:
        """The spec's; one that is awaited and lost its worker is tried again once."""
        allowed = int(self.spec["limits"]["max_attempts"]) if self.spec else AWAITED_ATTEMPTS
        return min(allowed, AWAITED_ATTEMPTS) if self._awaited else allowed

    @property
    def timeout_seconds(self) -> float | None:
        """The spec's; ten minutes at most for one that is awaited."""
        timeout: float | None = self.spec["limits"]["timeout_seconds"] if self.spec else None
        return min(timeout or AWAITED_SECONDS, AWAITED_SECONDS) if self._awaited else timeout

    @property
    def _awaited(self) -> bool:
        return self.kind != JobKind.TRAIN.value
