"""Values of y for which a loss is not defined: a binary cross-entropy over labels 1 and 2 falls below zero and trains.

The smallest and largest y that counted are kept on the device and read with every report, as in label_ranges.py. What
counts are examples and steps whose sample weight and mask are not zero: a y that stands for nothing may be anything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

from tapeworks.errors import FailureCode, JobFailure, Location
from tapeworks_workers.engine.data.checks.label_ranges import takes_labels
from tapeworks_workers.engine.diagnostics.example_mixing import declared
from tapeworks_workers.engine.diagnostics.retracing import Note
from tapeworks_workers.engine.graph.autograph import outside_trace, peek

_CERTAIN = {keras.losses.BinaryCrossentropy: (0.0, 1.0), keras.losses.BinaryFocalCrossentropy: (0.0, 1.0)}
_LIKELY = {
    keras.losses.CategoricalCrossentropy: (0.0, 1.0),
    keras.losses.CategoricalFocalCrossentropy: (0.0, 1.0),
    keras.losses.Dice: (0.0, 1.0),
    keras.losses.Tversky: (0.0, 1.0),
    keras.losses.KLDivergence: (0.0, 1.0),
    keras.losses.Poisson: (0.0, math.inf),
    keras.losses.MeanSquaredLogarithmicError: (0.0, math.inf),
    keras.losses.Hinge: (-1.0, 1.0),
    keras.losses.SquaredHinge: (-1.0, 1.0),
    keras.losses.CategoricalHinge: (0.0, 1.0),
}
"""Where a y outside may be meant: an advantage in the place of a one-hot, a small negative rounding."""


@dataclass
class LabelDomain:
    """The y that one loss was called with. `component` is its name in the spec."""

    component: str
    low: float
    high: float
    certain: bool
    """Whether a y outside ends the job."""
    _seen: list[tf.Variable] = field(default_factory=list)
    """[smallest, largest], float32; made by the first trace."""

    @classmethod
    def of(cls, loss: Any, component: str) -> LabelDomain | None:
        """None where nothing is known: of Keras' losses by their class, of others by the attribute `label_domain`."""
        given = declared(loss, "label_domain")
        if given is not None:
            return cls(component, float(given[0]), float(given[1]), True)
        for table, certain in ((_CERTAIN, True), (_LIKELY, False)):
            if type(loss) in table:
                return cls(component, *table[type(loss)], certain)
        return None

    def keep(self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: Any) -> None:
        """Keep what counts of a batch. Labels that index outputs are another matter: label_ranges.py."""
        if takes_labels(y_true, y_pred) or y_true.dtype in (tf.string, tf.bool):
            return
        y = tf.cast(y_true, tf.float32)
        for weight in (sample_weight, getattr(y_pred, "_keras_mask", None)):
            counted = None if weight is None else _counted(weight, y)
            if counted is None and weight is not None:
                return  # broadcast otherwise than from the left: nothing is certain
            if counted is not None:
                y = tf.where(counted, y, tf.fill(tf.shape(y), tf.cast(self.low, tf.float32)))
        if not self._seen:
            with outside_trace():
                start = [self.low, min(self.low, self.high)]
                self._seen.append(tf.Variable(start, dtype=tf.float32, trainable=False, name="label_domain"))
        low, high = tf.unstack(self._seen[0])
        flat = tf.reshape(y, [-1])
        self._seen[0].assign(
            [tf.reduce_min(tf.concat([flat, low[None]], 0)), tf.reduce_max(tf.concat([flat, high[None]], 0))]
        )

    def variables(self) -> list[tf.Variable]:
        """What holds the range: no state of the training, for it is read after each epoch."""
        return list(self._seen)

    def beyond(self) -> list[tf.Tensor]:
        """Whether a y was seen outside, on the device; [] where none can be."""
        return [(seen[0] < self.low) | (seen[1] > self.high) for seen in self._seen]

    def check(self) -> list[Note]:
        """Read what was seen. Raises JobFailure `invalid_data`, or gives a note where it may be meant."""
        for seen in self._seen:
            low, high = peek(seen)
            value = float(low) if low < self.low else float(high)
            if low >= self.low and high <= self.high:
                continue
            allowed = f"from {self.low:g} to {self.high:g}" if math.isfinite(self.high) else f"of {self.low:g} and more"
            message = f"loss {self.component!r} is defined for y {allowed}, and the data holds {value:g}"
            hint = f"Map y to values {allowed} in the source or by a map operation in data.pipeline."
            place = Location(component=self.component)
            if self.certain:
                raise JobFailure(FailureCode.INVALID_DATA, message, hint=hint, location=place)
            return [Note(FailureCode.INVALID_DATA, message, hint, place)]
        return []


def _counted(weight: Any, y: tf.Tensor) -> tf.Tensor | None:
    """Where a weight or mask is not zero, in the shape of y; None where it does not fit y from the left."""
    weight = tf.convert_to_tensor(weight)
    if y.shape.rank is None or weight.shape.rank is None:
        return None
    if weight.shape.rank == y.shape.rank + 1 and weight.shape[-1] == 1:
        weight = tf.squeeze(weight, -1)
    if weight.shape.rank > y.shape.rank:
        return None
    if any(of_y != of_weight for of_y, of_weight in zip(y.shape[1:], weight.shape[1:], strict=False) if of_weight != 1):
        return None
    nonzero = weight if weight.dtype == tf.bool else weight != 0
    for _ in range(y.shape.rank - weight.shape.rank):
        nonzero = nonzero[..., None]
    return tf.broadcast_to(nonzero, tf.shape(y))
