"""`sequential`: layers one after another."""

from __future__ import annotations

import keras
import tensorflow as tf

from tapeworks import component

_EXAMPLE = {
    "config": {"layers": [{"component": "keras/Dense", "config": {"units": 2}}]},
    "inputs": tf.TensorSpec([None, 4], tf.float32),
}


@component("sequential", kind="model", example=_EXAMPLE)
def sequential(layers: list[keras.layers.Layer], name: str | None = None) -> keras.Model:
    """`keras.Sequential`; its input is the element's.

    Args:
        layers: in the order in which they are applied.
        name: of the model.
    """
    if not layers:
        raise ValueError("layers is empty: a sequential model needs at least one")
    return keras.Sequential(layers, name=name)
