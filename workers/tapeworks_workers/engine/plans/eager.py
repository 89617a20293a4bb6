"""`eager`: every operation at once, in Python; to debug a step."""

from __future__ import annotations

from typing import Any

from tapeworks_workers.engine.data.pipeline import Split
from tapeworks_workers.engine.step.compiled_step import CompiledStep
from tapeworks_workers.engine.step.step_metrics import StepMetrics


class EagerPlan:
    """Python takes each batch and runs the step's body on it."""

    name = kept = "eager"
    gathers = False

    def __init__(self, step: CompiledStep, split: Split, means: StepMetrics) -> None:
        self._step, self._means = step, means

    def run(self, batches: Any, steps: int) -> int:
        """See `Plan.run`."""
        self._means.moved()
        for done in range(steps):
            batch = next(batches, None)
            if batch is None:
                return done
            self._step.body(batch)
        return steps
