"""Components that act between epochs, and a step that goes wrong where its trainer can see it."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tapeworks import Callback, Evaluator, Source, TrainingStep, component


@component("lab/Returns")
class Returns(Evaluator):
    """Returns one thing or another, and counts how often it was asked."""

    def __init__(self, what: str = "count", name: str = "answer") -> None:
        self.what, self.name, self.count = what, name, 0

    def evaluate(self, dataset: Any, run: Any) -> dict[str, Any]:
        self.count += 1
        size, order = 0, 0.0
        for batch in dataset:
            rows = tf.nest.flatten(batch[0])[0]
            size, order = size + len(rows), order + size * float(tf.reduce_sum(rows[0]))
        answers: dict[str, Any] = {
            "count": lambda: float(self.count),
            "size": lambda: np.int64(size),
            "tensor": lambda: tf.constant(2.5),
            "order": lambda: order,
            "inputs": lambda: float(len(dataset.element_spec[0])),
            "nan": lambda: float("nan"),
            "text": lambda: "three",
            "vector": lambda: [1.0, 2.0],
            "weight": lambda: float(tf.reduce_sum(run.models["model"].weights[0])),
            "step": lambda: float(run.training_step.at),
        }
        return 3.0 if self.what == "number" else {self.name: answers[self.what]()}  # type: ignore[return-value]


@component("lab/Shuffled", kind="dataset_function")
def shuffled(dataset: Any) -> Any:
    """Another order in each pass."""
    return dataset.shuffle(100)


@component("lab/Diary")
class Diary(Callback):
    """Writes what it is told to a file, remembers the epochs it saw, may stop the training."""

    def __init__(self, stop_at: int | None = None, remembers: str = "epochs") -> None:
        self.stop_at, self.remembers = stop_at, remembers
        self.epochs: list[int] = []

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float], run: Any) -> None:
        self.epochs.append(epoch)
        run.artifact(f"diary/epoch-{epoch}.txt").write_text(f"{sorted(logs)}")
        if epoch == self.stop_at:
            run.stop("it is enough")

    def on_report(self, step: int, logs: Mapping[str, float], run: Any) -> None:
        with run.artifact("diary/reports.txt").open("a") as file:
            file.write(f"{step} {sorted(logs)}\n")

    def state(self) -> dict[str, Any]:
        return {"epochs": self.epochs if self.remembers == "epochs" else {1, 2}}

    def load(self, state: Mapping[str, Any]) -> None:
        self.epochs = list(state["epochs"])


@component("lab/Artist")
class Artist(Callback):
    """Leaves an image of the first layer's weights each epoch."""

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float], run: Any) -> None:
        weights = run.models["model"].weights[0].value
        image = tf.cast(255 * tf.sigmoid(weights), tf.uint8)[..., None]
        run.artifact(f"weights/epoch-{epoch:03d}.png").write_bytes(tf.io.encode_png(image).numpy())


@component("lab/Does")
class Does(Callback):
    """Calls one method of the run with what it is given."""

    def __init__(self, method: str, arguments: list[Any], at: str = "epoch") -> None:
        self.method, self.arguments = method, arguments

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float], run: Any) -> None:
        getattr(run, self.method)(*self.arguments)


@component("lab/Fills")
class Fills(Callback):
    """Writes files of a size."""

    def __init__(self, size: int) -> None:
        self.size = size

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float], run: Any) -> None:
        run.artifact(f"{epoch}.bin").write_bytes(bytes(self.size))


@component("lab/LogOfNegative")
class LogOfNegative(TrainingStep):
    """The logarithm of what becomes negative at a step."""

    def __init__(self, at: int = 137) -> None:
        self.at = at

    def build(self, run: Any) -> None:
        self.seen = tf.Variable(0, dtype=tf.int64, trainable=False)

    def train_step(self, batch: Any, run: Any) -> dict[str, Any]:
        x, _ = batch
        self.seen.assign_add(tf.shape(x, tf.int64)[0])
        left = tf.cast(self.at - 1 - run.step, tf.float32) - 0.5
        with tf.GradientTape() as tape:
            outputs = run.models["model"](x, training=True)
            loss = tf.reduce_mean(outputs**2) + 1e-3 * tf.reduce_mean(outputs) * tf.math.log(left)
        run.minimize("model", loss, tape)
        return {"loss": loss}


@component("lab/NoValidation")
class NoValidation(TrainingStep):
    """Trains, and says nothing of a validation batch."""

    at = 7

    def train_step(self, batch: Any, run: Any) -> dict[str, Any]:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(run.models["model"](batch[0], training=True) ** 2)
        run.minimize("model", loss, tape)
        return {"loss": loss}


@component("lab/Reaching")
class Reaching(TrainingStep):
    """Asks inside its trace for what is there between epochs only."""

    def train_step(self, batch: Any, run: Any) -> dict[str, Any]:
        run.artifact("from-a-step.txt")
        return {"loss": keras.ops.mean(batch[0])}


@component("lab/Described")
class Described(Source):
    """44 sentences with a height each, and a class of three; the last heights are what `last` says."""

    def __init__(self, size: int = 44, last: str = "1.7") -> None:
        self.size, self.last = size, float(last)

    def dataset(self) -> tf.data.Dataset:
        random = np.random.RandomState(5)
        words = np.array([b"red green", b"red blue", b"red red red", b"green", b"blue green red"])
        heights = random.normal(170, 10, size=(self.size, 1)).astype("float32")
        heights[-8:] = self.last
        named = {"words": words[random.randint(0, 5, self.size)], "height": heights}
        return tf.data.Dataset.from_tensor_slices((named, random.randint(0, 3, self.size)))
