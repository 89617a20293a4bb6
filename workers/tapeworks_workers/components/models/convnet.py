"""`convnet`: a small convolutional network for images."""

from __future__ import annotations

import keras
import tensorflow as tf

from tapeworks import component

_EXAMPLE = {
    "config": {"filters": [4], "outputs": 3, "hidden": [8]},
    "inputs": tf.TensorSpec([None, 8, 8, 1], tf.float32),
}


@component("convnet", kind="model", example=_EXAMPLE)
def convnet(
    filters: list[int],
    outputs: int,
    kernel_size: int = 3,
    pool_size: int = 2,
    hidden: list[int] | None = None,
    activation: str = "relu",
    batch_normalization: bool = False,
    dropout: float = 0.0,
) -> keras.Model:
    """Convolution, activation and max pooling for each of `filters`, dense layers, then logits.

    Inputs are `(height, width, channels)`; each pooling divides height and width by `pool_size`.

    Args:
        filters: of each convolution.
        outputs: how many logits.
        kernel_size: of each convolution, with padding "same".
        pool_size: of each max pooling; 1: none.
        hidden: units of the dense layers before the logits.
        activation: Keras' name.
        batch_normalization: between each convolution and its activation.
        dropout: rate before each dense layer.
    """
    layers: list[keras.layers.Layer] = []
    for index, count in enumerate(filters, start=1):
        layers.append(
            keras.layers.Conv2D(
                count, kernel_size, padding="same", use_bias=not batch_normalization, name=f"convolution_{index}"
            )
        )
        if batch_normalization:
            layers.append(keras.layers.BatchNormalization(name=f"normalization_{index}"))
        layers.append(keras.layers.Activation(activation, name=f"activation_{index}"))
        if pool_size > 1:
            layers.append(keras.layers.MaxPooling2D(pool_size, name=f"pooling_{index}"))
    layers.append(keras.layers.Flatten(name="flatten"))
    for index, units in enumerate(hidden or [], start=1):
        if dropout:
            layers.append(keras.layers.Dropout(dropout, name=f"dropout_{index}"))
        layers.append(keras.layers.Dense(units, activation=activation, name=f"hidden_{index}"))
    if dropout:
        layers.append(keras.layers.Dropout(dropout, name="dropout"))
    layers.append(keras.layers.Dense(outputs, name="logits"))
    return keras.Sequential(layers, name="convnet")
