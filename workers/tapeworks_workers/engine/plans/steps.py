"""`steps`: a call for each step."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tapeworks_workers.engine.data.pipeline import Split
from tapeworks_workers.engine.step.compiled_step import CompiledStep
from tapeworks_workers.engine.step.step_metrics import StepMetrics


class StepsPlan:
    """One traced function takes the next batch, where there is one, and trains on it."""

    name = kept = "steps"
    gathers = False

    def __init__(self, step: CompiledStep, split: Split, means: StepMetrics) -> None:
        on_device = step.on_device
        self._means = means

        def one(iterator: Any) -> tf.Tensor:
            # Not next(iterator): what needs no batch, such as the count of steps, would be done at the data's end too.
            batch = iterator.get_next_as_optional()

            def train() -> tf.Tensor:
                on_device(batch.get_value())
                return tf.constant(True)

            return tf.cond(batch.has_value(), train, lambda: tf.constant(False))

        self._one = tf.function(one, autograph=False)

    def run(self, batches: Any, steps: int) -> int:
        """See `Plan.run`."""
        self._means.moved()
        for done in range(steps):
            if not self._one(batches):
                return done
        return steps
