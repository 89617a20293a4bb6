"""`fill_missing`: a value for NaN and empty texts, inside the model, so that the exported one takes raw rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from tapeworks import component

_EXAMPLE = {
    "config": {"strategy": "constant", "value": 0.5, "indicator": True},
    "inputs": tf.TensorSpec([None, 3], tf.float32),
}
_FILE = "fill_values.json"
_PENDING = 1_000_000
"""Values that are collected before those that are equal are counted together."""


class WithoutValues(ValueError):
    """Features of which no row has a value, by their places in the last dimension; None: of a single column."""

    def __init__(self, without_values: list[int] | None) -> None:
        super().__init__("no row has a value to compute the statistic from")
        self.without_values = without_values


@component("fill_missing", example=_EXAMPLE)
class FillMissing(keras.layers.Layer):
    """Puts a value where a number is NaN or a text is empty, as scikit-learn's SimpleImputer does.

    Takes one column `(batch,)` or features `(batch, …, n)` of floats or texts, each feature of the last dimension with
    a value of its own. Gives the same shape and dtype: inputs are not cast to the compute dtype, so that a number
    beyond float16 is scaled by the layers behind it first. Other values, infinities too, stay as they are.

    Args:
        strategy: `constant`: `value`; learned from the training split by `adapt`: `mean`, `median`, or `mode`, the
            most frequent value (of several the smallest). Texts have a constant or a mode.
        value: of `constant`: a number, or a text.
        indicator: also give 1 where a number was missing and 0 elsewhere, behind the features: `(batch,)` becomes
            `(batch, 2)`, `(batch, …, n)` becomes `(batch, …, 2 n)`. For texts the constant itself is such a sign.

    Raises ValueError for integers, which are never missing, and where `adapt` meets a feature that no row has.
    """

    def __init__(
        self,
        strategy: Literal["constant", "mean", "median", "mode"] = "mean",
        value: float | str | None = None,
        indicator: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        if (strategy == "constant") != (value is not None):
            raise ValueError('value is that of the strategy "constant": give both or neither')
        if value == "":
            raise ValueError('value "" marks a missing text: give another text')
        if indicator and isinstance(value, str):
            raise ValueError(_NO_INDICATOR)
        self.strategy = strategy
        self.value = value
        self.indicator = indicator
        self._learned: np.ndarray | None = None

    @property
    def fill_values(self) -> np.ndarray | None:
        """What missing values become: an array `()` or `(n,)` of float64, or of bytes; None before `adapt`."""
        if self.strategy != "constant":
            return self._learned
        return np.array(self.value.encode() if isinstance(self.value, str) else float(self.value or 0))

    @property
    def unlearned(self) -> bool:
        """Whether `adapt` is still needed."""
        return self.fill_values is None

    def adapt(self, data: Any) -> None:
        """Learn the values from a tensor, or from batches. Raises WithoutValues, ValueError."""
        learning: _Texts | _Numbers | None = None
        rank = 0
        for batch in [data] if hasattr(data, "shape") else data:
            values = np.asarray(batch)
            rank = values.ndim
            table = values.reshape(-1, 1) if rank == 1 else values.reshape(-1, values.shape[-1])
            if learning is None:
                learning = self._learning(values.dtype, table.shape[1])
            learning.add(table)
        if learning is None:
            raise ValueError("there is no data to adapt to")
        without = [place for place, count in enumerate(learning.counts()) if not count]
        if without:
            raise WithoutValues(None if rank == 1 else without)
        values = learning.result(self.strategy)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ValueError(f"the {self.strategy} of a feature with infinities is {values[~np.isfinite(values)][0]}")
        self._learned = values[0:1].reshape(()) if rank == 1 else values

    def _learning(self, dtype: np.dtype[Any], features: int) -> _Texts | _Numbers:
        if dtype.kind == "f":
            return _Numbers(features, exact=self.strategy != "mean")
        if dtype.kind not in "OSU":
            raise ValueError(_NOT_MISSING.format(dtype))
        if self.strategy != "mode":
            raise ValueError(f'texts have no {self.strategy}: give the strategy "mode", or "constant" with a value')
        return _Texts(features)

    def call(self, inputs: Any) -> Any:
        values = self.fill_values
        if values is None:
            raise ValueError(f"the layer {self.name!r} has no fill value yet: call adapt")
        if inputs.dtype == tf.string:
            return tf.where(inputs == "", tf.constant(values.tolist(), tf.string), inputs)
        missing = tf.math.is_nan(inputs)
        filled = tf.where(missing, tf.constant(values, inputs.dtype), inputs)
        if not self.indicator:
            return filled
        signs = tf.cast(missing, filled.dtype)
        return tf.stack([filled, signs], -1) if filled.shape.rank == 1 else tf.concat([filled, signs], -1)

    def compute_output_spec(self, inputs: Any) -> Any:
        """Without a trace: what is learned may not be there yet."""
        dtype, shape = inputs.dtype, tuple(inputs.shape)
        texts = isinstance(self.value, str) or (self._learned is not None and self._learned.dtype.kind == "S")
        known = self.fill_values is not None
        if getattr(inputs, "ragged", False) or getattr(inputs, "sparse", False):
            raise ValueError("fill_missing takes dense inputs: put ragged_to_dense before it")
        if dtype != "string" and "float" not in dtype:
            raise ValueError(_NOT_MISSING.format(dtype))
        if dtype == "string" and (self.strategy in ("mean", "median") or (known and not texts)):
            raise ValueError('texts take the strategy "mode", or "constant" with a text')
        if dtype != "string" and texts:
            raise ValueError(f"the text {self.value!r} cannot fill in {dtype}: give a number")
        if not self.indicator:
            return keras.KerasTensor(shape, dtype=dtype)
        if dtype == "string":
            raise ValueError(_NO_INDICATOR)
        if len(shape) == 1:
            return keras.KerasTensor((*shape, 2), dtype=dtype)
        return keras.KerasTensor((*shape[:-1], None if shape[-1] is None else 2 * shape[-1]), dtype=dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        if not self.indicator:
            return tuple(input_shape)
        return (*input_shape, 2) if len(input_shape) == 1 else (*input_shape[:-1], 2 * input_shape[-1])

    # ── what was learned is an asset, as the vocabulary of a lookup is: a variable holds no text ──

    def save_assets(self, folder: Any) -> None:
        """Part of Keras' saving."""
        if self._learned is None:
            return
        values: Any = self._learned.tolist()
        if self._learned.dtype.kind == "S":
            values = [text.hex() for text in self._learned.ravel().tolist()]
        document = {"dtype": self._learned.dtype.kind, "shape": list(self._learned.shape), "values": values}
        Path(folder, _FILE).write_text(json.dumps(document), encoding="utf-8")

    def load_assets(self, folder: Any) -> None:
        """Part of Keras' saving."""
        if folder is None or not (file := Path(folder, _FILE)).exists():
            return
        document = json.loads(file.read_text(encoding="utf-8"))
        values = document["values"]
        if document["dtype"] == "S":
            self._learned = _bytes([bytes.fromhex(text) for text in values]).reshape(document["shape"])
        else:
            self._learned = np.array(values, np.float64).reshape(document["shape"])


