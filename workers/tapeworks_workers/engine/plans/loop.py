"""`loop`: n steps in one graph, without Python between them."""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf

from tapeworks_workers.engine.data.batch_iterator import Cursor
from tapeworks_workers.engine.data.pipeline import Split
from tapeworks_workers.engine.step.compiled_step import CompiledStep
from tapeworks_workers.engine.step.step_metrics import StepMetrics


class LoopPlan:
    """A while loop over the batches; the state changes of one step are done before the next begins."""

    name = kept = "loop"
    gathers = True

    def __init__(self, step: CompiledStep, split: Split, means: StepMetrics) -> None:
        self._one, self._means = step.on_device, means
        self._rows = split.rows
        self._iterated = tf.function(self._over_iterator, autograph=False)
        self._gathered = functools.cache(self._traced)

    def run(self, batches: Any, steps: int) -> int:
        """See `Plan.run`."""
        if not isinstance(batches, Cursor):
            done, results = self._iterated(batches, tf.constant(steps))
            self._means.moved(results)
            return int(done)
        results = self._gathered()(tf.constant(batches.number, tf.int64), tf.constant(steps, tf.int64))
        self._means.moved(results)
        batches.number += steps
        return steps

    def _over_iterator(self, iterator: Any, steps: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        def more(done: tf.Tensor, available: tf.Tensor) -> tf.Tensor:
            return available & (done < steps)

        def one(done: tf.Tensor, available: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            batch = iterator.get_next_as_optional()

            def train() -> tf.Tensor:
                self._one(batch.get_value())
                return done + 1

            has_value = batch.has_value()
            return tf.cond(has_value, train, lambda: done), has_value

        done, _ = tf.while_loop(more, one, (tf.constant(0), tf.constant(True)))
        return done, self._means.to_vector()

    def _traced(self) -> Any:
        number = tf.TensorSpec([], tf.int64)
        return tf.function(self._over_rows, autograph=False).get_concrete_function(number, number)

    def _over_rows(self, first: tf.Tensor, steps: tf.Tensor) -> tf.Tensor:
        rows = self._rows
        assert rows is not None  # noqa: S101 — there is a Cursor of them

        def one(number: tf.Tensor) -> tuple[tf.Tensor]:
            self._one(rows.batch(number))
            return (number + 1,)

        tf.while_loop(lambda number: number < first + steps, one, (first,))
        return self._means.to_vector()
