"""`two_tower`: users and items as vectors of one space.

Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations" (RecSys 2019),
https://doi.org/10.1145/3298689.3346996; the averaged ids are those of Covington et al., "Deep Neural Networks for
YouTube Recommendations" (RecSys 2016).
"""

from __future__ import annotations

from typing import Any, Literal

import keras
import tensorflow as tf

from tapeworks import component

_EXAMPLE = {
    "config": {
        "ids": {"user": 4, "item": 4},
        "item_features": ["item", "genres"],
        "dimension": 2,
        "hidden": [3],
    },
    "inputs": {
        "user": tf.RaggedTensorSpec([None, None], tf.int64),
        "item": tf.TensorSpec([None], tf.int32),
        "genres": tf.SparseTensorSpec([None, 5], tf.float32),
    },
}


@component("two_tower", example=_EXAMPLE)
class TwoTower(keras.Model):
    """Each tower turns its features into one vector; their product is the score.

    Takes a dict. A feature of `ids` holds integers below its number: `(batch,)`, `(batch, n)`, a RaggedTensor
    `(batch, None)` or a SparseTensor whose values are ids; several of one row are averaged, none gives zeros. Any other
    feature holds numbers: `(batch,)`, `(batch, n)`, or a SparseTensor `(batch, n)`, which never becomes dense; it goes
    through a linear layer. Gives the score `(batch, 1)`, a logit, or a dict {"score", "user", "item"} with the vectors
    `(batch, dimension)` too, all in the compute dtype. Other keys of the dict are left alone.

    Args:
        ids: feature → how many ids it has.
        user_features: keys of the user's tower; None: "user".
        item_features: keys of the item's; None: "item".
        dimension: of the vectors, and of each feature's embedding.
        hidden: units of each tower's dense layers; None: none.
        activation: Keras' name, after the hidden layers.
        normalize: vectors of length 1, so that the score is their cosine.
        temperature: the score is divided by it.
        outputs: "score", or "all".

    Raises ValueError where a feature is missing, or numbers have no known length.
    """

    def __init__(
        self,
        ids: dict[str, int],
        user_features: list[str] | None = None,
        item_features: list[str] | None = None,
        dimension: int = 32,
        hidden: list[int] | None = None,
        activation: str = "relu",
        normalize: bool = False,
        temperature: float = 1.0,
        outputs: Literal["score", "all"] = "score",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, not {temperature}")
        features = {"user": user_features or ["user"], "item": item_features or ["item"]}
        self.dimension, self.temperature, self.normalize = dimension, temperature, normalize
        self.all_outputs = outputs == "all"
        policy = self.dtype_policy
        unknown = set(ids) - {key for keys in features.values() for key in keys}
        if unknown:
            raise ValueError(f"ids names {sorted(unknown)}, which are features of neither tower")
        self.user = _Tower(features["user"], ids, dimension, hidden or [], activation, dtype=policy, name="user")
        self.item = _Tower(features["item"], ids, dimension, hidden or [], activation, dtype=policy, name="item")

    def build(self, input_shape: Any) -> None:
        self.user.build(input_shape)
        self.item.build(input_shape)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        user, item = self.user(inputs), self.item(inputs)
        if self.normalize:
            user, item = tf.math.l2_normalize(user, -1), tf.math.l2_normalize(item, -1)
        score = tf.reduce_sum(user * item, axis=-1, keepdims=True) / self.temperature
        return {"score": score, "user": user, "item": item} if self.all_outputs else score

    def compute_output_shape(self, input_shape: Any) -> Any:
        shapes = {"score": (None, 1), "user": (None, self.dimension), "item": (None, self.dimension)}
        return shapes if self.all_outputs else shapes["score"]


class _Tower(keras.layers.Layer):
    """The features side by side, then dense layers."""

    def __init__(
        self,
        features: list[str],
        ids: dict[str, int],
        dimension: int,
        hidden: list[int],
        activation: str,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.features, self.ids, self.dimension = list(features), dict(ids), dimension
        policy = self.dtype_policy
        self.hidden = [
            keras.layers.Dense(units, activation=activation, dtype=policy, name=f"hidden_{index}")
            for index, units in enumerate(hidden, start=1)
        ]
        self.vector = keras.layers.Dense(dimension, dtype=policy, name="vector")

    def build(self, input_shape: Any) -> None:
        self.tables = []
        for key in self.features:
            if key not in input_shape:
                raise ValueError(f"two_tower has no feature {key!r}; x holds {sorted(input_shape)}")
            shape = tuple(input_shape[key])
            rows = self.ids.get(key, 1 if len(shape) == 1 else shape[-1])
            if rows is None:
                raise ValueError(f"{key!r} has no known length: name it in ids, or give numbers (batch, n)")
            # Without autocast, since mixed precision would copy the whole table for the few rows that are read.
            initializer = "uniform" if key in self.ids else "glorot_uniform"
            table = self.add_weight(
                shape=(rows, self.dimension), initializer=initializer, autocast=False, name=f"{key}_table"
            )
            self.tables.append(table)
        width = len(self.features) * self.dimension
        for layer in [*self.hidden, self.vector]:
            layer.build((None, width))
            width = layer.units

    def call(self, inputs: Any) -> Any:
        embedded = [
            self._embedded(inputs[key], key, table) for key, table in zip(self.features, self.tables, strict=True)
        ]
        hidden = tf.concat(embedded, axis=-1)
        for layer in [*self.hidden, self.vector]:
            hidden = layer(hidden)
        return hidden

    def _embedded(self, values: Any, key: str, table: Any) -> Any:
        if key in self.ids:
            return self._mean_of_ids(values, table.value)
        if isinstance(values, tf.SparseTensor):
            rows = tf.cast(tf.gather(table.value, values.indices[:, 1]), self.compute_dtype)
            weighted = tf.cast(values.values, self.compute_dtype)[:, tf.newaxis] * rows
            return tf.math.unsorted_segment_sum(weighted, values.indices[:, 0], values.dense_shape[0])
        matrix = values[:, tf.newaxis] if values.shape.rank == 1 else values
        return tf.matmul(tf.cast(matrix, self.compute_dtype), tf.cast(table.value, self.compute_dtype))

    def _mean_of_ids(self, ids: Any, table: Any) -> Any:
        if isinstance(ids, tf.SparseTensor):
            values, rows, count = ids.values, ids.indices[:, 0], ids.dense_shape[0]
        elif isinstance(ids, tf.RaggedTensor):
            values, rows, count = ids.values, ids.value_rowids(), ids.nrows()
        else:
            found = tf.cast(tf.gather(table, ids), self.compute_dtype)
            return found if ids.shape.rank == 1 else tf.reduce_mean(found, axis=1)
        found = tf.math.unsorted_segment_sum(tf.gather(table, values), rows, count)
        sizes = tf.math.unsorted_segment_sum(tf.ones(tf.shape(values), found.dtype), rows, count)
        return tf.cast(tf.math.divide_no_nan(found, sizes[:, tf.newaxis]), self.compute_dtype)