_NO_INDICATOR = (
    'texts have no indicator: a constant such as "missing" is one, which a StringLookup behind it gives a number'
)
_NOT_MISSING = "{} has no missing values: fill_missing takes floats or texts; dtypes of a source make floats"


def _bytes(texts: Iterable[bytes]) -> np.ndarray:
    return np.array(list(texts), "S")


class _Numbers:
    """Sums of features, or with `exact` their values with counts."""

    def __init__(self, features: int, *, exact: bool) -> None:
        self._exact = exact
        self._sums, self._present = np.zeros(features), np.zeros(features, np.int64)
        self._values: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in range(features)]
        self._pending = 0

    def add(self, table: np.ndarray) -> None:
        """Rows of all features."""
        present = ~np.isnan(table)
        self._present += present.sum(0)
        if not self._exact:
            self._sums += np.where(present, table, 0).sum(0, dtype=np.float64)
            return
        for feature, found in enumerate(self._values):
            values = table[present[:, feature], feature]
            found.append((values, np.ones(len(values), np.int64)))
        self._pending += table.size
        if self._pending > _PENDING:
            self._values = [[_counted(found)] for found in self._values]
            self._pending = 0

    def counts(self) -> list[int]:
        """Rows that have each feature."""
        return [int(count) for count in self._present]

    def result(self, strategy: str) -> np.ndarray:
        """`mean`, `median` or `mode` of each feature, float64."""
        if not self._exact:
            return self._sums / self._present
        return np.array([_of_counts(*_counted(found), strategy) for found in self._values], np.float64)


def _counted(found: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """The different values in order, and how often each stands there."""
    values, places = np.unique(np.concatenate([one for one, _ in found]), return_inverse=True)
    counts = np.zeros(len(values), np.int64)
    np.add.at(counts, places, np.concatenate([count for _, count in found]))
    return values, counts


def _of_counts(values: np.ndarray, counts: np.ndarray, strategy: str) -> float:
    if strategy == "mode":
        return float(values[np.argmax(counts)])
    ends = np.cumsum(counts)
    middle = [values[np.searchsorted(ends, place, side="right")] for place in ((ends[-1] - 1) // 2, ends[-1] // 2)]
    return float(np.mean(np.array(middle, np.float64)))


class _Texts:
    """How often each text stands in each feature."""

    def __init__(self, features: int) -> None:
        self._counters: list[Counter[bytes]] = [Counter() for _ in range(features)]

    def add(self, table: np.ndarray) -> None:
        """Rows of all features; texts are bytes or str."""
        for feature, counter in enumerate(self._counters):
            texts = (text.encode() if isinstance(text, str) else text for text in table[:, feature].tolist())
            counter.update(text for text in texts if text)

    def counts(self) -> list[int]:
        """Rows that have each feature."""
        return [counter.total() for counter in self._counters]

    def result(self, strategy: str) -> np.ndarray:
        """The most frequent text of each feature."""
        return _bytes(min(counter, key=lambda text: (-counter[text], text)) for counter in self._counters)
