"""`orthogonal`: soft orthogonality.

Bansal et al., "Can We Gain More from Orthogonality Regularizations in Training Deep CNNs?" (2018), arXiv:1810.09102.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tapeworks import component


@component("orthogonal", example={"config": {}, "inputs": tf.TensorSpec([4, 3], tf.float32)})
class Orthogonal(keras.regularizers.Regularizer):
    """`factor · ‖WᵀW − I‖²`, the kernel as a matrix of (everything, outputs).

    Where a kernel has more outputs than inputs, its rows are made orthogonal instead: its columns cannot be.
    Unlike `keras/OrthogonalRegularizer` it takes kernels of any rank and asks for unit length as well.

    Args:
        factor: the weight of the penalty.
    """

    def __init__(self, factor: float = 0.01) -> None:
        self.factor = factor

    def __call__(self, x: Any) -> Any:
        x = tf.convert_to_tensor(x)
        if x.shape.rank < 2:
            raise ValueError(f"orthogonal takes kernels of rank 2 or more, not {x.shape}")
        matrix = tf.reshape(x, [-1, x.shape[-1]])
        wide = matrix.shape[0] is not None and matrix.shape[0] < matrix.shape[1]
        gram = tf.matmul(matrix, matrix, transpose_a=not wide, transpose_b=wide)
        identity = tf.eye(tf.shape(gram)[0], dtype=x.dtype)
        return tf.constant(self.factor, x.dtype) * tf.reduce_sum(tf.square(gram - identity))
