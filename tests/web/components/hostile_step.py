"""A step that prints what a page or a terminal could take for commands."""

import tensorflow as tf

from tapeworks import TrainingStep, component

LINES = (
    "<script>globalThis.canary = 'log'; alert(1)</script>",
    "<img src=x onerror=\"globalThis.canary = 'log'; alert(2)\">",
    "\033]0;owned\007\033[31mred\033[0m\033]52;c;b3duZWQ=\007 end\u202e",
)


@component("hostile/Printing")
class Printing(TrainingStep):
    """Trains as the supervised step does, and prints once while it is traced."""

    losses = ("model",)

    def train_step(self, batch, run):
        x, y = batch
        for line in LINES:
            print(line)  # noqa: T201  # what users do
        with tf.GradientTape() as tape:
            loss = run.losses["model"](y, run.models["model"](x, training=True))
        run.minimize("model", loss, tape)
        return {"loss": loss}
