"""`arrays`: NumPy's `.npz` files. Object arrays (pickles) are never read."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tapeworks import Files, Source, component, errors
from tapeworks_workers.components.sources.unpacked_size import check_arrays

_SPARSE = ("data", "indices", "indptr", "shape")
"""The parts of a sparse matrix in CSR form."""


@component("arrays")
class Arrays(Source):
    """Named arrays of one or several `.npz` files, one element for each index of the first dimension.

    Files are concatenated in order of name. Floats take the job's dtype unless `dtypes` says otherwise. A sparse
    matrix is given by its CSR parts, as SciPy names them: the arrays `x.data`, `x.indices`, `x.indptr` and `x.shape`
    make the SparseTensor x, which is never made dense.

    Args:
        files: a glob, or several, below a data root.
        features: name of the array x; a list of names gives a dict of named inputs.
        labels: name of the array y, or a list of names; null: elements are x alone.
        weight: name of the array of sample weights.
        dtypes: array name → dtype to cast to.
    """

    def __init__(
        self,
        files: Files,
        features: str | list[str] = "x",
        labels: str | list[str] | None = "y",
        weight: str | None = None,
        dtypes: dict[str, str] | None = None,
    ) -> None:
        if weight is not None and labels is None:
            raise ValueError("a sample weight needs labels: the element is (x, y, sample_weight)")
        self.paths = [Path(path) for path in files]
        self.features = features
        self.labels = labels
        self.weight = weight
        self.dtypes = dtypes or {}

    def dataset(self) -> tf.data.Dataset:
        parts: list[str | list[str]] = [part for part in (self.features, self.labels, self.weight) if part is not None]
        names = [name for part in parts for name in ([part] if isinstance(part, str) else part)]
        values = self._read(names)
        element = tuple(
            values[part] if isinstance(part, str) else {name: values[name] for name in part} for part in parts
        )
        return tf.data.Dataset.from_tensor_slices(element if len(element) > 1 else element[0])

    def files(self) -> list[Path]:
        return self.paths

    def _read(self, names: list[str]) -> dict[str, Any]:
        pieces: dict[str, list[Any]] = {name: [] for name in names}
        for path in self.paths:
            for name, value in _values(path, names).items():
                pieces[name].append(value)
        values = {name: self._joined(name, found) for name, found in pieces.items()}
        if next(iter(values.values())).shape[0] == 0:
            raise _invalid(f"the arrays in {_names(self.paths)} hold no elements")
        return values

    def _joined(self, name: str, pieces: list[Any]) -> Any:
        """One array, or tf.SparseTensor, in the dtype that is asked for."""
        sparse = isinstance(pieces[0], tf.SparseTensor)
        try:
            whole = tf.sparse.concat(0, pieces) if sparse else np.concatenate(pieces) if pieces[1:] else pieces[0]
        except (ValueError, tf.errors.OpError) as error:
            raise _invalid(f"the arrays {name!r} of {_names(self.paths)} do not fit together: {error}") from error
        floats = whole.dtype in (np.float32, np.float64)
        dtype = self.dtypes.get(name, keras.config.floatx() if floats else None)
        try:
            if dtype is None:
                return whole
            return tf.cast(whole, dtype) if sparse else whole.astype(dtype)
        except (TypeError, ValueError) as error:
            raise _invalid(f"the array {name!r} cannot be cast to {dtype}: {error}") from error


def _values(path: Path, names: list[str]) -> dict[str, Any]:
    """The named arrays and sparse matrices of one file, all of one length."""
    try:
        check_arrays(path, _members(names))
        # Opened here: np.load leaves a broken file open.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            found = {name: _one(file, name, path) for name in names}
    except (ValueError, OSError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise _invalid(f"{path.name} cannot be read as .npz without objects: {error}") from error
    lengths = {name: int(value.shape[0]) if len(value.shape) else None for name, value in found.items()}
    if None in lengths.values() or len(set(lengths.values())) > 1:
        told = ", ".join(f"{name!r}: {tuple(value.shape)}" for name, value in found.items())
        raise _invalid(f"the arrays of {path.name} differ in their first dimension: {told}")
    return found


def _members(names: list[str]) -> list[str]:
    """The arrays that these names may stand for."""
    return [member for name in names for member in (name, *(f"{name}.{part}" for part in _SPARSE))]


def _one(file: Any, name: str, path: Path) -> Any:
    if name in file.files:
        return file[name]
    parts = [f"{name}.{part}" for part in _SPARSE]
    if not all(part in file.files for part in parts):
        raise _invalid(f"{path.name} has no array {name!r}; it holds {', '.join(map(repr, file.files))}")
    data, columns, starts, shape = (file[part] for part in parts)
    rows, width = (int(length) for length in shape)
    lengths = np.diff(starts)
    fits = len(starts) == rows + 1 and len(data) == len(columns) == starts[-1] and starts[0] == 0
    if not fits or lengths.min(initial=0) < 0 or (len(columns) and not 0 <= columns.min() <= columns.max() < width):
        raise _invalid(f"{path.name}: {name!r} is no sparse matrix of {rows} rows and {width} columns in CSR form")
    row = np.repeat(np.arange(rows), lengths)
    order = np.lexsort((columns, row))
    at = np.stack([row, columns[order]], 1).astype(np.int64)
    return tf.SparseTensor(at, data[order], [rows, width])


def _names(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths)


def _invalid(message: str) -> errors.JobFailure:
    return errors.JobFailure(errors.FailureCode.INVALID_DATA, message, location=errors.Location(component="arrays"))
