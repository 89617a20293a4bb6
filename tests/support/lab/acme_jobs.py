"""Components that admission finds nothing wrong with; some of them fail as jobs."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tapeworks import Callback, Evaluator, TrainingStep, component


@component("jobs/Scaled", example={"inputs": {"a": (None, 3), "b": ((None, 3), "int32")}})
class Scaled(keras.layers.Layer):
    """Right: constants of an inner build, two inputs by name, two outputs."""

    def __init__(self, units: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.norm = keras.layers.Normalization()
        self.out = keras.layers.Dense(units)

    def call(self, x: Any) -> Any:
        return {"out": self.out(self.norm(x["a"])), "ids": x["b"] + 1}


@component("jobs/labels", example={"inputs": (np.ones(3, np.float32), "7")})
def labels(x: Any, y: Any, *, seed: Any) -> Any:
    """Right: text is parsed, what is random comes from the seed."""
    return x + tf.random.stateless_uniform([3], seed), tf.strings.to_number(y, tf.int64)


@component("jobs/Turn", example={"inputs": (np.ones((6, 6, 1), np.float32), 1)})
class Turn:
    """Its generator counts on from pass to pass, and is in no checkpoint."""

    def __init__(self) -> None:
        self.turn = keras.layers.RandomTranslation(0.2, 0.2, fill_mode="constant", seed=1)

    def __call__(self, x: Any, y: Any) -> Any:
        return self.turn(x[None], training=True)[0], y


@component("jobs/Forgets")
class Forgets(Callback):
    """Reads an attribute that it never set."""

    def on_epoch_end(self, epoch: int, logs: Any, run: Any) -> None:
        self.seen.append(logs["loss"])  # the mistake


@component("jobs/Missing")
class Missing(Callback):
    """Needs a metric that only its own jobs have."""

    def on_epoch_end(self, epoch: int, logs: Any, run: Any) -> None:
        assert logs["val_recall"] >= 0.0


@component("jobs/Count")
class Count(Evaluator):
    """Right."""

    def evaluate(self, dataset: Any, run: Any) -> dict[str, float]:
        return {"count": float(sum(len(y) for _, y, *_ in dataset))}


@component("jobs/Moved", example={"y_true": (None, 2), "y_pred": (None, 2)})
class Moved(keras.metrics.Metric):
    """Right: half of the sum of the outputs."""

    def __init__(self, name: str = "moved", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.total = self.add_weight(shape=(), initializer="zeros", name="total")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.total.assign_add(tf.reduce_sum(y_pred))

    def result(self) -> Any:
        return self.total / 2.0


class OneModel(TrainingStep):
    """A classifier's step, written out."""

    models = ("net",)
    optimizers = {"main": ("net",)}  # noqa: RUF012
    losses = ("wrong",)

    def train_step(self, batch: Any, run: Any) -> dict[str, Any]:
        x, y = batch
        with tf.GradientTape() as tape:
            loss = run.losses["wrong"](y, run.models["net"](x, training=True))
        run.minimize("main", loss, tape)
        return {"loss": loss}


@component("jobs/Plain")
class Plain(OneModel):
    """Right."""


@component("jobs/Misspelt")
class Misspelt(OneModel):
    """Calls what a run has not."""

    def train_step(self, batch: Any, run: Any) -> dict[str, Any]:
        return {"loss": run.model(batch[0])}


@component("jobs/Pairs")
class Pairs(OneModel):
    """Right, for data of its own jobs."""

    def train_step(self, batch: Any, run: Any) -> dict[str, Any]:
        return super().train_step((tf.concat([batch[0]["left"], batch[0]["right"]], -1), batch[1]), run)
