"""Steps that meet other devices in ways of their own."""

from typing import Any

import tensorflow as tf

from tapeworks import TrainingStep, component


class _Plain(TrainingStep):
    losses = ("model",)

    def _loss(self, batch: Any, run: Any) -> tuple[Any, tf.GradientTape]:
        with tf.GradientTape() as tape:
            loss = run.losses["model"](batch[1], run.models["model"](batch[0], training=True))
        return loss, tape


@component("lab/Branching")
class Branching(_Plain):
    """Updates inside a branch of the graph."""

    def train_step(self, batch: Any, run: Any) -> dict[str, Any]:
        loss, tape = self._loss(batch, run)
        gradients = run.gradients("model", loss, tape)
        if run.step % 2 == 0:
            run.apply("model", gradients)
        return {"loss": loss}


@component("lab/EverySecond")
class EverySecond(_Plain):
    """The same by `when=`."""

    def train_step(self, batch: Any, run: Any) -> dict[str, Any]:
        loss, tape = self._loss(batch, run)
        run.minimize("model", loss, tape, when=run.step % 2 == 0)
        return {"loss": loss}


@component("lab/Counting")
class Counting(_Plain):
    """Counts its own calls in a variable."""

    def build(self, run: Any) -> None:
        self.calls = tf.Variable(0.0, trainable=False)

    def train_step(self, batch: Any, run: Any) -> dict[str, Any]:
        loss, tape = self._loss(batch, run)
        self.calls.assign_add(1.0)
        run.minimize("model", loss, tape)
        return {"loss": loss}
