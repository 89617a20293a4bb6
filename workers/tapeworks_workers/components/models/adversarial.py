"""`generator` and `discriminator`: a generative adversarial network's two players, for small images and for vectors.

Radford et al., "Unsupervised Representation Learning with Deep Convolutional Generative Adversarial Networks" (2015),
arXiv:1511.06434. Spectral normalization: Miyato et al. (2018), arXiv:1802.05957. A critic without batch normalization:
Gulrajani et al., "Improved Training of Wasserstein GANs" (2017), arXiv:1704.00028.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import keras
import tensorflow as tf

from tapeworks import component


def _convolution(kind: type, filters: int, name: str) -> keras.layers.Layer:
    """Halves or doubles an image; with the paper's initial weights."""
    small = keras.initializers.RandomNormal(stddev=0.02)
    return kind(filters, 4, strides=2, padding="same", kernel_initializer=small, name=name)


@component(
    "generator",
    kind="model",
    example={"config": {"shape": [4, 4, 1], "filters": [2, 2]}, "inputs": tf.TensorSpec([None, 3], tf.float32)},
)
def generator(
    shape: list[int],
    filters: list[int] | None = None,
    hidden: list[int] | None = None,
    activation: str = "relu",
    batch_normalization: bool = True,
    output_activation: str = "tanh",
) -> keras.Model:
    """Noise `(batch, latent)` to `(batch, *shape)`, in the compute dtype.

    Args:
        shape: of one output; (height, width, channels) with `filters`.
        filters: channels before each transposed convolution, each of which doubles height and width: for digits of
            8×8 [64, 32] starts at 2×2, for 28×28 [128, 64] at 7×7. None: dense layers only.
        hidden: units of dense layers before them; None: none.
        activation: Keras' name, after every layer but the last.
        batch_normalization: before each activation, as in the paper.
        output_activation: after the last layer: "tanh" for data in -1 … 1, "linear" for what has no bounds.
    """
    layers: list[keras.layers.Layer] = []

    def activated(name: str) -> None:
        if batch_normalization:
            layers.append(keras.layers.BatchNormalization(name=f"{name}_normalization"))
        layers.append(keras.layers.Activation(activation, name=f"{name}_activation"))

    for index, units in enumerate(hidden or [], start=1):
        layers.append(keras.layers.Dense(units, name=f"hidden_{index}"))
        activated(f"hidden_{index}")
    if not filters:
        layers.append(keras.layers.Dense(math.prod(shape), activation=output_activation, name="outputs"))
        return keras.Sequential([*layers, keras.layers.Reshape(shape, name="shaped")], name="generator")
    if len(shape) != 3:
        raise ValueError(f"filters are for images (height, width, channels), not for {shape}: give hidden instead")
    doubled = 2 ** len(filters)
    first = [-(-shape[0] // doubled), -(-shape[1] // doubled), filters[0]]
    layers.append(keras.layers.Dense(math.prod(first), name="image"))
    layers.append(keras.layers.Reshape(first, name="shaped"))
    activated("image")
    for index, count in enumerate([*filters[1:], shape[-1]], start=1):
        layers.append(_convolution(keras.layers.Conv2DTranspose, count, f"convolution_{index}"))
        if index < len(filters):
            activated(f"convolution_{index}")
    layers.append(keras.layers.Activation(output_activation, name="outputs"))
    crop = tuple((0, start * doubled - size) for start, size in zip(first[:2], shape[:2], strict=True))
    if crop != ((0, 0), (0, 0)):
        layers.append(keras.layers.Cropping2D(crop, name="crop"))
    return keras.Sequential(layers, name="generator")


@component(
    "discriminator",
    kind="model",
    example={"config": {"filters": [2, 2]}, "inputs": tf.TensorSpec([None, 4, 4, 1], tf.float32)},
)
def discriminator(
    filters: list[int] | None = None,
    hidden: list[int] | None = None,
    normalization: Literal["batch", "layer", "spectral", "none"] = "batch",
    slope: float = 0.2,
    dropout: float = 0.0,
    outputs: int = 1,
) -> keras.Model:
    """What an image or a vector `(batch, …)` is taken for: logits `(batch, outputs)` in the compute dtype.

    Args:
        filters: of each convolution, which halves height and width; None: dense layers only, any input is flattened.
        hidden: units of the dense layers after them; None: none.
        normalization: "batch", after every layer but the first and the last, is the paper's; "spectral" bounds each
            layer's slope, the last one's too; "layer" or "none" for a critic with a gradient penalty, which needs each
            example to itself.
        slope: of the leaky activation below 0.
        dropout: rate after each activation.
        outputs: how many logits.
    """
    layers: list[keras.layers.Layer] = []

    def add(layer: keras.layers.Layer, *, first: bool) -> None:
        layers.append(_bounded(layer) if normalization == "spectral" else layer)
        if normalization == "batch" and not first:
            layers.append(keras.layers.BatchNormalization(name=f"{layer.name}_normalization"))
        elif normalization == "layer" and not first:
            layers.append(keras.layers.LayerNormalization(name=f"{layer.name}_normalization"))
        layers.append(keras.layers.LeakyReLU(slope, name=f"{layer.name}_activation"))
        if dropout:
            layers.append(keras.layers.Dropout(dropout, name=f"{layer.name}_dropout"))

    for index, count in enumerate(filters or [], start=1):
        add(_convolution(keras.layers.Conv2D, count, f"convolution_{index}"), first=index == 1)
    layers.append(keras.layers.Flatten(name="flatten"))
    for index, units in enumerate(hidden or [], start=1):
        add(keras.layers.Dense(units, name=f"hidden_{index}"), first=index == 1 and not filters)
    last = keras.layers.Dense(outputs, name="logits")
    return keras.Sequential([*layers, _bounded(last) if normalization == "spectral" else last], name="discriminator")


def _bounded(layer: Any) -> keras.layers.Layer:
    return keras.layers.SpectralNormalization(layer, name=f"{layer.name}_spectral")
