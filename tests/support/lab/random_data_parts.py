"""Data functions and sources of a user that draw random numbers, and some that keep state."""

import itertools
import random
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tapeworks import Callback, Evaluator, Source, component


@component("dice/Pictures")
class Pictures(Source):
    """Pictures of one number each, in an order or with noise that `form` says."""

    def __init__(self, size: int = 23, form: str = "plain") -> None:
        self.size, self.form = size, form
        self.passes = itertools.count()
        self.own = np.random.default_rng()

    def dataset(self) -> tf.data.Dataset:
        x = np.broadcast_to(np.arange(self.size, dtype="float32").reshape(-1, 1, 1, 1) + 1, (self.size, 4, 4, 1))
        y = np.arange(self.size) % 3
        if self.form == "noise":
            noise = np.random.rand(*x.shape) + self.own.normal(size=x.shape) + random.random()
            return tf.data.Dataset.from_tensor_slices(
                (x + noise.astype("float32") + tf.random.normal(x.shape) + keras.random.normal(x.shape), y)
            )
        if self.form == "generator":

            def elements() -> Any:
                shift = np.sin(1.3 * next(self.passes), dtype="float32")
                return ((one + shift, label) for one, label in zip(x, y, strict=True))

            signature = (tf.TensorSpec([4, 4, 1], tf.float32), tf.TensorSpec([], tf.int64))
            return tf.data.Dataset.from_generator(elements, output_signature=signature)
        plain = tf.data.Dataset.from_tensor_slices((x, y))
        match self.form:
            case "shuffled":
                return plain.shuffle(100)
            case "shuffled with a seed":
                return plain.shuffle(100, seed=5)
            case "shuffled once":
                return plain.shuffle(100, seed=5, reshuffle_each_iteration=False)
            case "shuffled below a cache":
                return plain.shuffle(100).cache()
            case "shuffled above a cache":
                return plain.cache().shuffle(100)
            case "a generator of random numbers":
                drawn = tf.random.Generator.from_seed(3)
                return plain.map(lambda a, b: (a + drawn.normal([4, 4, 1]), b))
        return plain


@component("dice/Translate")
class Translate:
    """Keras' own random layers."""

    def __init__(self, seed: int | None = 1) -> None:
        self.turn = keras.layers.RandomTranslation(0.3, 0.3, fill_mode="constant", seed=seed)
        self.drop = keras.layers.Dropout(0.5, seed=seed)

    def __call__(self, x: Any, y: Any) -> Any:
        return self.drop(self.turn(x[None], training=True)[0], training=True), y


@component("dice/Generated")
class Generated:
    """Draws from a generator of TensorFlow, twice."""

    def __init__(self) -> None:
        self.generator = tf.random.Generator.from_seed(3, alg="philox")

    def __call__(self, x: Any, y: Any) -> Any:
        return x + self.generator.normal([4, 4, 1]) + self.generator.uniform(tf.shape(x)), y


@component("dice/augmented")
def augmented(x: Any, y: Any) -> Any:
    """TensorFlow's and Keras' functions, with and without a seed."""
    x = tf.image.random_flip_left_right(x)
    x = tf.image.random_brightness(x, 0.3, seed=4)
    x = tf.random.shuffle(x) + tf.random.normal([4, 4, 1]) + tf.random.truncated_normal([4, 4, 1])
    return x + keras.random.normal((4, 4, 1)) + tf.cast(tf.random.uniform([], 0, 9, tf.int32), tf.float32), y


@component("dice/noisy")
def noisy(x: Any, y: Any) -> Any:
    """Noise of any shape, for batches."""
    return x + keras.random.normal(tf.shape(x)), y


@component("dice/sometimes")
def sometimes(x: Any, y: Any) -> Any:
    """Draws inside a condition."""
    return tf.cond(tf.random.uniform([]) < 0.5, lambda: x + tf.random.uniform([4, 4, 1]), lambda: x), y


@component("dice/kept")
def kept(x: Any, y: Any) -> Any:
    """Most elements."""
    return tf.random.uniform([]) < 0.8


@component("dice/both")
def both(x: Any, y: Any, seed: Any) -> Any:
    """Draws from the seed it is given, and beside it."""
    return x + tf.random.stateless_normal([4, 4, 1], seed) + keras.random.normal((4, 4, 1)), y


@component("dice/shuffled", kind="dataset_function")
def shuffled(dataset: Any) -> Any:
    """Shuffles, without taking a seed."""
    return dataset.shuffle(100)


@component("dice/looped")
def looped(x: Any, y: Any) -> Any:
    """Draws in a loop."""
    return tf.map_fn(lambda row: row + keras.random.normal((4, 1)), x), y


@component("dice/Counting")
class Counting:
    """Counts elements in a variable."""

    def __init__(self) -> None:
        self.seen = tf.Variable(0.0, name="seen")

    def __call__(self, x: Any, y: Any) -> Any:
        return x + self.seen.assign_add(1.0), y


@component("dice/Numbering")
class Numbering:
    """Gives numbers to values as they come, in a table."""

    def __init__(self) -> None:
        self.table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.int64, 0)

    def __call__(self, x: Any, y: Any) -> Any:
        y = tf.cast(y, tf.int64)
        self.table.insert(y, self.table.size())
        return x, y


@component("dice/in_python")
def in_python(x: Any, y: Any) -> Any:
    """Runs in Python."""
    return tf.ensure_shape(tf.numpy_function(lambda one: one, [x], tf.float32), x.shape), y


@component("dice/Inside", kind="dataset_function")
class Inside:
    """Maps a layer by itself."""

    def __init__(self) -> None:
        self.translate = Translate()

    def __call__(self, dataset: Any) -> Any:
        return dataset.map(self.translate)


@component("dice/Filed", kind="dataset_function")
class Filed:
    """Caches in a file."""

    def __init__(self, file: str) -> None:
        self.file = file

    def __call__(self, dataset: Any) -> Any:
        return dataset.cache(self.file)


@component("dice/Looking")
class Looking:
    """Reads a table and a variable, and changes neither."""

    def __init__(self) -> None:
        self.lookup = keras.layers.IntegerLookup(vocabulary=[0, 1, 2], num_oov_indices=0)
        self.scale = keras.layers.Normalization(mean=1.0, variance=4.0)

    def __call__(self, x: Any, y: Any) -> Any:
        return self.scale(x), self.lookup(y)


@component("dice/Calls")
class Calls(Evaluator):
    """Counts its calls in an attribute."""

    def __init__(self) -> None:
        self.calls = 0

    def evaluate(self, dataset: Any, run: Any) -> dict[str, float]:
        self.calls += 1
        return {"calls": float(self.calls)}


@component("dice/Waiting")
class Waiting(Callback):
    """Keeps how long it waits in an attribute; tells a checkpoint of it or does not."""

    def __init__(self, told: bool = False) -> None:
        self.told = told
        self.waited = 0

    def on_epoch_end(self, epoch: int, logs: Any, run: Any) -> None:
        self.waited += 1

    def state(self) -> dict[str, Any]:
        return {"waited": self.waited} if self.told else {}

    def load(self, state: Any) -> None:
        self.waited = state.get("waited", 0)


@component("dice/Counter")
class Counter(Callback):
    """Keeps its count to itself."""

    def __init__(self) -> None:
        self.seen = 0
        self.best = float("inf")
        self.factor = 0.5
        self.own = np.random.default_rng()

    def on_epoch_end(self, epoch: int, logs: Any, run: Any) -> None:
        self.seen += 1
        self.best = min(self.best, logs["loss"])
