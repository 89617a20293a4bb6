"""A loss of your own: serve it with `tapeworks serve --components examples/own_loss`."""

import keras
import tensorflow as tf

from tapeworks import component


@component(
    "acme/SmoothedCrossEntropy",
    example={
        "config": {"smoothing": 0.1},
        "y_true": tf.TensorSpec([None], tf.int64),
        "y_pred": tf.TensorSpec([None, 3], tf.float32),
    },
)
class SmoothedCrossEntropy(keras.losses.Loss):
    """Cross-entropy against labels that leave a little to the other classes (Szegedy et al. 2016)."""

    def __init__(self, smoothing: float = 0.1, **kwargs):
        super().__init__(**kwargs)
        self.smoothing = smoothing

    def call(self, y_true, y_pred):
        classes = tf.shape(y_pred)[-1]
        labels = tf.one_hot(tf.cast(tf.reshape(y_true, [-1]), tf.int32), classes, dtype=y_pred.dtype)
        share = self.smoothing / tf.cast(classes, y_pred.dtype)
        return tf.nn.softmax_cross_entropy_with_logits((1.0 - self.smoothing) * labels + share, y_pred)
