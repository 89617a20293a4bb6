"""`attention_pooling`: Yang et al., "Hierarchical Attention Networks for Document Classification" (2016).

NAACL 2016, https://aclanthology.org/N16-1174, equations 5 to 7.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tapeworks import component


@component("attention_pooling", example={"config": {"units": 3}, "inputs": tf.TensorSpec([None, 5, 4], tf.float32)})
class AttentionPooling(keras.layers.Layer):
    """The steps of a sequence averaged, each by how much it says: `sum_t softmax_t(u · tanh(W h_t + b)) h_t`.

    Takes `(batch, steps, features)`, dense with or without a mask `(batch, steps)`, or ragged in the steps, of any
    float dtype; gives `(batch, features)` in the layer's compute dtype. Masked steps weigh nothing, and a row without
    any step gives zeros. A RaggedTensor is never padded: work and memory grow with the steps there are.

    Args:
        units: features of the hidden representation that the context vector u is compared with.
        kernel_regularizer: of W.

    Raises ValueError where the input has another rank or no known last dimension.
    """

    def __init__(
        self, units: int, kernel_regularizer: keras.regularizers.Regularizer | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if units < 1:
            raise ValueError(f"units must be 1 or more, not {units}")
        self.units = units
        self.kernel_regularizer = kernel_regularizer
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        if len(input_shape) != 3 or input_shape[-1] is None:
            raise ValueError(f"attention_pooling takes (batch, steps, features), not {tuple(input_shape)}")
        self.kernel = self.add_weight(
            shape=(input_shape[-1], self.units), regularizer=self.kernel_regularizer, name="kernel"
        )
        self.bias = self.add_weight(shape=(self.units,), initializer="zeros", name="bias")
        self.context = self.add_weight(shape=(self.units,), initializer="random_normal", name="context")

    def call(self, inputs: Any, mask: Any = None) -> Any:
        if isinstance(inputs, tf.RaggedTensor):
            return self._ragged(inputs)
        if mask is None:
            mask = tf.ones(tf.shape(inputs)[:2], tf.bool)
        # What is masked may hold anything, and 0 · NaN is NaN, in gradients too: it is taken out, not weighed with 0.
        values = tf.where(mask[..., tf.newaxis], inputs, 0)
        scores = self._scores(values)
        scores = tf.where(mask, scores, scores.dtype.min)
        weights = tf.where(mask, tf.exp(scores - tf.reduce_max(scores, axis=1, keepdims=True)), 0)
        total = tf.reduce_sum(weights, axis=1, keepdims=True)
        return tf.reduce_sum(tf.math.divide_no_nan(weights, total)[..., tf.newaxis] * values, axis=1)

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> None:
        """The steps are gone, and their mask with them."""
        return None

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (input_shape[0], input_shape[-1])

    def _scores(self, values: Any) -> Any:
        hidden = tf.tanh(tf.tensordot(values, tf.convert_to_tensor(self.kernel), 1) + self.bias)
        return tf.tensordot(hidden, tf.convert_to_tensor(self.context), 1)

    def _ragged(self, inputs: Any) -> Any:
        rows, count, values = inputs.value_rowids(), inputs.nrows(), inputs.values
        scores = self._scores(values)
        highest = tf.math.unsorted_segment_max(tf.stop_gradient(scores), rows, count)
        weights = tf.exp(scores - tf.gather(highest, rows))
        total = tf.gather(tf.math.unsorted_segment_sum(weights, rows, count), rows)
        return tf.math.unsorted_segment_sum((weights / total)[:, tf.newaxis] * values, rows, count)
