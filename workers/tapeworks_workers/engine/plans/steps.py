"""`steps`: a call for each step."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tapeworks_workers.engine.step import CompiledStep


class StepsPlan:
    """One traced function takes the next batch and trains on it."""

    name = "steps"

    def __init__(self, step: CompiledStep) -> None:
        on_device = step.on_device
        self._one = tf.function(lambda iterator: on_device(next(iterator)), autograph=False)

    def run(self, iterator: Any, steps: int) -> int:
        """See `Plan.run`."""
        for done in range(steps):
            try:
                self._one(iterator)
            except tf.errors.OutOfRangeError:
                return done
        return steps
