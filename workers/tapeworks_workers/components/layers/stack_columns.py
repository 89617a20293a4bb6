"""`stack_columns`: columns of a table side by side as one vector of features."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tapeworks import component

_EXAMPLE = {
    "config": {},
    "inputs": [tf.TensorSpec([None], tf.int64), tf.TensorSpec([None], tf.float32), tf.TensorSpec([None, 2])],
}


@component("stack_columns", example=_EXAMPLE)
class StackColumns(keras.layers.Layer):
    """Columns `(batch,)` and vectors `(batch, n)`, in order, as one vector `(batch, features)`.

    The element of a table with `named` is a dict of columns, which `keras/Concatenate` does not take. Integers and
    booleans become the layer's variable dtype, rounded where that holds no such integer; floats keep the widest dtype
    of them. Inputs are not cast to the compute dtype.

    Raises ValueError for texts, and for inputs of other ranks.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)

    def build(self, input_shape: Any) -> None:
        """No variables."""

    def call(self, inputs: Any) -> Any:
        columns = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        dtype = self._dtype_of([one.dtype.name for one in columns])
        wide = [tf.cast(one if one.shape.rank == 2 else one[:, tf.newaxis], dtype) for one in columns]
        return tf.concat(wide, -1)

    def _dtype_of(self, dtypes: list[str]) -> str:
        floats = [dtype for dtype in dtypes if "float" in dtype]
        return max(floats, key=lambda name: tf.as_dtype(name).size, default=self.variable_dtype)

    def compute_output_spec(self, inputs: Any) -> Any:
        """Checks the columns, which have no values yet."""
        columns = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        for place, one in enumerate(columns):
            if one.dtype == "string":
                raise ValueError(f"input {place} holds texts: put keras/StringLookup or keras/Hashing before it")
            if len(one.shape) not in (1, 2):
                raise ValueError(f"input {place} has the shape {tuple(one.shape)}: give (batch,) or (batch, n)")
        widths = [1 if len(one.shape) == 1 else one.shape[1] for one in columns]
        width = None if None in widths else sum(widths)
        return keras.KerasTensor((columns[0].shape[0], width), dtype=self._dtype_of([one.dtype for one in columns]))
