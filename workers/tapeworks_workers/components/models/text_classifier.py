"""`text_classifier`: sentences of any length, as a bag of their words.

The average is that of Joulin et al., "Bag of Tricks for Efficient Text Classification" (2016), arXiv:1607.01759; the
attention that of Yang et al., "Hierarchical Attention Networks for Document Classification" (NAACL 2016),
https://aclanthology.org/N16-1174, equations 5 to 7.
"""

from __future__ import annotations

from typing import Any, Literal

import keras
import tensorflow as tf

from tapeworks import component

_EXAMPLE = {
    "config": {"outputs": 3, "vocabulary_size": 4, "dimension": 2, "pooling": "attention"},
    "inputs": tf.RaggedTensorSpec([None, None], tf.int64),
}
_PUNCTUATION = r"[^\pL\pN\s]"


@component("text_classifier", example=_EXAMPLE)
class TextClassifier(keras.Model):
    """Embedded words, pooled over each sentence, dense layers, logits. Nothing is padded.

    With `vocabulary_size`, takes ids 0 … vocabulary_size - 1: a RaggedTensor `(batch, None)`, or a dense
    `(batch, n)` where every id counts. With `vocabulary`, takes strings: whole sentences `(batch,)` or `(batch, 1)`,
    which are lowered, freed of punctuation and split at white space, or words as a RaggedTensor `(batch, None)`, taken
    as they are; a word that is not in the vocabulary has an embedding that all such words share. Gives
    `(batch, outputs)` in the compute dtype. A sentence without words is pooled to zeros.

    Args:
        outputs: how many logits.
        vocabulary_size: how many ids there are; give this or `vocabulary`.
        vocabulary: the words; it is saved with the model, which then takes raw text.
        dimension: of each word's embedding.
        pooling: "mean", or "attention", which weighs each word by what it says.
        hidden: units of the dense layers; None: none.
        activation: Keras' name, after the hidden layers.
        dropout: rate before each dense layer.

    Raises ValueError where neither or both of `vocabulary_size` and `vocabulary` are given, or the inputs are of
    another dtype or rank.
    """

    def __init__(
        self,
        outputs: int,
        vocabulary_size: int | None = None,
        vocabulary: list[str] | None = None,
        dimension: int = 64,
        pooling: Literal["mean", "attention"] = "mean",
        hidden: list[int] | None = None,
        activation: str = "relu",
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if (vocabulary_size is None) == (vocabulary is None):
            raise ValueError("text_classifier takes either vocabulary_size (for ids) or vocabulary (for text)")
        self.lookup: Any = None
        if vocabulary is not None:
            self.lookup = keras.layers.StringLookup(vocabulary=list(vocabulary), name="lookup")
            vocabulary_size = self.lookup.vocabulary_size()
        self.words, self.dimension, self.attention = vocabulary_size, dimension, pooling == "attention"
        policy = self.dtype_policy
        self.dropout = keras.layers.Dropout(dropout, dtype=policy, name="dropout")
        self.hidden = [
            keras.layers.Dense(units, activation=activation, dtype=policy, name=f"hidden_{index}")
            for index, units in enumerate(hidden or [], start=1)
        ]
        self.logits = keras.layers.Dense(outputs, dtype=policy, name="logits")

    def build(self, input_shape: Any) -> None:
        if not 1 <= len(input_shape) <= 2:
            raise ValueError(f"text_classifier takes (batch, words), or sentences (batch,), not {tuple(input_shape)}")
        # Without autocast, since mixed precision would copy the whole table for the few rows that are read.
        self.embeddings = self.add_weight(
            shape=(self.words, self.dimension), initializer="uniform", autocast=False, name="embeddings"
        )
        if self.attention:
            self.scoring = keras.layers.Dense(
                self.dimension, activation="tanh", dtype=self.dtype_policy, name="scoring"
            )
            self.scoring.build((None, self.dimension))
            self.context = self.add_weight(shape=(self.dimension,), initializer="random_normal", name="context")
        width = self.dimension
        for layer in [*self.hidden, self.logits]:
            layer.build((None, width))
            width = layer.units

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        ids = self._ids(inputs)
        rows, count = ids.value_rowids(), ids.nrows()
        words = tf.cast(tf.gather(self.embeddings.value, ids.values), self.compute_dtype)
        hidden = self._attended(words, rows, count) if self.attention else _mean(words, rows, count)
        for layer in [*self.hidden, self.logits]:
            hidden = layer(self.dropout(hidden, training=training))
        return hidden

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (input_shape[0], self.logits.units)

    def _ids(self, inputs: Any) -> tf.RaggedTensor:
        text = inputs.dtype == tf.string
        if text != (self.lookup is not None):
            given = "vocabulary" if self.lookup is not None else "vocabulary_size"
            raise ValueError(
                f"text_classifier with {given} was given {inputs.dtype.name}: ids are integers, text strings"
            )
        if not text and not inputs.dtype.is_integer:
            raise ValueError(f"text_classifier takes integer ids, not {inputs.dtype.name}")
        if text and not isinstance(inputs, tf.RaggedTensor):
            lowered = tf.strings.lower(tf.reshape(inputs, [-1]), encoding="utf-8")
            inputs = tf.strings.split(tf.strings.regex_replace(lowered, _PUNCTUATION, ""))
        elif not isinstance(inputs, tf.RaggedTensor):
            inputs = tf.RaggedTensor.from_tensor(inputs)
        return inputs.with_values(self.lookup(inputs.values)) if text else inputs

    def _attended(self, words: Any, rows: Any, count: Any) -> Any:
        scores = tf.tensordot(self.scoring(words), tf.convert_to_tensor(self.context), 1)
        highest = tf.math.unsorted_segment_max(tf.stop_gradient(scores), rows, count)
        weights = tf.exp(scores - tf.gather(highest, rows))
        total = tf.gather(tf.math.unsorted_segment_sum(weights, rows, count), rows)
        return tf.math.unsorted_segment_sum((weights / total)[:, tf.newaxis] * words, rows, count)


def _mean(words: Any, rows: Any, count: Any) -> Any:
    total = tf.math.unsorted_segment_sum(words, rows, count)
    # Counted in float32: float16 has no integers above 2048.
    sizes = tf.math.unsorted_segment_sum(tf.ones(tf.shape(rows), tf.float32), rows, count)
    return total * tf.cast(tf.math.divide_no_nan(1.0, sizes), total.dtype)[:, tf.newaxis]
