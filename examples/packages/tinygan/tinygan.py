"""Two networks against each other (Goodfellow et al. 2014, arXiv:1406.2661)."""

import keras
import tensorflow as tf

from tapeworks import TrainingStep, component


@component("tinygan/generator", kind="model", example={"inputs": tf.TensorSpec([None, 16], tf.float32)})
def generator(pixels: int = 64, hidden: int = 128) -> keras.Model:
    """Noise `(n, latent)` to pictures `(n, pixels)` between 0 and 1."""
    layers = keras.layers
    body = [part for _ in range(2) for part in (layers.Dense(hidden), layers.BatchNormalization(), layers.ReLU())]
    return keras.Sequential([*body, layers.Dense(pixels, activation="sigmoid")])


@component("tinygan/discriminator", kind="model", example={"inputs": tf.TensorSpec([None, 64], tf.float32)})
def discriminator(hidden: int = 128, dropout: float = 0.3) -> keras.Model:
    """Pictures to a logit `(n, 1)`: is it a real one?"""
    layers = keras.layers
    body = [part for _ in range(2) for part in (layers.Dense(hidden), layers.LeakyReLU(0.2), layers.Dropout(dropout))]
    return keras.Sequential([*body, layers.Dense(1)])


@component("tinygan/Adversarial")
class Adversarial(TrainingStep):
    """The discriminator learns to tell real from fake, the generator to be taken for real."""

    models = ("generator", "discriminator")
    optimizers = {"generator": ("generator",), "discriminator": ("discriminator",)}
    exported = ("generator",)

    def __init__(self, latent_dim: int = 16, real_label: float = 0.9):
        self.latent_dim, self.real_label = latent_dim, real_label

    def input_spec(self, role, element, models):
        return tf.TensorSpec([None, self.latent_dim], tf.float32) if role == "generator" else element[0]

    def train_step(self, batch, run):
        real, _ = batch
        noise = run.random_normal([tf.shape(real)[0], self.latent_dim])
        with tf.GradientTape() as of_generator, tf.GradientTape() as of_discriminator:
            fake = run.models["generator"](noise, training=True)
            on_real = run.models["discriminator"](real, training=True)
            on_fake = run.models["discriminator"](fake, training=True)
            g_loss = cross_entropy(1.0, on_fake)
            d_loss = cross_entropy(self.real_label, on_real) + cross_entropy(0.0, on_fake)
        run.minimize("generator", g_loss, of_generator)
        run.minimize("discriminator", d_loss, of_discriminator)
        return {"g_loss": g_loss, "d_loss": d_loss}


def cross_entropy(label, logits):
    labels = tf.fill(tf.shape(logits), label)
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, logits))
