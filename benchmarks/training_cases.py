"""The models of benchmarks/training.py: a spec of each, its data, and the same in the usual Keras."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

LOGITS = {"component": "keras/SparseCategoricalCrossentropy", "config": {"from_logits": True}}
ROWS = 6400
COLUMNS = 100_000


def layer(name: str, **config: Any) -> dict[str, Any]:
    return {"component": f"keras/{name}", "config": config}


def sequential(*layers: dict[str, Any]) -> dict[str, Any]:
    return {"component": "sequential", "config": {"layers": list(layers)}}


@dataclass(frozen=True)
class Case:
    """One model and its data."""

    name: str
    batch: int
    model: dict[str, Any]
    write: Callable[[Path], None]
    """Writes data.npz into a folder."""
    usual: Callable[[Path], tuple[Any, keras.Model]]
    """The dataset of single elements, and the compiled model, as one would write them for `fit`."""
    job: dict[str, Any] | None = None
    """Other parts of the spec."""
    source: dict[str, Any] = field(default_factory=lambda: {"component": "arrays", "config": {"files": "data.npz"}})
    batching: str = "batch"

    def spec(self) -> dict[str, Any]:
        """A job that trains until it is stopped."""
        pipeline = [{"op": "shuffle", "buffer_size": ROWS}, {"op": self.batching, "batch_size": self.batch}]
        return {
            "data": {"source": self.source, "pipeline": pipeline},
            **(_supervised(self.model) if self.job is None else self.job),
            "training": {"epochs": 1_000_000, "checkpoint": None},
            "export": None,
        }


def numbers(*shape: int) -> Callable[[Path], None]:
    """Random inputs of a shape, ten classes."""

    def write(folder: Path) -> None:
        random = np.random.default_rng(0)
        x = random.normal(size=(ROWS, *shape)).astype("float32")
        np.savez(folder / "data.npz", x=x, y=random.integers(0, 10, ROWS))

    return write


def slices(folder: Path) -> tf.data.Dataset:
    with np.load(folder / "data.npz") as arrays:
        return tf.data.Dataset.from_tensor_slices((arrays["x"], arrays["y"]))


def same(*layers: dict[str, Any]) -> Callable[[Path], tuple[Any, keras.Model]]:
    """The same Keras layers in `keras.Sequential`, compiled."""
    return lambda folder: (slices(folder), compiled(made(*layers)))


def compiled(model: keras.Model) -> keras.Model:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer="adam", loss=loss, metrics=["sparse_categorical_accuracy"])
    return model


def of_layers(name: str, batch: int, shape: tuple[int, ...], *layers: dict[str, Any]) -> Case:
    return Case(name, batch, sequential(*layers), numbers(*shape), same(*layers))


def mlp(batch: int, inputs: int, *hidden: int, dropout: float | None = None) -> Case:
    layers = [layer("Dense", units=units, activation="relu") for units in hidden]
    if dropout is not None:
        layers = [part for one in layers for part in (one, layer("Dropout", rate=dropout))]
    name = f"MLP {'-'.join(map(str, (inputs, *hidden, 10)))}" + (", dropout" if dropout else "")
    return of_layers(name, batch, (inputs,), *layers, layer("Dense", units=10))


CNN = of_layers(
    "CNN 28×28, dropout", 64, (28, 28, 1),
    layer("Conv2D", filters=16, kernel_size=3, activation="relu"), layer("MaxPooling2D"),
    layer("Conv2D", filters=32, kernel_size=3, activation="relu"), layer("MaxPooling2D"),
    layer("Flatten"), layer("Dropout", rate=0.3), layer("Dense", units=10),
)  # fmt: skip
LSTM = of_layers("LSTM(64) on 50×16", 64, (50, 16), layer("LSTM", units=64), layer("Dense", units=10))


# ── a transformer block ──────────────────────────────────────────────────────────────────────────


def _transformer(folder: Path) -> tuple[Any, keras.Model]:
    inputs = keras.Input((64, 64))
    pooled = keras.layers.GlobalAveragePooling1D()(_block(inputs))
    return slices(folder), compiled(keras.Model(inputs, keras.layers.Dense(10)(pooled)))


def _block(inputs: Any) -> Any:
    attended = keras.layers.MultiHeadAttention(4, 16, dropout=0.1)(inputs, inputs)
    x = keras.layers.LayerNormalization()(inputs + attended)
    wide = keras.layers.Dense(64)(keras.layers.Dense(128, activation="gelu")(x))
    return keras.layers.LayerNormalization()(x + keras.layers.Dropout(0.1)(wide))


def _graph() -> dict[str, Any]:
    def node(name: str, kind: str, given: Any, **config: Any) -> dict[str, Any]:
        return {"name": name, "layer": layer(kind, **config), "from": given}

    nodes = [
        node("attended", "MultiHeadAttention", {"query": "x", "value": "x"}, num_heads=4, key_dim=16, dropout=0.1),
        node("added", "Add", ["x", "attended"]),
        node("normal", "LayerNormalization", "added"),
        node("wide", "Dense", "normal", units=128, activation="gelu"),
        node("narrow", "Dense", "wide", units=64),
        node("dropped", "Dropout", "narrow", rate=0.1),
        node("more", "Add", ["normal", "dropped"]),
        node("again", "LayerNormalization", "more"),
        node("pooled", "GlobalAveragePooling1D", "again"),
        node("classes", "Dense", "pooled", units=10),
    ]
    return {"component": "graph", "config": {"nodes": nodes, "outputs": "classes"}}


# ── a GAN of convolutions ────────────────────────────────────────────────────────────────────────

GENERATOR = (
    layer("Dense", units=7 * 7 * 32, use_bias=False), layer("BatchNormalization"), layer("LeakyReLU"),
    layer("Reshape", target_shape=[7, 7, 32]),
    layer("Conv2DTranspose", filters=16, kernel_size=4, strides=2, padding="same", use_bias=False),
    layer("BatchNormalization"), layer("LeakyReLU"),
    layer("Conv2DTranspose", filters=1, kernel_size=4, strides=2, padding="same", activation="tanh"),
)  # fmt: skip
DISCRIMINATOR = (
    layer("Conv2D", filters=16, kernel_size=4, strides=2, padding="same"), layer("LeakyReLU"),
    layer("Dropout", rate=0.3),
    layer("Conv2D", filters=32, kernel_size=4, strides=2, padding="same"), layer("LeakyReLU"),
    layer("Dropout", rate=0.3), layer("Flatten"), layer("Dense", units=1),
)  # fmt: skip


def made(*layers: dict[str, Any]) -> keras.Sequential:
    return keras.Sequential(
        [getattr(keras.layers, one["component"].removeprefix("keras/"))(**one["config"]) for one in layers]
    )


class Gan(keras.Model):
    """As in Keras' own example of a GAN."""

    def __init__(self) -> None:
        super().__init__()
        self.generator, self.discriminator = made(*GENERATOR), made(*DISCRIMINATOR)
        self.g_optimizer, self.d_optimizer = keras.optimizers.Adam(), keras.optimizers.Adam()
        self.g_loss, self.d_loss = keras.metrics.Mean(name="g_loss"), keras.metrics.Mean(name="d_loss")
        self.bce = keras.losses.BinaryCrossentropy(from_logits=True)
        self.generator.build((None, 32))
        self.discriminator.build((None, 28, 28, 1))
        self.compile()

    def train_step(self, data: Any) -> dict[str, Any]:
        real = data[0]
        count = tf.shape(real)[0]
        fake = self.generator(tf.random.normal([count, 32]), training=True)
        with tf.GradientTape() as tape:
            on_real, on_fake = self.discriminator(real, training=True), self.discriminator(fake, training=True)
            d_loss = self.bce(tf.ones_like(on_real), on_real) + self.bce(tf.zeros_like(on_fake), on_fake)
        variables = self.discriminator.trainable_weights
        self.d_optimizer.apply_gradients(zip(tape.gradient(d_loss, variables), variables, strict=True))
        with tf.GradientTape() as tape:
            judged = self.discriminator(self.generator(tf.random.normal([count, 32]), training=True), training=True)
            g_loss = self.bce(tf.ones_like(judged), judged)
        variables = self.generator.trainable_weights
        self.g_optimizer.apply_gradients(zip(tape.gradient(g_loss, variables), variables, strict=True))
        self.d_loss.update_state(d_loss)
        self.g_loss.update_state(g_loss)
        return {"d_loss": self.d_loss.result(), "g_loss": self.g_loss.result()}


