"""`supervised`: one model, one loss, one optimizer; what `keras.Model.fit` does."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tapeworks import Run, TrainingStep, component


@component("supervised")
class Supervised(TrainingStep):
    """Forward, loss plus regularization, gradients, update: the step of a plain job.

    The element is `x`, `(x, y)` or `(x, y, sample_weight)`. Without a loss in the spec the model's own losses
    (`add_loss`) are all there is. Reports `loss`, regularization included, and the loss of each output where several
    are added, as Keras does. Where the model overrides `compute_loss` or `compute_metrics`, or holds metrics, these are
    what `fit` makes of them.
    """

    models = ("model",)
    optimizers = {"model": ("model",)}  # noqa: RUF012  # a declaration, read as it stands
    losses = ("model",)
    optional_losses = ("model",)
    reports_output_losses = True

    @tf.autograph.experimental.do_not_convert  # nothing here depends on a tensor's value: 0.1 s less to trace
    def train_step(self, batch: Any, run: Run) -> dict[str, Any]:
        x, y, sample_weight = _unpacked(batch)
        with tf.GradientTape() as tape:
            y_pred = run.models["model"](x, training=True)
            loss = run.compute_loss("model", x, y, y_pred, sample_weight, training=True)
        run.minimize("model", loss, tape)
        return {"loss": loss, **run.compute_metrics("model", x, y, y_pred, sample_weight)}

    @tf.autograph.experimental.do_not_convert
    def validation_step(self, batch: Any, run: Run) -> dict[str, Any]:
        x, y, sample_weight = _unpacked(batch)
        y_pred = run.models["model"](x, training=False)
        loss = run.compute_loss("model", x, y, y_pred, sample_weight, training=False)
        return {"loss": loss, **run.compute_metrics("model", x, y, y_pred, sample_weight)}


def _unpacked(batch: Any) -> tuple[Any, Any, Any]:
    """`(x, y, sample_weight)`, None for what the element lacks."""
    parts = batch if isinstance(batch, tuple) else (batch,)
    x, y, sample_weight = (*parts, None, None)[:3]
    return x, y, sample_weight
