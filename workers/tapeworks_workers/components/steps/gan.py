"""`gan`: a generator against a discriminator, Goodfellow et al., "Generative Adversarial Nets" (2014), arXiv:1406.2661.

With convolutions it is the DCGAN of Radford et al. (2015), arXiv:1511.06434. One-sided label smoothing: Salimans et
al., "Improved Techniques for Training GANs" (2016), arXiv:1606.03498, section 3.4.
"""

from __future__ import annotations

from typing import Annotated, Any

import keras
import tensorflow as tf

from tapeworks import Run, TrainingStep, component
from tapeworks.bounds import Bound

Updates = Annotated[int, Bound(1, 1_000, "each update is traced by itself")]


@component("gan", example={"config": {"latent_dim": 8}})
class Gan(TrainingStep):
    """Algorithm 1 of the paper: `discriminator_steps` updates of the discriminator, then one of the generator.

    The element is `x` or `(x, …)`, of which `x` alone is used: one float tensor. The generator takes `(n, latent_dim)`
    normal noise and gives what has the shape of x; the discriminator gives logits. Their losses are
    `loss(ones, real) + loss(zeros, fake)` and `loss(ones, fake)`, with what layers add from the last call. Every update
    draws its own noise; the batch's x serves all of them.

    Reports `d_loss` (of the last update) and `g_loss`. The discriminator's metrics see 1 for real and 0 for fake.
    The generator has a signature `generate(seed, n)`: the seed (int64, two numbers) and how many (int32).

    Args:
        latent_dim: size of the noise.
        label_smoothing: what is real counts as 1 - label_smoothing for the discriminator; at least 0, below 1.
        discriminator_steps: updates of the discriminator for each of the generator.
    """

    models = ("generator", "discriminator")
    optimizers = {"generator": ("generator",), "discriminator": ("discriminator",)}  # noqa: RUF012  # a declaration
    losses = ("generator", "discriminator")

    def __init__(self, latent_dim: int, label_smoothing: float = 0.0, discriminator_steps: Updates = 1) -> None:
        if latent_dim < 1 or discriminator_steps < 1:
            raise ValueError(
                f"latent_dim and discriminator_steps must be at least 1, not {latent_dim}, {discriminator_steps}"
            )
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be at least 0 and below 1, not {label_smoothing}")
        self.latent_dim = latent_dim
        self.label_smoothing = label_smoothing
        self.discriminator_steps = discriminator_steps

    def input_spec(self, role: str, element: Any, models: Any) -> Any:
        return tf.TensorSpec([None, self.latent_dim], keras.config.floatx()) if role == "generator" else _x(element)

    def train_step(self, batch: Any, run: Run) -> dict[str, Any]:
        generator, real = run.models["generator"], _x(batch)
        for _ in range(self.discriminator_steps):
            fake = generator(self._noise(real, run), training=True)
            with tf.GradientTape() as tape:
                d_loss = self._discriminator_loss(real, fake, run, training=True)
            run.minimize("discriminator", d_loss, tape)
        noise = self._noise(real, run)
        with tf.GradientTape() as tape:
            fake = generator(noise, training=True)
            regularization = run.regularization("generator")
            g_loss = _generator_loss(fake, run, training=True)
            g_loss += tf.cast(regularization, g_loss.dtype)
        run.minimize("generator", g_loss, tape)
        return {"d_loss": d_loss, "g_loss": g_loss}

    def validation_step(self, batch: Any, run: Run) -> dict[str, Any]:
        real = _x(batch)
        fake = run.models["generator"](self._noise(real, run), training=False)
        g_loss = _generator_loss(fake, run, training=False)
        g_loss += tf.cast(run.regularization("generator"), g_loss.dtype)
        return {"d_loss": self._discriminator_loss(real, fake, run, training=False), "g_loss": g_loss}

    def signatures(self, models: Any) -> dict[str, dict[str, Any]]:
        generator, latent_dim, dtype = models["generator"], self.latent_dim, keras.config.floatx()

        @tf.function(input_signature=[tf.TensorSpec([2], tf.int64, "seed"), tf.TensorSpec([], tf.int32, "n")])
        def generate(seed: Any, n: Any) -> Any:
            noise = tf.random.stateless_normal([n, latent_dim], seed, dtype=dtype, alg="philox")
            return generator(noise, training=False)

        return {"generator": {"generate": generate}}

    def _noise(self, real: Any, run: Run) -> Any:
        return run.random_normal([tf.shape(real)[0], self.latent_dim])

    def _discriminator_loss(self, real: Any, fake: Any, run: Run, *, training: bool) -> Any:
        if not fake.shape[1:].is_compatible_with(real.shape[1:]):
            raise ValueError(
                f"the generator gives {fake.shape}, the data's x is {real.shape}: they must have the same shape"
            )
        discriminator, loss = run.models["discriminator"], run.losses["discriminator"]
        on_real, on_fake = discriminator(real, training=training), discriminator(fake, training=training)
        ones, zeros = tf.ones_like(on_real, keras.config.floatx()), tf.zeros_like(on_fake, keras.config.floatx())
        run.update_metrics("discriminator", ones, on_real)
        run.update_metrics("discriminator", zeros, on_fake)
        total = loss((1.0 - self.label_smoothing) * ones, on_real) + loss(zeros, on_fake)
        return total + tf.cast(run.regularization("discriminator"), total.dtype)


def _generator_loss(fake: Any, run: Run, *, training: bool) -> Any:
    on_fake = run.models["discriminator"](fake, training=training)
    return run.losses["generator"](tf.ones_like(on_fake), on_fake)


def _x(element: Any) -> Any:
    return element[0] if isinstance(element, tuple) else element
