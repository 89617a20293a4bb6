"""Loops written by hand for one supervised model, as fast as TensorFlow lets one, for benchmarks/training.py."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf

CHUNK = 64


def ways(model: Any, dataset: tf.data.Dataset, batch: int, rows: int, seconds: float) -> dict[str, Callable[[], float]]:
    """Each a function that trains for a while and gives steps per second."""
    x, y = next(iter(dataset.batch(rows)))
    optimizer = model.optimizer
    model(x[:batch])
    optimizer.build(model.trainable_variables)
    loss_of, metric = model.loss, tf.keras.metrics.SparseCategoricalAccuracy()
    total = tf.Variable(0.0)

    def step(features: tf.Tensor, labels: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            logits = model(features, training=True)
            loss = loss_of(labels, logits)
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        metric.update_state(labels, logits)
        total.assign_add(loss)

    step(x[:batch], y[:batch])
    endless = dataset.shuffle(rows).repeat().batch(batch, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
    iterator = iter(endless)

    @tf.function(autograph=False)
    def loop(it: Any, steps: tf.Tensor) -> None:
        def one(done: tf.Tensor) -> tf.Tensor:
            step(*it.get_next())
            return done + 1

        tf.while_loop(lambda done: done < steps, one, (tf.constant(0),))

    @tf.function(autograph=False, jit_compile=True)
    def program(features: tf.Tensor, labels: tf.Tensor) -> None:
        def one(done: tf.Tensor) -> tf.Tensor:
            step(features[done], labels[done])
            return done + 1

        tf.while_loop(lambda done: done < CHUNK, one, (tf.constant(0),))

    @tf.function(autograph=False)
    def gathered() -> Any:
        places = tf.reshape(tf.random.shuffle(tf.range(rows))[: CHUNK * batch], [-1])
        places = tf.math.floormod(tf.concat([places] * -(-CHUNK * batch // rows), 0)[: CHUNK * batch], rows)
        cut = (tf.gather(one, places) for one in (x, y))
        return [tf.reshape(one, [CHUNK, batch, *one.shape[1:]]) for one in cut]

    def timed(call: Callable[[], None], steps: int) -> Callable[[], float]:
        call()

        def measure() -> float:
            began, done = time.monotonic(), 0
            while time.monotonic() - began < seconds:
                call()
                done += steps
            return done / (time.monotonic() - began)

        return measure

    found = {"loop": timed(lambda: loop(iterator, tf.constant(CHUNK)), CHUNK)}
    if not any("Conv" in type(layer).__name__ for layer in model.layers):  # XLA's are many times slower on a CPU
        found["program"] = timed(lambda: program(*gathered()), CHUNK)
    return found
