"""`loop`: n steps in one graph, without Python between them."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tapeworks_workers.engine.step import CompiledStep


class LoopPlan:
    """A while loop over the iterator; the state changes of one step are done before the next begins."""

    name = "loop"

    def __init__(self, step: CompiledStep) -> None:
        on_device = step.on_device

        def loop(iterator: Any, steps: tf.Tensor) -> tf.Tensor:
            def more(done: tf.Tensor, available: tf.Tensor) -> tf.Tensor:
                return available & (done < steps)

            def one(done: tf.Tensor, available: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                batch = iterator.get_next_as_optional()

                def train() -> tf.Tensor:
                    on_device(batch.get_value())
                    return done + 1

                has_value = batch.has_value()
                return tf.cond(has_value, train, lambda: done), has_value

            return tf.while_loop(more, one, (tf.constant(0), tf.constant(True)))[0]

        self._loop = tf.function(loop, autograph=False)

    def run(self, iterator: Any, steps: int) -> int:
        """See `Plan.run`."""
        return int(self._loop(iterator, tf.constant(steps)))
