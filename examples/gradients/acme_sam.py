"""Sharpness-aware minimisation: gradients taken at one point, applied at another.

Foret et al., "Sharpness-Aware Minimization for Efficiently Improving Generalization" (2020), arXiv:2010.01412.
"""

import tensorflow as tf

from tapeworks import TrainingStep, component


@component("acme/Sam")
class Sam(TrainingStep):
    """Climb by `rho` along the gradient, take the gradient there, come back, and descend along that one.

    Layers that keep running statistics see both passes. Costs two passes a step.
    """

    losses = ("model",)

    def __init__(self, rho: float = 0.05) -> None:
        self.rho = rho

    def train_step(self, batch, run):
        variables = run.models["model"].trainable_variables  # in the order of run.gradients
        gradients, loss, y_pred = self.gradients(batch, run)
        pairs = zip(gradients, variables, strict=True)
        dense = [tf.zeros(v.shape) if g is None else tf.convert_to_tensor(g) for g, v in pairs]
        factor = self.rho / (tf.linalg.global_norm(dense) + 1e-12)
        before = [tf.identity(variable) for variable in variables]
        for variable, gradient in zip(variables, dense, strict=True):
            variable.assign_add(factor * gradient)
        at_the_top, _, _ = self.gradients(batch, run)
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
        run.apply("model", at_the_top)
        run.update_metrics("model", batch[1], y_pred)
        return {"loss": loss}

    def gradients(self, batch, run):
        x, y = batch
        with tf.GradientTape() as tape:
            y_pred = run.models["model"](x, training=True)
            loss = run.losses["model"](y, y_pred) + run.regularization("model")
        return run.gradients("model", loss, tape), loss, y_pred

    def validation_step(self, batch, run):
        x, y = batch
        y_pred = run.models["model"](x, training=False)
        run.update_metrics("model", y, y_pred)
        return {"loss": run.losses["model"](y, y_pred) + run.regularization("model")}
