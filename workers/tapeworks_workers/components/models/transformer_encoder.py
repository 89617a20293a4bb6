"""`transformer_encoder`: Vaswani et al., "Attention Is All You Need" (2017), arXiv:1706.03762, section 3.

Normalised before each part, not after it: Xiong et al., "On Layer Normalization in the Transformer Architecture"
(2020), arXiv:2002.04745. Positions are learned, as in Devlin et al., "BERT" (2018), arXiv:1810.04805.
"""

from __future__ import annotations

from typing import Any, Literal

import keras
import tensorflow as tf

from tapeworks import component

_EXAMPLE = {
    "config": {"outputs": 3, "vocabulary_size": 4, "max_length": 3, "dimension": 2, "heads": 1, "layers": 1},
    "inputs": tf.RaggedTensorSpec([None, None], tf.int64),
}


@component("transformer_encoder", example=_EXAMPLE)
class TransformerEncoder(keras.Model):
    """Embeddings with positions, layers of self-attention, then logits: one row a sequence, or one a step.

    Takes sequences as a RaggedTensor, dense, or a dict {"steps": dense, "mask": (batch, steps) of booleans, true where
    there is something}. With `vocabulary_size` they hold ids `(batch, steps)`, else numbers `(batch, steps, features)`.
    A ragged batch is padded to its longest sequence inside. Masked steps change nothing else. Gives
    `(batch, outputs)`, or with pooling "none" `(batch, steps, outputs)`, zeros at masked steps, in the compute dtype.

    Args:
        outputs: how many logits.
        vocabulary_size: how many ids there are; None: the steps are numbers.
        max_length: how many positions there are; longer sequences are cut.
        dimension: of each step.
        heads: of the attention; they share the dimension.
        layers: of attention and feed-forward network.
        feed_forward: units of the network's inner layer; None: 4 times the dimension.
        dropout: rate after each part, after the embedding, and of the attention.
        pooling: "mean" over the steps, "first" step, or "none": logits for each step.
        mask_id: an id that stands for padding in dense sequences; None: none does.

    Raises ValueError where the heads do not divide the dimension, or the inputs are of another rank or dtype.
    """

    def __init__(
        self,
        outputs: int,
        vocabulary_size: int | None = None,
        max_length: int = 128,
        dimension: int = 64,
        heads: int = 4,
        layers: int = 2,
        feed_forward: int | None = None,
        dropout: float = 0.1,
        pooling: Literal["mean", "first", "none"] = "mean",
        mask_id: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 1 <= layers <= 1000 or heads < 1:
            raise ValueError(f"layers must be between 1 and 1000, and heads at least 1, got {layers} and {heads}")
        if dimension % heads:
            raise ValueError(f"heads must divide dimension: {dimension} is not a multiple of {heads}")
        self.max_length, self.dimension, self.pooling, self.mask_id = max_length, dimension, pooling, mask_id
        self.ids = vocabulary_size is not None
        policy = self.dtype_policy
        self.embedding = (
            keras.layers.Dense(dimension, dtype=policy, name="embedding")
            if vocabulary_size is None
            else keras.layers.Embedding(vocabulary_size, dimension, dtype=policy, name="embedding")
        )
        self.positions = keras.layers.Embedding(max_length, dimension, dtype=policy, name="positions")
        self.dropout = keras.layers.Dropout(dropout, dtype=policy, name="dropout")
        inner = 4 * dimension if feed_forward is None else feed_forward
        self.blocks = [
            _Block(dimension, heads, inner, dropout, dtype=policy, name=f"layer_{index + 1}") for index in range(layers)
        ]
        self.normalization = keras.layers.LayerNormalization(dtype=policy, name="normalization")
        self.logits = keras.layers.Dense(outputs, dtype=policy, name="logits")

    def build(self, input_shape: Any) -> None:
        shape = tuple(input_shape["steps"] if isinstance(input_shape, dict) else input_shape)
        if len(shape) != (2 if self.ids else 3) or (not self.ids and shape[-1] is None):
            wanted = "ids (batch, steps)" if self.ids else "numbers (batch, steps, features)"
            raise ValueError(f"this transformer_encoder takes {wanted}, not {shape}")
        self.embedding.build(shape)
        self.positions.build((None,))
        hidden = (None, None, self.dimension)
        for block in self.blocks:
            block.build(hidden)
        self.normalization.build(hidden)
        self.logits.build(hidden)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        steps, mask = self._steps(inputs)
        hidden = self.embedding(steps) + self.positions(tf.range(tf.shape(steps)[1]))
        hidden = self.dropout(hidden, training=training)
        for block in self.blocks:
            hidden = block(hidden, mask, training=training)
        hidden = self.normalization(hidden)
        there = tf.cast(mask, hidden.dtype)[..., tf.newaxis]
        if self.pooling == "none":
            return self.logits(hidden) * there
        if self.pooling == "first":
            return self.logits(hidden[:, 0])
        return self.logits(tf.math.divide_no_nan(tf.reduce_sum(hidden * there, 1), tf.reduce_sum(there, 1)))

    def compute_output_shape(self, input_shape: Any) -> Any:
        batch = (input_shape["steps"] if isinstance(input_shape, dict) else input_shape)[0]
        return (batch, None, self.logits.units) if self.pooling == "none" else (batch, self.logits.units)

    def _steps(self, inputs: Any) -> tuple[Any, Any]:
        """Dense steps and their mask, both cut to max_length."""
        if isinstance(inputs, tf.RaggedTensor):
            inputs = inputs[:, : self.max_length]
            steps = inputs.to_tensor()
            return self._checked(steps), tf.sequence_mask(inputs.row_lengths(), tf.shape(steps)[1])
        given = inputs if isinstance(inputs, dict) else {"steps": inputs}
        steps = self._checked(given["steps"])[:, : self.max_length]
        mask = tf.ones(tf.shape(steps)[:2], tf.bool)
        if "mask" in given:
            mask = tf.cast(given["mask"], tf.bool)[:, : self.max_length]
        if self.ids and self.mask_id is not None:
            mask &= steps != tf.cast(self.mask_id, steps.dtype)
        return steps, mask

    def _checked(self, steps: Any) -> Any:
        if self.ids and not steps.dtype.is_integer:
            raise ValueError(f"transformer_encoder with vocabulary_size takes integer ids, not {steps.dtype.name}")
        return steps


class _Block(keras.layers.Layer):
    """Self-attention, then two dense layers, each added to what it was given."""

    def __init__(self, dimension: int, heads: int, inner: int, dropout: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.attention = keras.layers.MultiHeadAttention(
            heads, dimension // heads, dropout=dropout, dtype=policy, name="attention"
        )
        self.inner = keras.layers.Dense(inner, activation="gelu", dtype=policy, name="inner")
        self.outer = keras.layers.Dense(dimension, dtype=policy, name="outer")
        self.before_attention = keras.layers.LayerNormalization(dtype=policy, name="before_attention")
        self.before_dense = keras.layers.LayerNormalization(dtype=policy, name="before_dense")
        self.dropout = keras.layers.Dropout(dropout, dtype=policy, name="dropout")

    def build(self, input_shape: Any) -> None:
        self.attention.build(input_shape, input_shape)
        for layer in (self.before_attention, self.before_dense, self.inner):
            layer.build(input_shape)
        self.outer.build((*input_shape[:-1], self.inner.units))

    def call(self, inputs: Any, mask: Any, training: bool | None = None) -> Any:
        hidden = self.before_attention(inputs)
        hidden = self.attention(hidden, hidden, attention_mask=mask[:, tf.newaxis], training=training)
        inputs = inputs + self.dropout(hidden, training=training)
        hidden = self.outer(self.inner(self.before_dense(inputs)))
        return inputs + self.dropout(hidden, training=training)
