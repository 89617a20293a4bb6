"""A subclassed model that holds other models, and the data that this row's examples need besides."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tapeworks import Source, component

_EXPERTS = [{"component": "mlp", "config": {"hidden": [3], "outputs": 2}}] * 2


@component("acme/Mixture", example={"config": {"experts": _EXPERTS}, "inputs": tf.TensorSpec([None, 4])})
class Mixture(keras.Model):
    """Experts, and a gate that says how much of each to believe (Jacobs et al. 1991). They may be mixtures again.

    Takes `(batch, …)`, as the experts do; gives `(batch, outputs)`, the weighted mean of what they give.
    """

    def __init__(self, experts: list[keras.Model], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.experts = list(experts)
        self.flatten = keras.layers.Flatten(name="flatten")
        self.gate = keras.layers.Dense(len(self.experts), activation="softmax", name="gate")

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        weights = self.gate(self.flatten(inputs))
        outputs = tf.stack([expert(inputs, training=training) for expert in self.experts], axis=1)
        return tf.reduce_sum(weights[:, :, tf.newaxis] * outputs, axis=1)


@component("acme/itself", example={"inputs": (tf.TensorSpec([4]), tf.TensorSpec([], tf.int64))})
def itself(x: Any, y: Any) -> Any:
    """The element `(x, x)`: an autoencoder learns its input."""
    return x, x


@component("acme/Visits")
class Visits(Source):
    """Who would like what: x `{"user": the items somebody has seen (any number), "item": one more}`, y 0 or 1.

    Items 0 … 199 are of four tastes, one after the other in turn; somebody has seen items of one of them.
    """

    def __init__(self, size: int = 2000, seed: int = 0) -> None:
        self.size, self.seed = size, seed

    def dataset(self) -> tf.data.Dataset:
        random = np.random.default_rng(self.seed)
        taste, item = random.integers(0, 4, self.size), random.integers(0, 200, self.size)
        lengths = random.integers(1, 12, self.size)
        seen = 4 * random.integers(0, 50, lengths.sum()) + np.repeat(taste, lengths)
        user = tf.RaggedTensor.from_row_lengths(seen.astype(np.int64), lengths)
        liked = (item % 4 == taste).astype(np.float32)[:, np.newaxis]
        rows = tf.data.Dataset.from_tensor_slices((user, item.astype(np.int64), liked))
        return rows.map(lambda user, item, y: ({"user": tf.convert_to_tensor(user), "item": item}, y))
