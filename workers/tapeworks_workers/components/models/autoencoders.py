"""`autoencoder`, `vae` and the two halves of one: `gaussian_encoder` and `decoder`.

Hinton and Salakhutdinov, "Reducing the Dimensionality of Data with Neural Networks" (Science 2006); Kingma and
Welling, "Auto-Encoding Variational Bayes" (2013), arXiv:1312.6114, whose divergence is weighted as in Higgins et al.,
"beta-VAE" (ICLR 2017).

With `filters` they are convolutional: the encoder halves an image `(height, width, channels)` with each convolution,
the decoder doubles it, and what is too much at the end is cut off. Without, they are dense, for inputs of any shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tapeworks import component


@component("autoencoder", example={"config": {"code": 2, "hidden": [3]}, "inputs": tf.TensorSpec([None, 4])})
class Autoencoder(keras.Model):
    """Encoder and decoder in one model, which gives its input again by way of a narrow code.

    Takes `(batch, …)` of a known shape and any float dtype; gives the same shape in the compute dtype. Train it with
    a loss of the reconstruction, the input as y too. `model.encoder` and `model.decoder` are models of their own.

    Args:
        code: size of the code.
        hidden: units of the encoder's dense layers, the decoder's in reverse; None: none.
        filters: of the encoder's convolutions before them, the decoder's in reverse; None: a dense model.
        activation: Keras' name, after every layer but the code and the last.
        output_activation: after the last one; the default gives logits.

    Raises ValueError where the shape is not known, or `filters` are given for what is no image.
    """

    def __init__(
        self,
        code: int,
        hidden: list[int] | None = None,
        filters: list[int] | None = None,
        activation: str = "relu",
        output_activation: str = "linear",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.code = code
        self.widths = (tuple(hidden or ()), tuple(filters or ()))
        self.activations = (activation, output_activation)

    def build(self, input_shape: Any) -> None:
        self.encoder, self.decoder = _halves(self, input_shape, self.code, self.code)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.decoder(self.encoder(inputs, training=training), training=training)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return tuple(input_shape)


@component("vae", example={"config": {"latent": 2}, "inputs": tf.TensorSpec([None, 4])})
class Vae(keras.Model):
    """A variational autoencoder: z is drawn while training, its mean otherwise; the divergence is an added loss.

    Takes `(batch, …)` of a known shape and any float dtype; gives the same shape in the compute dtype. `supervised`
    trains it with a loss of the reconstruction, the input as y too. The added loss is
    `weight · KL(N(mean, variance) || N(0, 1))` in nats, summed over the latent and averaged over the batch, in float32
    or float64; so where the reconstruction's loss is averaged over the n numbers of an input, as Keras' are, `weight`
    1/n makes the sum the paper's. `model.encoder` gives mean and log-variance side by side, `model.decoder` decodes.

    Args:
        latent: size of z.
        hidden: units of the encoder's dense layers, the decoder's in reverse; None: none.
        filters: of the encoder's convolutions before them, the decoder's in reverse; None: a dense model.
        activation: Keras' name, after every layer but the last of encoder and decoder.
        output_activation: after the last one; the default gives logits.
        weight: of the divergence.
        seed: of the noise; None: derived from Keras' global seed.

    Raises ValueError where the shape is not known, or `filters` are given for what is no image.
    """

    def __init__(
        self,
        latent: int,
        hidden: list[int] | None = None,
        filters: list[int] | None = None,
        activation: str = "relu",
        output_activation: str = "linear",
        weight: float = 1.0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if weight < 0:
            raise ValueError(f"weight must be 0 or more, not {weight}")
        self.latent, self.weight = latent, weight
        self.widths = (tuple(hidden or ()), tuple(filters or ()))
        self.activations = (activation, output_activation)
        self.seed_generator = keras.random.SeedGenerator(seed)

    def build(self, input_shape: Any) -> None:
        self.encoder, self.decoder = _halves(self, input_shape, 2 * self.latent, self.latent)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        mean, log_variance = tf.split(self.encoder(inputs, training=training), 2, axis=-1)
        self.add_loss(self.weight * _divergence(mean, log_variance))
        z = mean
        if training:
            noise = keras.random.normal(tf.shape(mean), dtype=mean.dtype, seed=self.seed_generator)
            z = mean + tf.exp(0.5 * log_variance) * noise
        return self.decoder(z, training=training)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return tuple(input_shape)


@component("gaussian_encoder", example={"config": {"latent": 2}, "inputs": tf.TensorSpec([None, 4])})
class GaussianEncoder(keras.Model):
    """The encoder of a variational autoencoder alone, for a step that holds encoder and decoder apart.

    Takes `(batch, …)` of a known shape and any float dtype; gives the list [mean, log_variance], each
    `(batch, latent)` in the compute dtype.

    Args:
        latent: size of z.
        hidden: units of the dense layers; None: none.
        filters: of the convolutions before them; None: a dense model.
        activation: Keras' name, after every layer but the last.

    Raises ValueError where the shape is not known, or `filters` are given for what is no image.
    """

    def __init__(
        self,
        latent: int,
        hidden: list[int] | None = None,
        filters: list[int] | None = None,
        activation: str = "relu",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.latent = latent
        self.widths = (tuple(hidden or ()), tuple(filters or ()))
        self.activation = activation

    def build(self, input_shape: Any) -> None:
        shape = _known(input_shape, self.widths[1])
        layers = _encoding(*self.widths, 2 * self.latent, self.activation, self.dtype_policy)
        self.encoder = keras.Sequential(layers, name="encoder")
        self.encoder.build((None, *shape))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return tf.split(self.encoder(inputs, training=training), 2, axis=-1)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return [(input_shape[0], self.latent)] * 2


@component(
    "decoder",
    kind="model",
    example={"config": {"shape": [4, 4, 1], "filters": [2]}, "inputs": tf.TensorSpec([None, 2])},
)
def decoder(
    shape: list[int],
    hidden: list[int] | None = None,
    filters: list[int] | None = None,
    activation: str = "relu",
    output_activation: str = "linear",
) -> keras.Model:
    """The decoder of a variational autoencoder alone: codes `(batch, latent)` to `(batch, *shape)`.

    Args:
        shape: of one output; (height, width, channels) with `filters`.
        hidden: units of the dense layers; None: none.
        filters: of the convolutions after them, each of which doubles height and width; None: a dense model.
        activation: Keras' name, after every layer but the last.
        output_activation: after the last one; the default gives logits.
    """
    _known((None, *shape), filters or ())
    layers = _decoding(hidden or (), filters or (), shape, (activation, output_activation), keras.config.dtype_policy())
    return keras.Sequential(layers, name="decoder")


# ── what they are made of ────────────────────────────────────────────────────────────────────────


def _halves(model: Any, input_shape: Any, encoded: int, code: int) -> tuple[keras.Model, keras.Model]:
    """Encoder and decoder, built."""
    (hidden, filters), policy = model.widths, model.dtype_policy
    shape = _known(input_shape, filters)
    encoder = keras.Sequential(_encoding(hidden, filters, encoded, model.activations[0], policy), name="encoder")
    encoder.build((None, *shape))
    layers = _decoding(hidden[::-1], filters[::-1], shape, model.activations, policy)
    decoder = keras.Sequential(layers, name="decoder")
    decoder.build((None, code))
    return encoder, decoder


def _known(input_shape: Any, filters: Sequence[int]) -> tuple[int, ...]:
    """The shape of one input. Raises ValueError."""
    shape = tuple(input_shape)[1:]
    if not shape or None in shape:
        raise ValueError(
            f"the shape of an input must be known, it is {tuple(input_shape)}: crop or pad in the pipeline"
        )
    if filters and len(shape) != 3:
        raise ValueError(f"filters are for images (height, width, channels), not for {shape}: give hidden instead")
    return shape


def _encoding(hidden: Sequence[int], filters: Sequence[int], size: int, activation: str, policy: Any) -> list[Any]:
    layers: list[keras.layers.Layer] = []
    for index, count in enumerate(filters, start=1):
        options = {"strides": 2, "padding": "same", "activation": activation, "dtype": policy}
        layers.append(keras.layers.Conv2D(count, 3, name=f"convolution_{index}", **options))
    layers.append(keras.layers.Flatten(name="flatten", dtype=policy))
    for index, units in enumerate(hidden, start=1):
        layers.append(keras.layers.Dense(units, activation=activation, name=f"hidden_{index}", dtype=policy))
    return [*layers, keras.layers.Dense(size, name="code", dtype=policy)]


def _decoding(
    hidden: Sequence[int], filters: Sequence[int], shape: Sequence[int], activations: tuple[str, str], policy: Any
) -> list[Any]:
    activation, last = activations
    layers: list[keras.layers.Layer] = []
    for index, units in enumerate(hidden, start=1):
        layers.append(keras.layers.Dense(units, activation=activation, name=f"hidden_{index}", dtype=policy))
    if not filters:
        layers.append(keras.layers.Dense(math.prod(shape), activation=last, name="outputs", dtype=policy))
        return [*layers, keras.layers.Reshape(shape, name="shaped", dtype=policy)]
    doubled = 2 ** len(filters)
    first = [-(-shape[0] // doubled), -(-shape[1] // doubled), filters[0]]
    layers.append(keras.layers.Dense(math.prod(first), activation=activation, name="image", dtype=policy))
    layers.append(keras.layers.Reshape(first, name="shaped", dtype=policy))
    for index, count in enumerate([*filters[1:], shape[-1]], start=1):
        chosen = last if index == len(filters) else activation
        options = {"strides": 2, "padding": "same", "activation": chosen, "dtype": policy}
        layers.append(keras.layers.Conv2DTranspose(count, 4, name=f"convolution_{index}", **options))
    crop = tuple((0, start * doubled - size) for start, size in zip(first[:2], shape[:2], strict=True))
    return layers if crop == ((0, 0), (0, 0)) else [*layers, keras.layers.Cropping2D(crop, name="crop", dtype=policy)]


def _divergence(mean: Any, log_variance: Any) -> Any:
    """KL to the standard normal, averaged over the batch; a scalar, in float32 where the inputs are narrower."""
    dtype = tf.float64 if mean.dtype == tf.float64 else tf.float32
    mean, log_variance = tf.cast(mean, dtype), tf.cast(log_variance, dtype)
    each = 0.5 * (tf.square(mean) + tf.exp(log_variance) - 1.0 - log_variance)
    return tf.reduce_sum(each) / tf.cast(tf.maximum(tf.shape(mean)[0], 1), dtype)
