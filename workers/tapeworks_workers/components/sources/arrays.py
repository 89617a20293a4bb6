"""`arrays`: NumPy's `.npz` and `.npy` files, SciPy's sparse matrices. Object arrays (pickles) are never read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tapeworks import Files, Source, component, errors
from tapeworks_workers.components.sources import array_files
from tapeworks_workers.components.sources.array_files import BrokenArrays, Table


@component("arrays")
class Arrays(Source):
    """Named arrays of `.npz` and `.npy` files, one element for each index of the first dimension.

    Files of `.npz` are concatenated in order of name. The `.npy` files of a folder are arrays side by side, each named
    after its file: `x.npy` and `y.npy`. Floats take the job's dtype unless `dtypes` says otherwise. A sparse matrix is
    a file that SciPy's `save_npz` wrote, named after the file like a `.npy`, or is given by its CSR parts in a `.npz`:
    the arrays `x.data`, `x.indices`, `x.indptr` and `x.shape` make the SparseTensor x. It is never made dense.

    Args:
        files: a glob, or several, below a data root.
        features: name of the array x; a list of names gives a dict of named inputs. The only array of a file is x,
            whatever its name.
        labels: name of the array y, or a list of names; null: elements are x alone.
        weight: name of the array of sample weights.
        dtypes: array name → dtype to cast to; a value that an integer dtype cannot hold is refused.
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
        self._rows: list[int] | None = None

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

    def rows_by_file(self) -> list[int] | None:
        """The rows of each `.npz` file, or of each folder of `.npy` files; known once they are read."""
        return self._rows

    def _read(self, names: list[str]) -> dict[str, Any]:
        pieces: dict[str, list[Any]] = {name: [] for name in names}
        rows = []
        try:
            for table in array_files.tables(self.paths):
                values = _values(table, names)
                for name, value in values.items():
                    pieces[name].append(value)
                rows.append(int(next(iter(values.values())).shape[0]))
        except BrokenArrays as error:
            raise _invalid(str(error)) from error
        self._rows = rows
        values = {name: self._joined(name, found) for name, found in pieces.items()}
        if next(iter(values.values())).shape[0] == 0:
            raise _invalid(f"the arrays in {_names(self.paths)} hold no elements")
        return values

    def _joined(self, name: str, pieces: list[Any]) -> Any:
        """One array, or tf.SparseTensor, in the dtype that is asked for."""
        sparse = isinstance(pieces[0], tf.SparseTensor)
        _check_kinds(name, pieces)
        try:
            whole = tf.sparse.concat(0, pieces) if sparse else np.concatenate(pieces) if pieces[1:] else pieces[0]
        except (ValueError, tf.errors.OpError) as error:
            raise _invalid(f"the arrays {name!r} of {_names(self.paths)} do not fit together: {error}") from error
        floats = whole.dtype in (np.float32, np.float64)
        dtype = self.dtypes.get(name, keras.config.floatx() if floats else None)
        if dtype is None:
            return whole
        try:
            return tf.cast(whole, dtype) if sparse else _cast(name, whole, np.dtype(dtype))
        except (TypeError, ValueError) as error:
            raise _invalid(f"the array {name!r} cannot be cast to {dtype}: {error}") from error


def _values(table: Table, names: list[str]) -> dict[str, Any]:
    """The named arrays and sparse matrices of one table, all of one length. Raises BrokenArrays."""
    found = {name: table.read(name) for name in names}
    lengths = {name: int(value.shape[0]) if len(value.shape) else None for name, value in found.items()}
    if None in lengths.values() or len(set(lengths.values())) > 1:
        shapes = ", ".join(f"{name!r}: {tuple(value.shape)}" for name, value in found.items())
        raise BrokenArrays(f"the arrays of {table.name} differ in their first dimension: {shapes}")
    return found


def _check_kinds(name: str, pieces: list[Any]) -> None:
    """Refuse files whose dtypes have no common one that keeps all values."""
    dtypes = [np.dtype(piece.dtype.as_numpy_dtype if hasattr(piece, "indices") else piece.dtype) for piece in pieces]
    texts = {dtype.kind in "SU" for dtype in dtypes}
    floats = any(dtype.kind == "f" for dtype in dtypes)
    if len(texts) > 1 or (texts == {False} and not floats and np.result_type(*dtypes).kind == "f"):
        kinds = ", ".join(dict.fromkeys(str(dtype) for dtype in dtypes))
        raise _invalid(f"the array {name!r} is of {kinds} in different files; save it with one dtype")


def _cast(name: str, array: Any, dtype: np.dtype[Any]) -> Any:
    """In another dtype. Integers keep their values. Raises JobFailure where they cannot."""
    if dtype.kind not in "iu" or array.dtype.kind not in "iuf":
        return array.astype(dtype)
    with np.errstate(invalid="ignore"):
        cast = array.astype(dtype)
        same = (cast == array) & ((cast < 0) == (array < 0))
    if not same.all():
        row = np.argwhere(~same)[0]
        value, place = array[tuple(row)], int(row[0])
        raise _invalid(f"the array {name!r} cannot be cast to {dtype}: element {place} holds {value}")
    return cast


def _names(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths)


def _invalid(message: str) -> errors.JobFailure:
    return errors.JobFailure(errors.FailureCode.INVALID_DATA, message, location=errors.Location(component="arrays"))
