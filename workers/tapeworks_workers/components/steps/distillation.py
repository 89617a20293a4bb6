"""`distillation`: Hinton et al., "Distilling the Knowledge in a Neural Network" (2015), arXiv:1503.02531, section 2."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tapeworks import Run, TrainingStep, component


@component("distillation")
class Distillation(TrainingStep):
    """A student learns from labels and from a teacher that nobody trains.

    The loss is `alpha · hard + (1 - alpha) · temperature² · soft` and what the student's layers add: hard is the
    student's loss of the spec, soft the divergence `KL(teacher || student)` of the two softmaxes at `temperature`. Its
    gradient is that of the paper's cross-entropy; it is 0 where both agree. Without a loss in the spec the teacher
    alone teaches: the loss is `temperature² · soft`, `alpha` has no part in it, and the element needs no y.

    The element is `x`, `(x, y)` or `(x, y, sample_weight)`; both models take x and give logits `(n, k)`, k at least 2.
    The teacher is called as in inference. Sample weights count for both parts.

    Reports `loss`, `soft_loss` (without the square of the temperature) and, with a loss in the spec, `hard_loss`; the
    student's metrics see y and its logits. Only the student is exported unless the spec says otherwise.

    Args:
        temperature: of both softmaxes; more than 0.
        alpha: weight of the labels, from 0 to 1.
    """

    models = ("student", "teacher")
    optimizers = {"student": ("student",)}  # noqa: RUF012  # a declaration, read as it stands
    losses = ("student",)
    optional_losses = ("student",)
    directions = {"soft_loss": "min", "hard_loss": "min"}  # noqa: RUF012  # a declaration
    frozen = ("teacher",)

    def __init__(self, temperature: float = 4.0, alpha: float = 0.1) -> None:
        if temperature <= 0 or not 0 <= alpha <= 1:
            raise ValueError(f"temperature must be positive and alpha from 0 to 1, not {temperature}, {alpha}")
        self.temperature = temperature
        self.alpha = alpha

    def train_step(self, batch: Any, run: Run) -> dict[str, Any]:
        with tf.GradientTape() as tape:
            losses = self._losses(batch, run, training=True)
        run.minimize("student", losses["loss"], tape)
        return losses

    def validation_step(self, batch: Any, run: Run) -> dict[str, Any]:
        return self._losses(batch, run, training=False)

    def _losses(self, batch: Any, run: Run, *, training: bool) -> dict[str, Any]:
        parts = batch if isinstance(batch, tuple) else (batch,)
        x, y, sample_weight = (*parts, None, None)[:3]
        taught = tf.stop_gradient(run.models["teacher"](x, training=False))
        logits = run.models["student"](x, training=training)
        regularization = run.regularization("student")
        soft = divergence(taught, logits, self.temperature, sample_weight)
        loss, losses = self.temperature**2 * soft, {"soft_loss": soft}
        if "student" in run.losses:
            losses["hard_loss"] = tf.cast(run.losses["student"](y, logits, sample_weight), soft.dtype)
            loss = self.alpha * losses["hard_loss"] + (1.0 - self.alpha) * loss
        if y is not None:
            run.update_metrics("student", y, logits, sample_weight)
        return {"loss": loss + tf.cast(regularization, loss.dtype), **losses}


def divergence(teacher: Any, student: Any, temperature: float, sample_weight: Any = None) -> Any:
    """`KL(softmax(teacher / t) || softmax(student / t))`, averaged over the batch, in nats; logits are `(n, k)`.

    As in Keras, weights multiply and the sum is divided by the number of examples.
    """
    if teacher.shape[-1] != student.shape[-1] or student.shape[-1] == 1:
        raise ValueError(
            "distillation needs logits of the same classes, at least two: "
            f"the teacher gives {tuple(teacher.shape)}, the student {tuple(student.shape)}"
        )
    dtype = keras.config.floatx()
    log_p = tf.nn.log_softmax(tf.cast(teacher, dtype) / temperature)
    log_q = tf.nn.log_softmax(tf.cast(student, dtype) / temperature)
    each = tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), axis=-1)
    if sample_weight is not None:
        each *= tf.reshape(tf.cast(sample_weight, dtype), tf.shape(each))
    return tf.reduce_mean(each)
