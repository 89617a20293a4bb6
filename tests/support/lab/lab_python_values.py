"""Steps, layers, losses and functions of a user that ask Python for a value, each in its own way."""

import datetime
import itertools
import random
import time
import uuid
from random import random as draw
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tapeworks import TrainingStep, component

CALLS = 0
ROWS: list[Any] = []


@component("values/Step")
class ValuesStep(TrainingStep):
    """Trains as it should, and takes one value from Python, `way`."""

    def __init__(self, way: str = "nothing") -> None:
        self.way = way
        self.curve: list[Any] = []
        self.count = 0
        self.shape: Any = None
        self.generator = np.random.default_rng(1) if way == "generator" else None
        self.numbers = itertools.count() if way == "iterator" else None

    def train_step(self, batch: Any, run: Any) -> dict[str, Any]:
        with tf.GradientTape() as tape:
            outputs = run.models["model"](batch[0], training=True)
            loss = tf.reduce_mean(outputs**2) * tf.cast(getattr(self, f"by_{self.way}")(batch[0]), tf.float32)
        run.minimize("model", loss, tape)
        if self.way == "curve":
            self.curve.append(float(loss))  # list
        return {"loss": loss}

    def by_nothing(self, x: Any) -> Any:
        return 1.0

    def by_curve(self, x: Any) -> Any:
        return 1.0

    def by_numpy(self, x: Any) -> Any:
        return np.random.rand()  # here

    def by_numpy_in_a_branch(self, x: Any) -> Any:
        if tf.reduce_sum(x) > 0:
            return tf.cast(np.random.uniform(), tf.float32)  # here
        return 1.0

    def by_python(self, x: Any) -> Any:
        return random.random()  # here

    def by_clock(self, x: Any) -> Any:
        return time.time()  # here

    def by_unique(self, x: Any) -> Any:
        return float(uuid.uuid4().int % 7 + 1)  # here

    def by_imported(self, x: Any) -> Any:
        return draw() * tf.ones([])  # here

    def by_branch(self, x: Any) -> Any:
        return 1.0 if draw() < 2.0 else tf.reduce_sum(x)

    def by_date(self, x: Any) -> Any:
        return tf.ones([]) * datetime.datetime.now().microsecond  # here

    def by_generator(self, x: Any) -> Any:
        return tf.ones([]) * self.generator.normal()  # here

    def by_iterator(self, x: Any) -> Any:
        return tf.ones([]) * float(next(self.numbers) + 1)  # here

    def by_counter(self, x: Any) -> Any:
        self.count += 1  # number
        return 1.0

    def by_module_counter(self, x: Any) -> Any:
        global CALLS
        CALLS += 1  # number
        return 1.0

    def by_module_list(self, x: Any) -> Any:
        ROWS.append(x.shape)  # list
        return 1.0

    # ── what is right ──

    def by_fixed(self, x: Any) -> Any:
        """The same matrix in every trace, on purpose."""
        return float(np.random.default_rng(3).uniform()) + float(np.random.RandomState(3).uniform())

    def by_remembered(self, x: Any) -> Any:
        self.shape = tuple(x.shape)
        self.seen = x.shape[-1]
        return 1.0

    def by_inner_list(self, x: Any) -> Any:
        parts = []
        for index in range(3):
            parts.append(tf.reduce_sum(x) * index)
        self.curve = parts
        return 1.0 + 0.0 * tf.add_n(parts)


@component("values/Noisy", example={"inputs": tf.TensorSpec([None, 4])})
class Noisy(keras.layers.Layer):
    """Noise of the trace."""

    def call(self, x: Any) -> Any:
        return x + np.random.normal(size=4).astype("float32")  # layer


@component("values/Late", example={"inputs": tf.TensorSpec([None, 4])})
class Late(keras.layers.Layer):
    """Asks for the time, to no effect that a reload would show."""

    def call(self, x: Any) -> Any:
        return x + 0.0 * (time.time() % 2.0)


@component("values/Loss")
class Loss(keras.losses.Loss):
    """Smooths by chance."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return keras.ops.mean(keras.ops.square(y_pred), axis=-1) * random.uniform(0.5, 1.5)  # loss


@component("values/Flip", kind="transform")
def flip(x: Any, y: Any) -> Any:
    """Flips all elements or none."""
    return (x[::-1] if np.random.rand() < 0.5 else x), y  # map


@component("values/Counting")
class Counting(keras.layers.Layer):
    """Counts its calls in Python."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.calls = 0

    def call(self, x: Any) -> Any:
        self.calls += 1  # calls
        return x