GAN_JOB = {
    "models": {"generator": sequential(*GENERATOR), "discriminator": sequential(*DISCRIMINATOR)},
    "step": {"component": "gan", "config": {"latent_dim": 32}},
    "optimizers": {"generator": "keras/Adam", "discriminator": "keras/Adam"},
    "losses": {"generator": "non_saturating_gan", "discriminator": "non_saturating_gan"},
}


# ── ragged and sparse ────────────────────────────────────────────────────────────────────────────


def _words(folder: Path) -> None:
    """From 5 to 60 word numbers a row, as JSON lines."""
    random = np.random.default_rng(0)
    with (folder / "data.jsonl").open("w") as file:
        for length, label in zip(random.integers(5, 60, ROWS), random.integers(0, 10, ROWS), strict=True):
            words = random.integers(1, 5000, length).tolist()
            file.write(json.dumps({"words": words, "label": int(label)}) + "\n")


def _padded(folder: Path) -> tuple[Any, keras.Model]:
    """`fit` takes no ragged batches: padded and masked."""
    lines = [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]
    x = keras.utils.pad_sequences([line["words"] for line in lines], padding="post")
    model = keras.Sequential(
        [keras.layers.Embedding(5000, 32, mask_zero=True), keras.layers.GlobalAveragePooling1D(),
         keras.layers.Dropout(0.3), keras.layers.Dense(10)]
    )  # fmt: skip
    dataset = tf.data.Dataset.from_tensor_slices((x, np.array([line["label"] for line in lines])))
    return dataset, compiled(model)


