"""`delta_orthogonal`: convolutions that keep lengths.

Xiao et al., "Dynamical Isometry and a Mean Field Theory of CNNs: How to Train 10,000-Layer Vanilla Convolutional Neural
Networks" (2018), arXiv:1806.05393, algorithm 1.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tapeworks import component


@component("delta_orthogonal")
class DeltaOrthogonal(keras.initializers.Initializer):
    """Zero but for the middle of the kernel, which holds an orthogonal matrix: a linear layer keeps every norm.

    For kernels of convolutions `(…, inputs, outputs)` with padding "same" and stride 1, and of dense layers
    `(inputs, outputs)`, where it is Keras' Orthogonal. Any float dtype.

    Args:
        gain: the layer multiplies norms by it.
        seed: of the matrix; None: another one for each instance.

    Raises ValueError for kernels of rank 1 or of more inputs than outputs, which cannot keep norms.
    """

    def __init__(self, gain: float = 1.0, seed: int | None = None) -> None:
        self.gain = gain
        self.seed = seed
        self._matrix = keras.initializers.Orthogonal(gain, seed)

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        shape = tuple(shape)
        if len(shape) < 2:
            raise ValueError(f"delta_orthogonal takes kernels of rank 2 or more, not {shape}")
        if len(shape) > 2 and shape[-2] > shape[-1]:
            raise ValueError(f"delta_orthogonal takes no kernel of more inputs than outputs: {shape}")
        matrix = tf.convert_to_tensor(self._matrix(shape[-2:], dtype=dtype))
        middle = [((size - 1) // 2, size // 2) for size in shape[:-2]]
        return tf.pad(tf.reshape(matrix, [*([1] * len(middle)), *shape[-2:]]), [*middle, (0, 0), (0, 0)])
