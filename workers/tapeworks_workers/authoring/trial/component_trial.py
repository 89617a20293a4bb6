"""Parts of the small jobs in which components are tried: data from an example, and steps that train any model.

This file is loaded as a user's would be, by `tapeworks component test` alone, and goes into the bundles of these jobs.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tapeworks import Source, TrainingStep, component

ELEMENTS: dict[str, Any] = {}
"""Name → a function that makes the dataset of a job; known to the process that runs the job."""


@component("component_trial/Elements")
class Elements(Source):
    """What a component is tried on, element by element."""

    def __init__(self, name: str) -> None:
        self.name = name

    def dataset(self) -> Any:
        return ELEMENTS[self.name]()


@component("component_trial/Batches")
class Batches(Elements):
    """What a component is tried on, batch by batch."""

    batched = True


@component("component_trial/Gain")
class Gain(keras.layers.Layer):  # type: ignore[misc]
    """One factor that is trained: a layer without variables stands in a model that has some."""

    def build(self, shape: Any) -> None:
        self.gain = self.add_weight(name="gain", shape=(), initializer="ones")

    def call(self, x: Any) -> Any:
        return x * tf.cast(self.gain, x.dtype)


@component("component_trial/around", kind="model")
def around(layer: keras.layers.Layer, inputs: Any = None) -> Any:
    """A model of one layer, with a factor that is trained behind each dense output of floats.

    `inputs`: the nest of what it takes, a list for a tuple; leaves as {"shape", "dtype", "sparse", "ragged"}.
    """

    def gained(leaf: Any) -> Any:
        plain = not (getattr(leaf, "sparse", False) or getattr(leaf, "ragged", False))
        return Gain()(leaf) if plain and "float" in str(leaf.dtype) else leaf

    given = _inputs(inputs)
    return keras.Model(given, keras.tree.map_structure(gained, layer(given)))


def _inputs(nest: Any, name: str | None = None) -> Any:
    if isinstance(nest, list):
        return tuple(_inputs(item) for item in nest)
    if set(nest) != {"shape", "dtype", "sparse", "ragged"}:
        return {key: _inputs(item, key) for key, item in nest.items()}
    return keras.Input(
        batch_shape=nest["shape"], dtype=nest["dtype"], sparse=nest["sparse"], ragged=nest["ragged"], name=name
    )


@component("component_trial/Squares")
class Squares(TrainingStep):
    """Makes every float output of the model small, whatever their structure; metrics see y and the outputs."""

    def input_spec(self, role: str, element: Any, models: Any) -> Any:
        return element[0]

    def train_step(self, batch: Any, run: Any) -> dict[str, Any]:
        with tf.GradientTape() as tape:
            loss = self._loss(batch, run, training=True)
        run.minimize("model", loss, tape)
        return {"loss": loss}

    def validation_step(self, batch: Any, run: Any) -> dict[str, Any]:
        return {"loss": self._loss(batch, run, training=False)}

    def _loss(self, batch: Any, run: Any, *, training: bool) -> Any:
        outputs = run.models["model"](batch[0], training=training)
        run.update_metrics("model", batch[1], outputs, None)
        parts = [part for part in tf.nest.flatten(outputs, expand_composites=True) if part.dtype.is_floating]
        squares = [tf.reduce_mean(tf.square(tf.cast(part, tf.float32))) for part in parts]
        return tf.add_n(squares) + tf.cast(run.regularization("model"), tf.float32)


@component("component_trial/Reads")
class Reads(TrainingStep):
    """Reads every batch and reports a sum of what it holds, beside a model of its own."""

    def input_spec(self, role: str, element: Any, models: Any) -> Any:
        return tf.TensorSpec([None, 1], tf.float32)

    def train_step(self, batch: Any, run: Any) -> dict[str, Any]:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(run.models["model"](tf.ones([1, 1]), training=True)))
        run.minimize("model", loss, tape)
        sums = [_sum(part) for part in tf.nest.flatten(batch, expand_composites=True)]
        return {"loss": loss, "sum": tf.add_n(sums)}


def _sum(part: Any) -> Any:
    """A number that differs where the values do."""
    if part.dtype == tf.string:
        part = tf.strings.to_hash_bucket_fast(part, 1 << 20)
    if part.dtype == tf.bool or part.dtype.is_integer:
        part = tf.cast(part, tf.float32) / (1 << 10)
    if part.dtype.is_complex:
        part = tf.abs(part)
    part = tf.reshape(tf.cast(part, tf.float32), [-1])
    return tf.reduce_sum(part * (1.0 + tf.cast(tf.range(tf.size(part)) % 7, tf.float32)))