def _wide(folder: Path) -> None:
    """A matrix in CSR parts, 20 values a row."""
    random = np.random.default_rng(0)
    columns = np.sort(random.integers(0, COLUMNS // 20, (ROWS, 20)) + np.arange(20) * (COLUMNS // 20), axis=1)
    parts = {
        "x.data": np.ones(ROWS * 20, "float32"),
        "x.indices": columns.ravel(),
        "x.indptr": np.arange(0, ROWS * 20 + 1, 20),
        "x.shape": np.array([ROWS, COLUMNS]),
    }
    np.savez(folder / "data.npz", y=random.integers(0, 10, ROWS), **parts)


def _sparse(folder: Path) -> tuple[Any, keras.Model]:
    with np.load(folder / "data.npz") as arrays:
        rows = np.repeat(np.arange(ROWS), 20)
        indices = np.stack([rows, arrays["x.indices"]], axis=1)
        x = tf.SparseTensor(indices, arrays["x.data"], [ROWS, COLUMNS])
        y = arrays["y"]
    model = keras.Sequential(
        [keras.Input((COLUMNS,), sparse=True), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(10)]
    )
    return tf.data.Dataset.from_tensor_slices((x, y)), compiled(model)


def _supervised(model: dict[str, Any]) -> dict[str, Any]:
    return {"model": model, "optimizer": "keras/Adam", "loss": LOGITS, "metrics": ["keras/SparseCategoricalAccuracy"]}


JSON_LINES = {"component": "jsonl", "config": {"files": "data.jsonl", "features": "words", "labels": "label"}}
BAG = sequential(
    {"component": "embedding_bag", "config": {"input_dim": 5000, "output_dim": 32}}, layer("Dropout", rate=0.3),
    layer("Dense", units=10),
)  # fmt: skip
WIDE = sequential({"component": "sparse_dense", "config": {"units": 8, "activation": "relu"}}, layer("Dense", units=10))
CASES = (
    mlp(32, 64, 64),
    mlp(128, 784, 256, dropout=0.3),
    mlp(256, 256, 512, 512, 256),
    CNN,
    LSTM,
    Case("transformer block, 64×64, dropout", 64, _graph(), numbers(64, 64), _transformer),
    Case("DCGAN 28×28, dropout", 64, {}, numbers(28, 28, 1), lambda folder: (slices(folder), Gan()), job=GAN_JOB),
    Case("ragged words, dropout", 64, BAG, _words, _padded, source=JSON_LINES, batching="ragged_batch"),
    Case(f"sparse, {COLUMNS} columns", 64, WIDE, _wide, _sparse),
)
