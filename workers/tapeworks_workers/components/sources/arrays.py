"""`arrays`: NumPy's `.npz` files. Object arrays (pickles) are never read."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tapeworks import Files, Source, component, errors

Array = np.ndarray[Any, np.dtype[Any]]


@component("arrays")
class Arrays(Source):
    """Named arrays of one or several `.npz` files, one element for each index of the first dimension.

    Files are concatenated in order of name. Floats take the job's dtype unless `dtypes` says otherwise.

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
        arrays = self._read(names)
        element = tuple(
            arrays[part] if isinstance(part, str) else {name: arrays[name] for name in part} for part in parts
        )
        return tf.data.Dataset.from_tensor_slices(element if len(element) > 1 else element[0])

    def files(self) -> list[Path]:
        return self.paths

    def _read(self, names: list[str]) -> dict[str, Array]:
        pieces: dict[str, list[Array]] = {name: [] for name in names}
        for path in self.paths:
            for name, array in _arrays(path, names).items():
                pieces[name].append(array)
        arrays = {name: self._joined(name, found) for name, found in pieces.items()}
        if len(next(iter(arrays.values()))) == 0:
            raise _invalid(f"the arrays in {_names(self.paths)} hold no elements")
        return arrays

    def _joined(self, name: str, pieces: list[Array]) -> Array:
        try:
            array = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        except ValueError as error:
            raise _invalid(f"the arrays {name!r} of {_names(self.paths)} do not fit together: {error}") from error
        dtype = self.dtypes.get(name, keras.config.floatx() if array.dtype in (np.float32, np.float64) else None)
        try:
            return array if dtype is None else array.astype(dtype)
        except (TypeError, ValueError) as error:
            raise _invalid(f"the array {name!r} cannot be cast to {dtype}: {error}") from error


def _arrays(path: Path, names: list[str]) -> dict[str, Array]:
    """The named arrays of one file, all of one length."""
    try:
        # Opened here: np.load leaves a broken file open.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            missing = [name for name in names if name not in file.files]
            if missing:
                raise _invalid(f"{path.name} has no array {missing[0]!r}; it holds {', '.join(map(repr, file.files))}")
            found = {name: file[name] for name in names}
    except (ValueError, OSError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise _invalid(f"{path.name} cannot be read as .npz without objects: {error}") from error
    lengths = {name: len(array) if array.ndim else None for name, array in found.items()}
    if None in lengths.values() or len(set(lengths.values())) > 1:
        told = ", ".join(f"{name!r}: {array.shape}" for name, array in found.items())
        raise _invalid(f"the arrays of {path.name} differ in their first dimension: {told}")
    return found


def _names(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths)


def _invalid(message: str) -> errors.JobFailure:
    return errors.JobFailure(errors.FailureCode.INVALID_DATA, message, location=errors.Location(component="arrays"))
