"""A source whose columns have names as people give them."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tapeworks import Source, component

NAMES = [
    "class", "self", "X", "x", "a/b", "a b", "a_b", "a:0", "a\\b", "Sepal.Length", "Sepal", "fixed acidity", "größe",
    "1st", "_y", "training", "name", "inputs", "mask", "diag (\")", "%",
]  # fmt: skip


@component("columns/Named")
class Named(Source):
    """Twenty rows, whose y is the sum of all columns."""

    def dataset(self) -> tf.data.Dataset:
        random = np.random.default_rng(0)
        x = {name: random.normal(size=20).astype("float64" if "." in name else "float32") for name in NAMES}
        y = np.sum(list(x.values()), axis=0, dtype=np.float32)
        return tf.data.Dataset.from_tensor_slices((x, y[:, None]))
