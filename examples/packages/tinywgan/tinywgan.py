"""A critic whose gradient has norm 1, and a generator that follows it (Gulrajani et al. 2017, arXiv:1704.00028)."""

import keras
import tensorflow as tf

from tapeworks import TrainingStep, component


@component("tinywgan/Network", example={"config": {"outputs": 1}, "inputs": tf.TensorSpec([None, 8], tf.float32)})
class Network(keras.Model):
    """Two hidden layers; the generator and the critic are both one of these."""

    def __init__(self, outputs: int, hidden: int = 128, activation: str = "linear", **kwargs):
        super().__init__(**kwargs)
        sizes = [(hidden, "leaky_relu"), (hidden, "leaky_relu"), (outputs, activation)]
        self.parts = [keras.layers.Dense(units, activation=shape) for units, shape in sizes]

    def call(self, x, training=False):
        for part in self.parts:
            x = part(x)
        return x


@component("tinywgan/Critical")
class Critical(TrainingStep):
    """`critic_steps` of the critic for each of the generator; the penalty holds the critic's slope at 1."""

    models = ("generator", "critic")
    optimizers = {"generator": ("generator",), "critic": ("critic",)}
    exported = ("generator",)

    def __init__(self, latent_dim: int = 16, critic_steps: int = 3, penalty: float = 10.0):
        self.latent_dim, self.critic_steps, self.penalty = latent_dim, critic_steps, penalty

    def input_spec(self, role, element, models):
        return tf.TensorSpec([None, self.latent_dim], tf.float32) if role == "generator" else element[0]

    def train_step(self, batch, run):
        real, _ = batch
        for _ in range(self.critic_steps):
            fake = self.fake(real, run)
            between = real + run.random_uniform([tf.shape(real)[0], 1]) * (fake - real)
            with tf.GradientTape() as tape:
                gain = tf.reduce_mean(run.models["critic"](real) - run.models["critic"](fake))
                loss = self.penalty * slope_penalty(run.models["critic"], between) - gain
            run.minimize("critic", loss, tape)
        with tf.GradientTape() as tape:
            g_loss = -tf.reduce_mean(run.models["critic"](self.fake(real, run)))
        run.minimize("generator", g_loss, tape)
        return {"wasserstein": gain, "g_loss": g_loss}

    def fake(self, real, run):
        return run.models["generator"](run.random_normal([tf.shape(real)[0], self.latent_dim]), training=True)


def slope_penalty(critic, x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        scores = critic(x)
    return tf.reduce_mean(tf.square(tf.norm(tape.gradient(scores, x), axis=-1) - 1.0))
