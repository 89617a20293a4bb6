"""A variational autoencoder (Kingma and Welling 2013, arXiv:1312.6114): the encoder adds its divergence to the loss."""

import keras
import tensorflow as tf

from tapeworks import component

PICTURES = tf.TensorSpec([None, 64], tf.float32)


@component("tinyvae/Encoder", example={"inputs": PICTURES})
class Encoder(keras.layers.Layer):
    """A code `(n, latent)`: a sample of the normal distribution that x stands for in training, its mean otherwise."""

    def __init__(self, latent: int = 8, hidden: int = 128, weight: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.hidden = keras.layers.Dense(hidden, activation="relu")
        self.parameters = keras.layers.Dense(2 * latent)
        self.weight = weight
        self.seeds = keras.random.SeedGenerator()

    def call(self, x, training=False):
        mean, log_variance = tf.split(self.parameters(self.hidden(x)), 2, axis=-1)
        kl = 0.5 * tf.reduce_sum(tf.square(mean) + tf.exp(log_variance) - 1.0 - log_variance, axis=-1)
        self.add_loss(self.weight * tf.reduce_mean(kl))
        if not training:
            return mean
        return mean + tf.exp(0.5 * log_variance) * keras.random.normal(tf.shape(mean), seed=self.seeds)


@component("tinyvae/Autoencoder", example={"inputs": PICTURES})
class Autoencoder(keras.Model):
    """Pictures `(n, pixels)` to logits of the same pixels, through a code."""

    def __init__(self, latent: int = 8, hidden: int = 128, pixels: int = 64, **kwargs):
        super().__init__(**kwargs)
        self.encoder = Encoder(latent, hidden)
        self.decoder = keras.Sequential([keras.layers.Dense(hidden, activation="relu"), keras.layers.Dense(pixels)])

    def call(self, x, training=False):
        return self.decoder(self.encoder(x, training=training), training=training)


@component("tinyvae/PixelLoss", example={"y_true": PICTURES, "y_pred": PICTURES})
class PixelLoss(keras.losses.Loss):
    """-log p(y_true) of pixels between 0 and 1 under logits, in nats a picture: `(n, pixels)` to `(n,)`."""

    def call(self, y_true, y_pred):
        return tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(y_true, y_pred.dtype), y_pred), axis=-1)


@component("tinyvae/itself", example={"inputs": (PICTURES, tf.TensorSpec([None], tf.int64))})
def itself(x, y):
    """The picture is what the picture must become."""
    return x, x
