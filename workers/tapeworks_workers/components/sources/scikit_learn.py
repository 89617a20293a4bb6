"""`digits`, `iris`, `breast_cancer`, `diabetes`: the data that scikit-learn ships in its own files.

They are found beside the installed package and read with NumPy; scikit-learn's code is not run.
Features have the job's float dtype, labels are int64 (regression: as the features).
"""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tapeworks import Source, component


def _path(name: str) -> Path:
    """A file of scikit-learn's data folder."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("scikit-learn is not installed: its data files are the source (pip: scikit-learn)")
    return Path(spec.origin).parent / "datasets" / "data" / name


def _table(name: str, *, delimiter: str | None = ",", skip: int = 0) -> np.ndarray[Any, np.dtype[np.float64]]:
    path = _path(name)
    if path.suffix == ".gz":
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            return np.loadtxt(lines, delimiter=delimiter, skiprows=skip)
    return np.loadtxt(path, delimiter=delimiter, skiprows=skip)


def _standardized(x: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Mean 0 and variance 1 for each column, over the whole set."""
    return (x - x.mean(axis=0)) / x.std(axis=0)


@component("digits")
class Digits(Source):
    """1797 handwritten digits of 8×8 pixels: x float `(64,)`, y int64 in 0 … 9.

    Args:
        image: x of shape `(8, 8, 1)`.
        scale: pixels from 0 to 1; false: from 0 to 16, as in the file.
    """

    def __init__(self, image: bool = False, scale: bool = True) -> None:
        self.image = image
        self.scale = scale

    def dataset(self) -> tf.data.Dataset:
        table = _table("digits.csv.gz")
        x = table[:, :-1].astype(keras.config.floatx())
        if self.scale:
            x /= 16.0
        if self.image:
            x = x.reshape(-1, 8, 8, 1)
        return tf.data.Dataset.from_tensor_slices((x, table[:, -1].astype(np.int64)))

    def files(self) -> list[Path]:
        return [_path("digits.csv.gz")]


@component("iris")
class Iris(Source):
    """150 irises: x float `(4,)` (lengths and widths in cm), y int64 in 0 … 2.

    Args:
        standardize: mean 0 and variance 1 for each feature, over the whole set.
    """

    def __init__(self, standardize: bool = False) -> None:
        self.standardize = standardize

    def dataset(self) -> tf.data.Dataset:
        return _labelled("iris.csv", self.standardize)

    def files(self) -> list[Path]:
        return [_path("iris.csv")]


@component("breast_cancer")
class BreastCancer(Source):
    """569 tumours: x float `(30,)`, y int64: 0 malignant, 1 benign.

    Args:
        standardize: mean 0 and variance 1 for each feature, over the whole set.
    """

    def __init__(self, standardize: bool = False) -> None:
        self.standardize = standardize

    def dataset(self) -> tf.data.Dataset:
        return _labelled("breast_cancer.csv", self.standardize)

    def files(self) -> list[Path]:
        return [_path("breast_cancer.csv")]


@component("diabetes")
class Diabetes(Source):
    """442 patients: x float `(10,)`, y float: disease progression after a year, 25 … 346.

    Args:
        scaled: each feature centred, and scaled to a sum of squares of 1, as scikit-learn does by default.
    """

    def __init__(self, scaled: bool = True) -> None:
        self.scaled = scaled

    def dataset(self) -> tf.data.Dataset:
        x = _table("diabetes_data_raw.csv.gz", delimiter=None)
        if self.scaled:
            x = _standardized(x) / np.sqrt(len(x))
        y = _table("diabetes_target.csv.gz")
        return tf.data.Dataset.from_tensor_slices((x.astype(keras.config.floatx()), y.astype(keras.config.floatx())))

    def files(self) -> list[Path]:
        return [_path("diabetes_data_raw.csv.gz"), _path("diabetes_target.csv.gz")]


def _labelled(name: str, standardize: bool) -> tf.data.Dataset:
    """A file whose first line is a title and whose last column is the class."""
    table = _table(name, skip=1)
    x = _standardized(table[:, :-1]) if standardize else table[:, :-1]
    return tf.data.Dataset.from_tensor_slices((x.astype(keras.config.floatx()), table[:, -1].astype(np.int64)))
