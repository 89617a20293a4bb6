"""`group_lasso`: whole groups of weights driven to zero together.

Yuan & Lin, "Model selection and estimation in regression with grouped variables" (2006),
doi:10.1111/j.1467-9868.2005.00532.x; for networks Scardapane et al., "Group Sparse Regularization for Deep Neural
Networks" (2016), arXiv:1607.00485.
"""

from __future__ import annotations

from typing import Any, Literal

import keras
import tensorflow as tf

from tapeworks import component


@component("group_lasso", example={"config": {}, "inputs": tf.TensorSpec([4, 3], tf.float32)})
class GroupLasso(keras.regularizers.Regularizer):
    """`factor · sum_g sqrt(|g|) ‖W_g‖`: the 2-norm of each group, weighed by the root of its size.

    Kernels are `(…, inputs, outputs)`, of rank 2 or more and any float dtype; the penalty is a scalar of that dtype. A
    group is all weights of one input, so that unused features fall away, or of one output, so that unused units do.
    Where a group is all zeros the norm has no derivative: its gradient is 0 there, the least of the subgradients.

    Args:
        factor: the weight of the penalty.
        groups: which weights belong together: those of one of the `inputs`, or of one of the `outputs`.

    Raises ValueError where the kernel has rank 0 or 1.
    """

    def __init__(self, factor: float = 0.01, groups: Literal["inputs", "outputs"] = "inputs") -> None:
        if factor < 0:
            raise ValueError(f"factor must be 0 or more, not {factor}")
        self.factor = factor
        self.groups = groups

    def __call__(self, x: Any) -> Any:
        x = tf.convert_to_tensor(x)
        if x.shape.rank < 2:
            raise ValueError(f"group_lasso takes kernels of rank 2 or more, not {x.shape}")
        own = x.shape.rank - (2 if self.groups == "inputs" else 1)
        squares = tf.reduce_sum(tf.square(x), axis=[axis for axis in range(x.shape.rank) if axis != own])
        # The gradient of sqrt at 0 is infinite, and tf.where alone would give 0 · inf: both sides must be finite.
        positive = squares > 0
        norms = tf.where(positive, tf.sqrt(tf.where(positive, squares, 1)), 0)
        size = tf.cast(tf.size(x) // tf.size(norms), x.dtype)
        return tf.constant(self.factor, x.dtype) * tf.sqrt(size) * tf.reduce_sum(norms)
