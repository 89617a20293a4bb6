"""Files of arrays: NumPy's `.npz` and `.npy`, and the sparse matrices of SciPy's `save_npz`. Pickles are never read.

`tables(paths)` gives what belongs together row by row: each `.npz` by itself, and the `.npy` files and SciPy matrices
of one folder, whose arrays are named after their files (`x.npy`, `y.npy`). The content says which kind a file is, not
its suffix.
"""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import tensorflow as tf

from tapeworks_workers.components.sources.unpacked_size import array_header, check_arrays

_ZIP, _NUMPY = b"PK", b"\x93NUMPY"
_CSR_PARTS = ("data", "indices", "indptr", "shape")
_SCIPY_PARTS = {"data", "shape", "format"}
_UNREADABLE = (ValueError, OSError, EOFError, AttributeError, TypeError, KeyError, NotImplementedError, RuntimeError,
               zipfile.BadZipFile)  # fmt: skip
_REMEDIES = {
    "c": "complex numbers; save np.stack([x.real, x.imag], -1), or np.abs(x)",
    "M": 'dates; save x.astype("datetime64[s]").astype("int64")',
    "m": 'durations; save x.astype("timedelta64[s]").astype("int64")',
    "V": "rows of several fields; save an array for each field",
    "O": "Python objects (pickles), which are never read; save numbers or texts",
}


class BrokenArrays(ValueError):
    """A file that holds no arrays, or not those; the message names the file."""


