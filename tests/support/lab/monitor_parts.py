"""Metrics, an evaluator, a step and a callback with and without declared directions."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tapeworks import Callback, Evaluator, component
from tapeworks_workers.components.steps.supervised import Supervised

LABELS, OUTPUTS = tf.TensorSpec([None], tf.int64), tf.TensorSpec([None, 3], tf.float32)


def _dice(y_true: Any, y_pred: Any) -> Any:
    p, t = tf.nn.softmax(y_pred), tf.one_hot(tf.cast(tf.reshape(y_true, [-1]), tf.int32), 3)
    return 2 * tf.reduce_sum(p * t, -1) / tf.reduce_sum(p + t, -1)


@component("monitored/dice", kind="metric", example={"y_true": LABELS, "y_pred": OUTPUTS})
def dice(y_true: Any, y_pred: Any) -> Any:
    """The Dice coefficient of the softmax; declares no direction."""
    return _dice(y_true, y_pred)


@component("monitored/declared_dice", kind="metric", direction="max")
def declared_dice(y_true: Any, y_pred: Any) -> Any:
    """The same, declared."""
    return _dice(y_true, y_pred)


class _Confidence(keras.metrics.Metric):
    """The mean largest probability, or a dict of several values."""

    def __init__(self, name: str = "confidence", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.sums = self.add_weight(shape=(), initializer="zeros", name="sums")
        self.count = self.add_weight(shape=(), initializer="zeros", name="count")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.sums.assign_add(tf.reduce_sum(tf.reduce_max(tf.nn.softmax(y_pred), -1)))
        self.count.assign_add(tf.cast(tf.shape(y_pred)[0], "float32"))

    def result(self) -> Any:
        return tf.math.divide_no_nan(self.sums, self.count)


@component("monitored/AsKeras")
class AsKeras(_Confidence):
    """Declares its direction as Keras' metrics do."""

    def __init__(self, name: str = "as_keras", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self._direction = "up"


@component("monitored/Psnr", direction="max")
class Psnr(_Confidence):
    """A class with the direction beside its name."""


@component("monitored/Both", direction={"high": "max", "low": "min"})
class Both(_Confidence):
    """A dict result, a direction for each key but one."""

    def result(self) -> Any:
        value = super().result()
        return {"high": value, "low": 1 - value, "other": value}


@component("monitored/At")
class At(_Confidence):
    """A vector named like the start of another metric's."""

    def __init__(self, name: str = "as_keras_at", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self._direction = "down"

    def result(self) -> Any:
        return tf.stack([super().result(), super().result()])


@component("monitored/Values")
class Values(Evaluator):
    """One value with a direction and one without."""

    def __init__(self) -> None:
        self.directions = {"area": "max"}

    def evaluate(self, dataset: Any, run: Any) -> dict[str, float]:
        return {"area": float(run.step), "volume": 1.0}


@component("monitored/Step")
class Step(Supervised):
    """Returns scalars of its own."""

    directions = {"share": "max"}  # noqa: RUF012  # a declaration

    def train_step(self, batch: Any, run: Any) -> dict[str, Any]:
        found = super().train_step(batch, run)
        return {**found, "share": tf.constant(0.5), "size": tf.constant(2.0)}


@component("monitored/Asks")
class Asks(Callback):
    """A user's own callback with a monitor."""

    def __init__(self, monitor: str, mode: str = "auto") -> None:
        self.monitor, self.mode = monitor, mode

    def build(self, run: Any) -> None:
        self.rising = run.direction(self.monitor, self.mode) == "max"

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float], run: Any) -> None:
        run.artifact(f"asked-{epoch}.txt").write_text(str(self.rising))


@component("monitored/Wrong")
class Wrong(Evaluator):
    """Declares no direction that there is."""

    directions = {"area": "up"}  # type: ignore[dict-item]  # noqa: RUF012

    def evaluate(self, dataset: Any, run: Any) -> dict[str, float]:
        return {"area": float(np.pi)}
