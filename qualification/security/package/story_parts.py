"""A user's loss, layer and step, as they would be uploaded."""

import keras
import tensorflow as tf

from tapeworks import TrainingStep, component


@component("story/Smooth", example={"config": {}, "y_true": tf.TensorSpec([None], tf.int64),
                                    "y_pred": tf.TensorSpec([None, 3])})  # fmt: skip
class Smooth(keras.losses.Loss):
    """Cross entropy with smoothed labels."""

    def __init__(self, smoothing: float = 0.1, **kwargs):
        super().__init__(**kwargs)
        self.smoothing = smoothing

    def call(self, y_true, y_pred):
        classes = y_pred.shape[-1]
        labels = keras.ops.one_hot(keras.ops.cast(y_true, "int32"), classes)
        labels = labels * (1 - self.smoothing) + self.smoothing / classes
        return keras.ops.categorical_crossentropy(labels, y_pred, from_logits=True)


@component("story/Shift", example={"config": {"by": 0.5}, "inputs": tf.TensorSpec([None, 4])})
class Shift(keras.layers.Layer):
    """A learned shift of every feature."""

    def __init__(self, by: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        self.by = by

    def build(self, input_shape):
        self.shift = self.add_weight(shape=(input_shape[-1],), initializer=keras.initializers.Constant(self.by))

    def call(self, inputs):
        return inputs + self.shift


@component("story/Step")
class Step(TrainingStep):
    """Supervised, and it tells how large the outputs are."""

    def train_step(self, batch, run):
        x, y = batch
        with tf.GradientTape() as tape:
            outputs = run.models["model"](x, training=True)
            loss = run.losses["model"](y, outputs)
        run.minimize("model", loss, tape)
        run.update_metrics("model", y, outputs)
        return {"loss": loss, "size": tf.reduce_mean(tf.abs(outputs))}
