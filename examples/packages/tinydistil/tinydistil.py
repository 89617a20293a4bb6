"""A small model learns what a large one thinks, without a label (Hinton et al. 2015, arXiv:1503.02531)."""

import keras
import tensorflow as tf

from tapeworks import TrainingStep, component

LOGITS = tf.TensorSpec([None, 10], tf.float32)


@component("tinydistil/SoftLoss", example={"config": {"temperature": 2.0}, "y_true": LOGITS, "y_pred": LOGITS})
class SoftLoss(keras.losses.Loss):
    """`t² · KL(softmax(y_true / t) ‖ softmax(y_pred / t))` of logits `(n, classes)`; gives `(n,)`."""

    def __init__(self, temperature: float = 4.0, **kwargs):
        super().__init__(**kwargs)
        self.temperature = temperature

    def call(self, y_true, y_pred):
        log_p = tf.nn.log_softmax(tf.cast(y_true, y_pred.dtype) / self.temperature)
        log_q = tf.nn.log_softmax(y_pred / self.temperature)
        return self.temperature**2 * tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), axis=-1)


@component("tinydistil/Distil")
class Distil(TrainingStep):
    """The student is trained on the teacher's logits; labels are for its metrics alone."""

    models = ("teacher", "student")
    optimizers = {"student": ("student",)}
    losses = ("student",)
    frozen = ("teacher",)

    def train_step(self, batch, run):
        with tf.GradientTape() as tape:
            loss = self.loss(batch, run, training=True)
        run.minimize("student", loss, tape)
        return {"loss": loss}

    def validation_step(self, batch, run):
        return {"loss": self.loss(batch, run, training=False)}

    def loss(self, batch, run, training):
        x, y = batch
        logits = run.models["student"](x, training=training)
        run.update_metrics("student", y, logits)
        return run.losses["student"](run.models["teacher"](x, training=False), logits)