@dataclass(frozen=True)
class Table:
    """Arrays with one first dimension: those of a `.npz`, or those that the files of a folder are."""

    name: str
    places: dict[str, tuple[Path, str | None]]
    """Array → its file and its name there; None: the file is the array."""

    def read(self, name: str) -> Any:
        """An array, or a tf.SparseTensor of two dimensions. Raises BrokenArrays."""
        if name == "x" and name not in self.places and len(self.places) == 1:
            name = next(iter(self.places))  # an array alone is x, whatever its file is called
        if name not in self.places:
            raise BrokenArrays(f"{self.name} has no array {name!r}; it holds {', '.join(map(repr, self.places))}")
        path, inside = self.places[name]
        try:
            value = _read(path, inside)
        except BrokenArrays:
            raise
        except _UNREADABLE as error:
            raise _broken(path, error) from error
        if why := unusable(value.dtype):
            raise BrokenArrays(f"{path.name}: the array {name!r} holds {why}")
        return value

    def header(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and dtype of an array, without its values where it is dense. Raises BrokenArrays."""
        path, inside = self.places[name]
        try:
            with path.open("rb") as raw:
                if raw.read(len(_NUMPY)) == _NUMPY:
                    raw.seek(0)
                    return array_header(raw)
            with zipfile.ZipFile(path) as archive:
                if f"{inside}.npy" in archive.namelist():
                    with archive.open(f"{inside}.npy") as member:
                        return array_header(member)
                if inside is not None:
                    with archive.open(f"{inside}.data.npy") as member, np.load(path, allow_pickle=False) as file:
                        return tuple(map(int, file[f"{inside}.shape"])), array_header(member)[1]
                matrix = _scipy(path)
                return matrix.shape, matrix.dtype
        except _UNREADABLE as error:
            raise _broken(path, error) from error


def tables(paths: list[Path]) -> list[Table]:
    """In the order of their first files. Raises BrokenArrays."""
    found: dict[Path, Table] = {}
    for path in paths:
        try:
            inside = _inside(path)
        except _UNREADABLE as error:
            raise _broken(path, error) from error
        if inside is not None:
            found[path] = Table(path.name, {name: (path, name) for name in inside})
            continue
        table = found.setdefault(path.parent, Table(path.name, {}))
        if path.stem in table.places:
            raise BrokenArrays(f"{path.name} and {table.places[path.stem][0].name} are both the array {path.stem!r}")
        table.places[path.stem] = (path, None)
        if len(table.places) > 1:
            found[path.parent] = Table(f"the folder {path.parent.name}", table.places)
    return list(found.values())


def unusable(dtype: Any) -> str | None:
    """Why no job can read an array of that dtype, with the remedy; None where it can."""
    kind, size = np.dtype(dtype.as_numpy_dtype if isinstance(dtype, tf.DType) else dtype), 8
    if kind.kind in _REMEDIES:
        return f"{kind.name}: {_REMEDIES[kind.kind]}"
    return f'{kind.name}; save x.astype("float64")' if kind.kind == "f" and kind.itemsize > size else None


def _inside(path: Path) -> list[str] | None:
    """The arrays of a `.npz`, sparse ones by their one name; None where the file is a single array or matrix."""
    with path.open("rb") as file:
        head = file.read(len(_NUMPY))
    if head == _NUMPY:
        return None
    if not head.startswith(_ZIP):
        raise ValueError("it begins as neither")
    with zipfile.ZipFile(path) as archive:
        members = [name.removesuffix(".npy") for name in archive.namelist()]
    if _SCIPY_PARTS <= set(members):
        return None
    sparse = {name.removesuffix(".indptr") for name in members if name.endswith(".indptr")}
    sparse = {name for name in sparse if all(f"{name}.{part}" in members for part in _CSR_PARTS)}
    parts = {f"{name}.{part}" for name in sparse for part in _CSR_PARTS}
    return [*(name for name in members if name not in parts), *sorted(sparse)]


def _check_claims(path: Path, inside: str | None) -> None:
    """What the headers claim, before memory is taken for it. Raises JobFailure, ValueError."""
    with path.open("rb") as raw:
        if raw.read(len(_NUMPY)) == _NUMPY:
            raw.seek(0)
            shape, dtype = array_header(raw)
            if math.prod(shape) * dtype.itemsize > path.stat().st_size:
                raise ValueError(f"the array claims the shape {shape}, its bytes are fewer")
            return
    check_arrays(path, None if inside is None else [inside, *(f"{inside}.{part}" for part in _CSR_PARTS)])


def _read(path: Path, inside: str | None) -> Any:
    _check_claims(path, inside)
    # Opened here: np.load leaves a broken file open.
    with path.open("rb") as raw:
        loaded = np.load(raw, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return _native(loaded)
        with loaded as file:
            if inside is None:
                return _sparse_tensor(_scipy(path))
            return _native(file[inside]) if inside in file.files else _from_parts(file, inside, path)


def _native(array: Any) -> Any:
    """In the machine's byte order: TensorFlow takes no other."""
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _scipy(path: Path) -> Any:
    """The matrix of `scipy.sparse.save_npz` in CSR form."""
    matrix = scipy.sparse.load_npz(path)
    if matrix.ndim != 2:
        raise ValueError(f"a sparse array of {matrix.ndim} dimensions; two are read")
    if hasattr(matrix, "check_format"):
        matrix.check_format(full_check=True)
    rows = matrix.tocsr()
    rows.check_format(full_check=True)
    rows.sum_duplicates()
    return rows


def _sparse_tensor(rows: Any) -> tf.SparseTensor:
    places = rows.tocoo()
    at = np.stack([places.row, places.col], 1).astype(np.int64)
    return tf.SparseTensor(at, _checked(_native(places.data)), list(map(int, rows.shape)))


def _from_parts(file: Any, name: str, path: Path) -> tf.SparseTensor:
    """From `name.data`, `name.indices`, `name.indptr`, `name.shape`."""
    data, columns, starts, shape = (_native(file[f"{name}.{part}"]) for part in _CSR_PARTS)
    rows, width = (int(length) for length in shape)
    lengths = np.diff(starts)
    fits = len(starts) == rows + 1 and len(data) == len(columns) == starts[-1] and starts[0] == 0
    if not fits or lengths.min(initial=0) < 0 or (len(columns) and not 0 <= columns.min() <= columns.max() < width):
        raise BrokenArrays(
            f"{path.name}: {name!r} is not a sparse matrix of {rows} rows and {width} columns in CSR form"
        )
    row = np.repeat(np.arange(rows), lengths)
    order = np.lexsort((columns, row))
    at = np.stack([row, columns[order]], 1).astype(np.int64)
    return tf.SparseTensor(at, _checked(data[order]), [rows, width])


def _checked(values: Any) -> Any:
    """Values of a sparse matrix. Raises BrokenArrays before TensorFlow takes what no job can read."""
    if why := unusable(values.dtype):
        raise BrokenArrays(f"the matrix holds {why}")
    return values


def _broken(path: Path, error: BaseException) -> BrokenArrays:
    return BrokenArrays(f"{path.name} cannot be read as .npz or .npy without objects: {error}")
