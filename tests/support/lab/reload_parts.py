"""Layers, cells and models that make other layers in each place where Keras lets them."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from tapeworks import Source, component


@component("parts/Chain", example={"inputs": tf.TensorSpec([None, 4], tf.float32)})
class Chain(layers.Layer):
    """Makes its layers itself, without a dtype for them."""

    def __init__(self, units: int = 4, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.one = layers.Dense(units, activation="tanh", kernel_initializer="identity")
        self.two = layers.Dense(units, kernel_initializer="identity")

    def call(self, x: Any) -> Any:
        return self.two(self.one(x))

    def compute_output_shape(self, shape: Any) -> Any:
        return shape


@component("parts/Block", example={"inputs": tf.TensorSpec([None, 4], tf.float32)})
class Block(Chain):
    """A sum, which fails where its layers come back in another dtype."""

    def call(self, x: Any) -> Any:
        return x + super().call(x)


@component("parts/Lazy")
class Lazy(layers.Layer):
    """Makes layers in `build`, and builds one of them only."""

    def build(self, shape: Any) -> None:
        self.one = layers.Dense(shape[-1])
        self.one.build(shape)
        self.made = layers.Dense(4)

    def call(self, x: Any) -> Any:
        return self.made(self.one(x)) + keras.ops.cast(keras.ops.ones((4,)), self.compute_dtype)


@component("parts/Plain")
class Plain(layers.Layer):
    """Config and rebuilding of its own, without a dtype or a name."""

    def __init__(self, units: int = 4) -> None:
        super().__init__()
        self.units, self.one = units, layers.Dense(units)

    def build(self, shape: Any) -> None:
        self.one.build(shape)
        self.scale = self.add_weight(shape=(self.units,), initializer="ones")

    def call(self, x: Any) -> Any:
        return self.one(x) * self.scale

    def get_config(self) -> dict[str, Any]:
        return {"units": self.units}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        return cls(**config)


@component("parts/Apart")
class Apart(layers.Layer):
    """Gives its dtype to one inner layer; the other has the job's."""

    def __init__(self, dtype: str = "bfloat16") -> None:
        super().__init__()
        self.low, self.own = layers.Dense(4, dtype=dtype), Chain(4)

    def call(self, x: Any) -> Any:
        return keras.ops.cast(self.low(x), self.compute_dtype) + self.own(x)


@component("parts/Cell")
class Cell(layers.Layer):
    """The cell of an RNN; `build` leaves a layer inside unbuilt."""

    def __init__(self, units: int = 4, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = self.state_size = units
        self.gate, self.candidate = layers.Dense(units, activation="sigmoid"), Chain(units)

    def build(self, shape: Any) -> None:
        self.gate.build((shape[0], shape[-1] + self.units))
        self.kernel = self.add_weight(shape=(shape[-1], self.units), initializer="glorot_uniform")

    def call(self, x: Any, states: Any) -> Any:
        state = states[0]
        gate = self.gate(keras.ops.concatenate([x, state], -1))
        new = gate * state + (1 - gate) * self.candidate(x @ self.kernel + state)
        return new, [new]


@keras.saving.register_keras_serializable("parts")
class Helper(layers.Layer):
    """Registered with Keras by its author, and no component."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inner = layers.Dense(4)

    def call(self, x: Any) -> Any:
        return x + self.inner(x)


@component("parts/everything", kind="model")
def everything() -> keras.Model:
    """All of them, some in Keras' wrappers and one in two places."""
    x = keras.Input((5, 4), name="x")
    h = layers.Bidirectional(layers.RNN(Cell(2), return_sequences=True))(layers.TimeDistributed(Block())(x))
    shared = Chain(4, dtype="float32")
    h = shared(Plain(4)(Lazy()(layers.RNN(Cell(4))(h))))
    return keras.Model(x, layers.Dense(3)(Apart()(Helper()(shared(h)))))


@component("parts/stateful", kind="model", example={"inputs": tf.TensorSpec([8, 5, 2], tf.float32)})
def stateful(batch: int = 8) -> keras.Model:
    """A stateful LSTM whose batch size is said."""
    x = keras.Input(batch_shape=(batch, 5, 2), name="x")
    h = layers.LSTM(3, stateful=True, kernel_initializer="ones", recurrent_initializer="ones")(x)
    return keras.Model(x, layers.Dense(1, kernel_initializer="ones")(h))


@component("parts/Stateful", example={"inputs": tf.TensorSpec([8, 5, 2], tf.float32)})
class Stateful(keras.Model):
    """Stateful layers of a subclassed model, which says no batch size."""

    def __init__(self) -> None:
        super().__init__()
        ones = {"stateful": True, "kernel_initializer": "ones", "recurrent_initializer": "ones"}
        self.rnn = layers.Bidirectional(layers.GRU(3, **ones))
        self.out = layers.Dense(1, kernel_initializer="ones")

    def call(self, x: Any) -> Any:
        return self.out(self.rnn(x))


@component("parts/Series")
class Series(Source):
    """Series of five pairs, and a number for each."""

    def __init__(self, size: int = 44) -> None:
        self.size = size

    def dataset(self) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices(series(self.size))


def series(size: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.RandomState(0)
    return random.normal(size=(size, 5, 2)).astype("float32"), random.normal(size=(size, 1)).astype("float32")
