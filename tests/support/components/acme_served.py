"""A user's own components: one of each kind that a job here needs, and some that go wrong when they meet data."""

import keras
import tensorflow as tf

from tapeworks import Source, TrainingStep, component

LABELS = tf.TensorSpec([None], tf.int64)
LOGITS = tf.TensorSpec([None, 3], tf.float32)


@component("acme/Scale", example={"config": {"factor": 2.0}, "inputs": tf.TensorSpec([None, 4], tf.float32)})
class Scale(keras.layers.Layer):
    """Multiplies by a factor that is learned, from where it is given."""

    def __init__(self, factor: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def build(self, input_shape):
        self.scale = self.add_weight(name="scale", shape=(), initializer=keras.initializers.Constant(self.factor))

    def call(self, inputs):
        return inputs * self.scale


@component("acme/Smoothed", example={"config": {"smoothing": 0.1}, "y_true": LABELS, "y_pred": LOGITS})
class Smoothed(keras.losses.Loss):
    """Cross-entropy with smoothed labels."""

    def __init__(self, smoothing: float = 0.1, **kwargs):
        super().__init__(**kwargs)
        self.smoothing = smoothing

    def call(self, y_true, y_pred):
        classes = y_pred.shape[-1]
        labels = tf.one_hot(tf.cast(tf.reshape(y_true, [-1]), tf.int32), classes, dtype=y_pred.dtype)
        labels = labels * (1.0 - self.smoothing) + self.smoothing / classes
        return tf.nn.softmax_cross_entropy_with_logits(labels, y_pred)


@component("acme/WithinTop", example={"config": {"k": 2}, "y_true": LABELS, "y_pred": LOGITS})
class WithinTop(keras.metrics.Mean):
    """How often the label is among the k highest outputs."""

    def __init__(self, k: int = 2, name: str = "within_top", **kwargs):
        super().__init__(name=name, **kwargs)
        self.k = k

    def update_state(self, y_true, y_pred, sample_weight=None):
        labels = tf.cast(tf.reshape(y_true, [-1]), tf.int32)
        return super().update_state(tf.cast(tf.math.in_top_k(labels, y_pred, self.k), self.dtype), sample_weight)


@component("acme/Flat")
class Smooth(keras.regularizers.Regularizer):
    """Neighbouring inputs get similar weights."""

    def __init__(self, strength: float = 1e-3):
        self.strength = strength

    def __call__(self, weights):
        return self.strength * tf.reduce_sum(tf.square(weights[1:] - weights[:-1]))


@component("acme/add_label")
def add_label(x, y):
    """Right for float labels; integer ones meet the features without a cast."""
    return x + y, y


@component("acme/Unlucky")
class Unlucky(Source):
    """A source whose data cannot be had where the disk is not mounted."""

    def __init__(self, mounted: bool = True):
        self.mounted = mounted

    def dataset(self):
        if not self.mounted:
            raise FileNotFoundError("the disk with the data is not mounted")
        return tf.data.Dataset.from_tensor_slices((tf.zeros([4, 2]), tf.zeros([4], tf.int64)))


@component("acme/Talkative")
class Talkative(TrainingStep):
    """Says what it does, inside the compiled step and while it is traced."""

    losses = ("model",)

    def train_step(self, batch, run):
        x, y = batch
        print("tracing the step")  # noqa: T201  # what users do
        with tf.GradientTape() as tape:
            loss = run.losses["model"](y, run.models["model"](x, training=True))
        tf.print("step", run.step, "has", tf.shape(x)[0], "rows")
        run.minimize("model", loss, tape)
        return {"loss": loss}
