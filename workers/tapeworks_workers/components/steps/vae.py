"""`vae`: Kingma and Welling, "Auto-Encoding Variational Bayes" (2013), arXiv:1312.6114.

`beta` is that of Higgins et al., "beta-VAE" (ICLR 2017).
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tapeworks import Run, TrainingStep, component


@component("vae", example={"config": {"latent_dim": 2}})
class Vae(TrainingStep):
    """An encoder and a decoder under one optimizer, `autoencoder`: reconstruction + beta · KL, and what layers add.

    The element is `x` or `(x, …)`, of which `x` alone is used: one float tensor. The encoder gives the means and the
    log-variances of a normal distribution: a pair of `(n, latent_dim)`, or one tensor `(n, 2 · latent_dim)`. The
    decoder takes a sample of it, `(n, latent_dim)`, and gives what has the shape of x. The loss `decoder`,
    `loss(x, decoded)`, is the mean over an example's elements, as Keras' own are; it is multiplied by their number, so
    that with `beta` 1 the sum is the negative evidence lower bound.

    Reports `loss`, `reconstruction` and `kl` (nats an example). Validation samples too, from a stream of its own. The
    decoder's metrics see x and the reconstruction. Signatures: of the decoder `generate(seed, n)`, the seed (int64, two
    numbers) and how many (int32); of the encoder `reconstruct(x)`, decoded from the mean.

    Args:
        latent_dim: size of the code.
        beta: weight of the divergence from the standard normal distribution; 0 or more.
    """

    models = ("encoder", "decoder")
    optimizers = {"autoencoder": ("encoder", "decoder")}  # noqa: RUF012  # a declaration, read as it stands
    losses = ("decoder",)
    directions = {"reconstruction": "min"}  # noqa: RUF012  # a declaration; kl has none: 0 is a collapsed model

    def __init__(self, latent_dim: int, beta: float = 1.0) -> None:
        if latent_dim < 1 or beta < 0:
            raise ValueError(f"latent_dim must be at least 1 and beta 0 or more, not {latent_dim}, {beta}")
        self.latent_dim = latent_dim
        self.beta = beta

    def input_spec(self, role: str, element: Any, models: Any) -> Any:
        self._x_spec = _x(element)
        return self._x_spec if role == "encoder" else tf.TensorSpec([None, self.latent_dim], keras.config.floatx())

    def train_step(self, batch: Any, run: Run) -> dict[str, Any]:
        with tf.GradientTape() as tape:
            losses = self._losses(_x(batch), run, training=True)
        run.minimize("autoencoder", losses["loss"], tape)
        return losses

    def validation_step(self, batch: Any, run: Run) -> dict[str, Any]:
        return self._losses(_x(batch), run, training=False)

    def signatures(self, models: Any) -> dict[str, dict[str, Any]]:
        encoder, decoder = models["encoder"], models["decoder"]
        latent_dim, dtype = self.latent_dim, keras.config.floatx()

        @tf.function(input_signature=[tf.TensorSpec([2], tf.int64, "seed"), tf.TensorSpec([], tf.int32, "n")])
        def generate(seed: Any, n: Any) -> Any:
            return decoder(tf.random.stateless_normal([n, latent_dim], seed, dtype=dtype, alg="philox"), training=False)

        @tf.function(input_signature=[tf.TensorSpec(self._x_spec.shape, self._x_spec.dtype, "x")])
        def reconstruct(x: Any) -> Any:
            mean, _ = parameters(encoder(x, training=False), latent_dim)
            return decoder(mean, training=False)

        return {"encoder": {"reconstruct": reconstruct}, "decoder": {"generate": generate}}

    def _losses(self, x: Any, run: Run, *, training: bool) -> dict[str, Any]:
        dtype = keras.config.floatx()
        mean, log_variance = parameters(run.models["encoder"](x, training=training), self.latent_dim)
        code = mean + tf.exp(0.5 * log_variance) * run.random_normal(tf.shape(mean))
        decoded = run.models["decoder"](code, training=training)
        if not decoded.shape[1:].is_compatible_with(x.shape[1:]):
            raise ValueError(
                f"the decoder gives {decoded.shape}, the data's x is {x.shape}: they must have the same shape"
            )
        run.update_metrics("decoder", x, decoded)
        elements = tf.cast(tf.reduce_prod(tf.shape(x)[1:]), dtype)
        reconstruction = elements * tf.cast(run.losses["decoder"](x, decoded), dtype)
        kl = divergence(mean, log_variance)
        added = run.regularization("encoder") + run.regularization("decoder")
        return {"loss": reconstruction + self.beta * kl + added, "reconstruction": reconstruction, "kl": kl}


def parameters(encoded: Any, latent_dim: int) -> tuple[Any, Any]:
    """Mean and log-variance, each `(n, latent_dim)` in floatx, of what an encoder gave. Raises ValueError."""
    pair = encoded if isinstance(encoded, (list, tuple)) else [encoded]
    both = tf.concat([tf.cast(part, keras.config.floatx()) for part in pair], axis=-1)
    if len(pair) > 2 or both.shape[1:] != [2 * latent_dim]:
        raise ValueError(
            f"with latent_dim {latent_dim} the encoder must give {latent_dim} means and as many log-variances, as a "
            f"pair or in one tensor; it gives {[tuple(part.shape) for part in pair]}"
        )
    mean, log_variance = tf.split(both, 2, axis=-1)
    return mean, log_variance


def divergence(mean: Any, log_variance: Any) -> Any:
    """KL of `N(mean, exp(log_variance))` from `N(0, 1)`: summed over the code, averaged over the batch; in nats."""
    each = 0.5 * (tf.square(mean) + tf.exp(log_variance) - 1.0 - log_variance)
    return tf.reduce_mean(tf.reduce_sum(each, axis=-1))


def _x(element: Any) -> Any:
    return element[0] if isinstance(element, tuple) else element
