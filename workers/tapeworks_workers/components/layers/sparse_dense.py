"""`sparse_dense`: a linear layer over sparse features.

The wide part of Cheng et al., "Wide & Deep Learning for Recommender Systems" (2016), arXiv:1606.07792.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tapeworks import component

_EXAMPLE = {"config": {"units": 3}, "inputs": tf.SparseTensorSpec([None, 8], tf.float32)}


@component("sparse_dense", example=_EXAMPLE)
class SparseDense(keras.layers.Layer):
    """`activation(x W + b)` where x is a tf.SparseTensor `(batch, features)`, never made dense.

    Gives a dense `(batch, units)` in the layer's compute dtype; the values of x may have any float or integer dtype.
    Only rows of W whose feature stands in the batch are read, and the gradient of W is a tf.IndexedSlices of those
    rows, where `keras/Dense` gives one as large as W: memory grows with the values in the batch times `units`.

    Args:
        units: features of the output.
        activation: Keras' name; None: linear.
        use_bias: whether there is b.
        kernel_regularizer: of W; it reads all of W, and its gradient is dense.

    Raises ValueError where the number of features is not known, and when called with a dense tensor.
    """

    def __init__(
        self,
        units: int,
        activation: str | None = None,
        use_bias: bool = True,
        kernel_regularizer: keras.regularizers.Regularizer | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if units < 1:
            raise ValueError(f"units must be 1 or more, not {units}")
        self.units = units
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias
        self.kernel_regularizer = kernel_regularizer

    def build(self, input_shape: Any) -> None:
        if len(input_shape) != 2 or input_shape[-1] is None:
            raise ValueError(f"sparse_dense takes (batch, features) with features known, not {tuple(input_shape)}")
        # Without autocast, since mixed precision would copy the whole kernel for the few rows that are read.
        self.kernel = self.add_weight(
            shape=(input_shape[-1], self.units), regularizer=self.kernel_regularizer, autocast=False, name="kernel"
        )
        self.bias = self.add_weight(shape=(self.units,), initializer="zeros", name="bias") if self.use_bias else None

    def call(self, inputs: Any) -> Any:
        if not isinstance(inputs, tf.SparseTensor):
            raise ValueError(f"sparse_dense takes a tf.SparseTensor, not {type(inputs).__name__}: use keras/Dense")
        rows = tf.cast(tf.gather(self.kernel.value, inputs.indices[:, 1]), self.compute_dtype)
        weighted = tf.cast(inputs.values, self.compute_dtype)[:, tf.newaxis] * rows
        outputs = tf.math.unsorted_segment_sum(weighted, inputs.indices[:, 0], inputs.dense_shape[0])
        return self.activation(outputs if self.bias is None else outputs + self.bias)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (input_shape[0], self.units)
