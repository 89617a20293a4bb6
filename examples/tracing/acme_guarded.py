"""A step that looks at its own loss: control flow on tensors, a variable, and something said while it trains."""

import tensorflow as tf

from tapeworks import TrainingStep, component


@component("acme/Guarded")
class Guarded(TrainingStep):
    """Leaves out a batch whose loss is far above the average so far, and says so in the log.

    Args:
        limit: in averages; a batch above it changes nothing.
        momentum: of the average.
    """

    losses = ("model",)

    def __init__(self, limit: float = 3.0, momentum: float = 0.9):
        self.limit = limit
        self.momentum = momentum

    def build(self, run):
        # Once, before the trace: part of every checkpoint. In train_step it would be made with each trace.
        self.average = tf.Variable(0.0, trainable=False)

    def train_step(self, batch, run):
        x, y = batch
        print("tracing the step for", x.shape)  # seen once: what tf.print is for
        with tf.GradientTape() as tape:
            y_pred = run.models["model"](x, training=True)
            loss = run.losses["model"](y, y_pred)
        left_out = 0.0  # before the branch: both of its ways must leave one
        if run.step == 0:
            self.average.assign(loss)
        elif loss > self.limit * self.average:
            tf.print("step", run.step, "is left out: its loss is", loss, "the average", self.average)
            left_out = 1.0
        else:
            self.average.assign(self.momentum * self.average + (1.0 - self.momentum) * loss)
        run.minimize("model", loss, tape, when=left_out == 0.0)
        run.update_metrics("model", y, y_pred)
        return {"loss": loss, "left_out": left_out}

    def validation_step(self, batch, run):
        x, y = batch
        y_pred = run.models["model"](x, training=False)
        run.update_metrics("model", y, y_pred)
        return {"loss": run.losses["model"](y, y_pred)}
