"""`wgan_gp`: Gulrajani et al., "Improved Training of Wasserstein GANs" (2017), arXiv:1704.00028, algorithm 1."""

from __future__ import annotations

from typing import Annotated, Any

import keras
import tensorflow as tf

from tapeworks import Run, TrainingStep, component
from tapeworks.bounds import Bound

Updates = Annotated[int, Bound(1, 1_000, "each update is traced by itself")]

_SHORTEST = 1e-24
"""The square of a gradient's norm below which it counts as zero: there the root has no finite gradient."""


@component("wgan_gp", example={"config": {"latent_dim": 8}})
class WganGp(TrainingStep):
    """`critic_steps` updates of the critic, then one of the generator.

    The critic's loss is `mean f(fake) - mean f(real) + penalty_weight · mean (‖∇f(x̂)‖ - 1)²`, where x̂ lies at a random
    place between a real and a fake example and the norm is taken over all of an example; the generator's is
    `-mean f(fake)`. What layers add is added too. The spec gives no loss.

    The element is `x` or `(x, …)`, of which `x` alone is used: one float tensor. The generator takes `(n, latent_dim)`
    normal noise and gives what has the shape of x; the critic gives unbounded scores, `(n, 1)` or `(n,)`, and should
    have no batch normalization, since the penalty is of each example by itself. All updates of a step see the whole
    batch; noise and x̂ are drawn anew for each, so a batch may be of any size.

    Reports `critic_loss`, `wasserstein` (`mean f(real) - mean f(fake)`, the estimate of the distance) and
    `gradient_penalty` of the last update of the critic, and `generator_loss`. The critic's metrics see 1 for real and
    0 for fake. The generator has a signature `generate(seed, n)`: the seed (int64, two numbers) and how many (int32).

    Args:
        latent_dim: size of the noise.
        critic_steps: updates of the critic for each of the generator.
        penalty_weight: lambda of the paper.
    """

    models = ("generator", "critic")
    optimizers = {"generator": ("generator",), "critic": ("critic",)}  # noqa: RUF012  # a declaration

    def __init__(self, latent_dim: int, critic_steps: Updates = 5, penalty_weight: float = 10.0) -> None:
        if latent_dim < 1 or critic_steps < 1 or penalty_weight < 0:
            raise ValueError(
                "latent_dim and critic_steps must be at least 1, penalty_weight 0 or more, "
                f"not {latent_dim}, {critic_steps}, {penalty_weight}"
            )
        self.latent_dim = latent_dim
        self.critic_steps = critic_steps
        self.penalty_weight = penalty_weight

    def input_spec(self, role: str, element: Any, models: Any) -> Any:
        return tf.TensorSpec([None, self.latent_dim], keras.config.floatx()) if role == "generator" else _x(element)

    def train_step(self, batch: Any, run: Run) -> dict[str, Any]:
        generator, real = run.models["generator"], _x(batch)
        for _ in range(self.critic_steps):
            fake = generator(self._noise(real, run), training=True)
            with tf.GradientTape() as tape:
                of_critic = self._critic(real, fake, run, training=True)
            run.minimize("critic", of_critic["critic_loss"], tape)
        noise = self._noise(real, run)
        with tf.GradientTape() as tape:
            loss = _generator_loss(noise, run, training=True)
        run.minimize("generator", loss, tape)
        return {**of_critic, "generator_loss": loss}

    def validation_step(self, batch: Any, run: Run) -> dict[str, Any]:
        real = _x(batch)
        noise = self._noise(real, run)
        fake = run.models["generator"](noise, training=False)
        of_critic = self._critic(real, fake, run, training=False)
        return {**of_critic, "generator_loss": _generator_loss(noise, run, training=False)}

    def signatures(self, models: Any) -> dict[str, dict[str, Any]]:
        generator, latent_dim, dtype = models["generator"], self.latent_dim, keras.config.floatx()

        @tf.function(input_signature=[tf.TensorSpec([2], tf.int64, "seed"), tf.TensorSpec([], tf.int32, "n")])
        def generate(seed: Any, n: Any) -> Any:
            noise = tf.random.stateless_normal([n, latent_dim], seed, dtype=dtype, alg="philox")
            return generator(noise, training=False)

        return {"generator": {"generate": generate}}

    def _noise(self, real: Any, run: Run) -> Any:
        return run.random_normal([tf.shape(real)[0], self.latent_dim])

    def _critic(self, real: Any, fake: Any, run: Run, *, training: bool) -> dict[str, Any]:
        if not fake.shape[1:].is_compatible_with(real.shape[1:]):
            raise ValueError(
                f"the generator gives {fake.shape}, the data's x is {real.shape}: they must have the same shape"
            )
        critic, dtype = run.models["critic"], keras.config.floatx()
        on_real, on_fake = critic(real, training=training), critic(fake, training=training)
        run.update_metrics("critic", tf.ones_like(on_real), on_real)
        run.update_metrics("critic", tf.zeros_like(on_fake), on_fake)
        regularization = run.regularization("critic")
        wasserstein = tf.reduce_mean(tf.cast(on_real, dtype)) - tf.reduce_mean(tf.cast(on_fake, dtype))
        shape = tf.concat([tf.shape(real)[:1], tf.ones([tf.rank(real) - 1], tf.int32)], axis=0)
        place = run.random_uniform(shape, dtype=real.dtype)
        between = place * real + (1.0 - place) * tf.cast(fake, real.dtype)
        penalty = tf.cast(gradient_penalty(critic, between, training=training), dtype)
        loss = -wasserstein + self.penalty_weight * penalty + regularization
        return {"critic_loss": loss, "wasserstein": wasserstein, "gradient_penalty": penalty}


def gradient_penalty(critic: Any, x: Any, *, training: bool) -> Any:
    """Mean over the examples of `(‖∇f(x)‖ - 1)²`; a scalar, differentiable in the critic's weights."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        scores = critic(x, training=training)
    gradient = tape.gradient(scores, x)
    squares = tf.reduce_sum(tf.square(gradient), axis=tf.range(1, tf.rank(gradient)))
    return tf.reduce_mean(tf.square(tf.sqrt(tf.maximum(squares, _SHORTEST)) - 1.0))


def _generator_loss(noise: Any, run: Run, *, training: bool) -> Any:
    fake = run.models["generator"](noise, training=training)
    regularization = run.regularization("generator")
    scores = run.models["critic"](fake, training=training)
    return regularization - tf.reduce_mean(tf.cast(scores, keras.config.floatx()))


def _x(element: Any) -> Any:
    return element[0] if isinstance(element, tuple) else element
