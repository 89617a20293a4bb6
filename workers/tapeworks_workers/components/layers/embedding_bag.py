"""`embedding_bag`: a set of ids as one vector.

The averaged embeddings of Joulin et al., "Bag of Tricks for Efficient Text Classification" (2016), arXiv:1607.01759.
"""

from __future__ import annotations

from typing import Any, Literal

import keras
import tensorflow as tf

from tapeworks import component

_EXAMPLE = {"config": {"input_dim": 10, "output_dim": 3}, "inputs": tf.SparseTensorSpec([None, None], tf.int64)}


@component("embedding_bag", example=_EXAMPLE)
class EmbeddingBag(keras.layers.Layer):
    """The embeddings of each row's ids, added up or averaged; ids that are not there cost nothing.

    Takes a tf.SparseTensor `(batch, slots)` or a tf.RaggedTensor `(batch, None)` of integers, whose *values* are ids
    in 0 … input_dim - 1 (columns of a SparseTensor only tell ids of one row apart). Gives a dense `(batch, output_dim)`
    in the layer's compute dtype, zeros for a row without ids. Nothing is made dense, and the gradient of the table is a
    tf.IndexedSlices of the rows looked up. An id outside the table is an error on CPU and a zero vector on GPU.

    Args:
        input_dim: how many ids there are.
        output_dim: length of each embedding.
        combiner: `mean`, `sum`, or `sqrtn`, the sum over the root of the number of ids.
        embeddings_regularizer: of the table; it reads all of it, and its gradient is dense.

    Raises ValueError when called with a dense tensor or with ids that are no integers.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        combiner: Literal["mean", "sum", "sqrtn"] = "mean",
        embeddings_regularizer: keras.regularizers.Regularizer | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if input_dim < 1 or output_dim < 1:
            raise ValueError(f"input_dim and output_dim must be 1 or more, not {input_dim} and {output_dim}")
        self.input_dim = input_dim
        self.output_dim = output_dim
        self.combiner = combiner
        self.embeddings_regularizer = embeddings_regularizer

    def build(self, input_shape: Any) -> None:
        if len(input_shape) != 2:
            raise ValueError(f"embedding_bag takes (batch, ids), not {tuple(input_shape)}")
        # Without autocast, since mixed precision would copy the whole table for the few rows that are read.
        self.embeddings = self.add_weight(
            shape=(self.input_dim, self.output_dim),
            initializer="uniform",
            regularizer=self.embeddings_regularizer,
            autocast=False,
            name="embeddings",
        )

    def call(self, inputs: Any) -> Any:
        ids, rows, count = _bags(inputs)
        if not ids.dtype.is_integer:
            raise ValueError(f"embedding_bag takes integer ids, not {ids.dtype.name}")
        found = tf.cast(tf.gather(self.embeddings.value, ids), self.compute_dtype)
        outputs = tf.math.unsorted_segment_sum(found, rows, count)
        if self.combiner == "sum":
            return outputs
        # Counted in float32: float16 has no integers above 2048.
        sizes = tf.math.unsorted_segment_sum(tf.ones(tf.shape(ids), tf.float32), rows, count)
        share = tf.math.divide_no_nan(1.0, sizes if self.combiner == "mean" else tf.sqrt(sizes))
        return outputs * tf.cast(share, outputs.dtype)[:, tf.newaxis]

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (input_shape[0], self.output_dim)


def _bags(inputs: Any) -> tuple[Any, Any, Any]:
    """(ids, the row of each, number of rows)."""
    if isinstance(inputs, tf.SparseTensor):
        return inputs.values, inputs.indices[:, 0], inputs.dense_shape[0]
    if isinstance(inputs, tf.RaggedTensor) and inputs.ragged_rank == 1:
        return inputs.values, inputs.value_rowids(), inputs.nrows()
    raise ValueError(
        f"embedding_bag takes a SparseTensor or RaggedTensor of rank 2, not {type(inputs).__name__} {inputs.shape}"
    )
