"""`eager`: every operation at once, in Python; to debug a step."""

from __future__ import annotations

from typing import Any

from tapeworks_workers.engine.step import CompiledStep


class EagerPlan:
    """Python takes each batch and runs the step's body on it."""

    name = "eager"

    def __init__(self, step: CompiledStep) -> None:
        self._step = step

    def run(self, iterator: Any, steps: int) -> int:
        """See `Plan.run`."""
        for done in range(steps):
            batch = next(iterator, None)
            if batch is None:
                return done
            self._step.body(batch)
        return steps
