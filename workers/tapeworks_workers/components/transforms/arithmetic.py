"""`scale`: multiply and add."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tapeworks import component


@component("scale", example={"config": {"factor": 0.5}, "inputs": tf.TensorSpec([None], tf.float32)})
def scale(x: Any, *rest: Any, factor: float = 1.0, offset: float = 0.0) -> Any:
    """`x · factor + offset` for every tensor of x; integers become float32. What else the element holds stays.

    Args:
        factor: what x is multiplied by.
        offset: what is added afterwards.
    """
    scaled = tf.nest.map_structure(lambda tensor: _scaled(tensor, factor, offset), x)
    return (scaled, *rest) if rest else scaled


def _scaled(tensor: Any, factor: float, offset: float) -> Any:
    if not tensor.dtype.is_floating:
        tensor = tf.cast(tensor, tf.float32)
    return tensor * tf.cast(factor, tensor.dtype) + tf.cast(offset, tensor.dtype)
