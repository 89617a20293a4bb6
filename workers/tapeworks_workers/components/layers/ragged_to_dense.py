"""`ragged_to_dense`: rows of different lengths as one padded tensor with its mask (tf.RaggedTensor.to_tensor)."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tapeworks import component

_EXAMPLE = {"config": {}, "inputs": tf.RaggedTensorSpec([None, None, 4], tf.float32, ragged_rank=1)}


@component("ragged_to_dense", example=_EXAMPLE)
class RaggedToDense(keras.layers.Layer):
    """Pads a RaggedTensor `(batch, None, …)` to `(batch, longest, …)`; layers after it get the mask `(batch, longest)`.

    Recurrent, convolutional and attention layers of Keras take no RaggedTensor. They take this output, and those that
    know masks leave the padding out. The dtype stays, integers included. An `Embedding` belongs before it: Keras' takes
    ragged ids, and drops the mask of dense ones, with a warning, unless it has `mask_zero`. Dense inputs pass as they
    are, with the mask they have.

    Args:
        pad_value: what the padding holds.
        max_length: longer rows are cut, and every batch is padded to it; None: each batch as long as its longest row.

    Raises ValueError for inputs ragged in more than the dimension after the batch.
    """

    def __init__(self, pad_value: float = 0.0, max_length: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if max_length is not None and max_length < 1:
            raise ValueError(f"max_length must be 1 or more, not {max_length}")
        self.pad_value = pad_value
        self.max_length = max_length
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        if len(input_shape) < 2:
            raise ValueError(f"ragged_to_dense takes inputs of rank 2 or more, not {tuple(input_shape)}")

    def call(self, inputs: Any) -> Any:
        if not isinstance(inputs, tf.RaggedTensor):
            return inputs
        if inputs.ragged_rank != 1:
            raise ValueError(f"ragged_to_dense takes one ragged dimension, the input has {inputs.ragged_rank}")
        shape = None
        if self.max_length is not None:
            shape = [None, self.max_length, *inputs.shape[2:]]
        return inputs.to_tensor(tf.cast(tf.constant(self.pad_value, tf.float64), inputs.dtype), shape=shape)

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        if isinstance(inputs, keras.KerasTensor) and inputs.ragged:
            # A symbolic mask would have to be a node of the model. Keras hands on the one of each real tensor.
            return None
        if not isinstance(inputs, tf.RaggedTensor):
            return previous_mask
        lengths = inputs.row_lengths()
        longest = inputs.bounding_shape(axis=1) if self.max_length is None else self.max_length
        return tf.sequence_mask(lengths, longest)

    def compute_output_spec(self, inputs: Any) -> Any:
        """Computed, not traced: Keras traces a ragged input as a dense one."""
        if not inputs.ragged:
            return keras.KerasTensor(inputs.shape, dtype=inputs.dtype)
        return keras.KerasTensor((inputs.shape[0], self.max_length, *inputs.shape[2:]), dtype=inputs.dtype)
