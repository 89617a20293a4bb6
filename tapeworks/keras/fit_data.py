"""The data of a `fit` call as named arrays for one `.npz` file and a source `arrays` that reads it.

`fit_arrays(…)` takes what `Model.fit` takes: NumPy arrays and what converts to them, pandas and polars frames,
lists and dicts of these, and a finite tf.data.Dataset whose elements do not change from pass to pass.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tapeworks.errors import ComponentError
from tapeworks.keras.fit_datasets import arrays_of_dataset, is_dataset
from tapeworks.keras.unsupported import Unsupported

_EPOCH = (1980, 1, 1, 0, 0, 0)
WEIGHT = "sample_weight"
NamedArrays = dict[str, Any]


@dataclass(frozen=True)
class FitArrays:
    """Arrays of one length, by name, and the config of the source `arrays` without its files."""

    arrays: NamedArrays
    config: dict[str, Any] = field(default_factory=dict)
    batch_size: int | None = None
    """Of a batched tf.data.Dataset."""
    shuffled: bool | None = None
    """Whether a tf.data.Dataset shuffles; None for arrays, which `fit` shuffles by its own argument."""

    @property
    def size(self) -> int:
        """The number of elements."""
        return len(next(iter(self.arrays.values())))

    def part(self, start: int, end: int) -> FitArrays:
        """The elements from `start` to `end`."""
        arrays = {name: value[start:end] for name, value in self.arrays.items()}
        return FitArrays(arrays, self.config, self.batch_size, self.shuffled)

    def content(self) -> bytes:
        """The `.npz` file: the same arrays give the same bytes."""
        return npz(self.arrays)


def npz(arrays: Mapping[str, Any]) -> bytes:
    """A `.npz` file without times, which `numpy.savez` would write: the same arrays give the same bytes."""
    import numpy as np

    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            one = io.BytesIO()
            value = np.asarray(arrays[name])
            np.lib.format.write_array(one, np.ascontiguousarray(value).reshape(value.shape), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", _EPOCH), one.getvalue())
    return written.getvalue()


def fit_arrays(
    x: Any, y: Any, sample_weight: Any, *, inputs: tuple[str, ...], outputs: tuple[str, ...], problems: Unsupported
) -> FitArrays | None:
    """The arrays of `x`, `y` and `sample_weight`; None where they have a problem.

    `inputs`, `outputs`: the model's names, for lists of arrays. Raises nothing: `problems` collects.
    """
    with problems.collect():
        if is_dataset(x):
            if y is not None or sample_weight is not None:
                raise ComponentError("x is a tf.data.Dataset: leave y and sample_weight out, its elements hold them")
            (x, y, sample_weight), batch_size, shuffled = arrays_of_dataset(x)
        else:
            batch_size, shuffled = None, None
        features = _named(x, "x", inputs)
        labels = {} if y is None else _named(y, "y", outputs)
        weights = _weights(sample_weight)
        _check(features, labels, weights)
        config: dict[str, Any] = {"features": _names(x, features), "labels": _names(y, labels)}
        if weights:
            config["weight"] = WEIGHT
        return FitArrays({**features, **labels, **weights}, config, batch_size, shuffled)
    return None


def with_class_weight(data: FitArrays, class_weight: Mapping[int, float], problems: Unsupported) -> FitArrays:
    """The arrays with a sample weight for each element's class, 1.0 for a class that is not named, as `fit` does."""
    import numpy as np

    labels = data.config["labels"]
    if WEIGHT in data.arrays:
        problems.add("class_weight beside sample_weight", "multiply the sample weights with the class's, give one")
        return data
    if not isinstance(labels, str):
        problems.add("class_weight of several outputs", "Keras takes it for one output: give sample_weight instead")
        return data
    y = np.asarray(data.arrays[labels])
    if y.dtype.kind not in "biuf":
        problems.add("class_weight of labels that are texts", "encode the labels as integers from 0 on")
        return data
    if y.ndim > 1:
        y = np.argmax(y, axis=-1) if y.shape[-1] != 1 else np.squeeze(y, axis=-1)
    classes = np.round(y).astype("int32")
    values, places = np.unique(classes, return_inverse=True)
    table = np.array([float(class_weight.get(int(value), 1.0)) for value in values], "float32")
    weighted = {**data.arrays, WEIGHT: table[places].reshape(classes.shape)}
    return FitArrays(weighted, {**data.config, "weight": WEIGHT}, data.batch_size, data.shuffled)


def split_tail(data: FitArrays, fraction: float) -> tuple[FitArrays, FitArrays]:
    """Keras' own `validation_split`: (the first elements, the last ones). Raises ComponentError."""
    at = math.floor(data.size * (1.0 - fraction))
    if not 0 < at < data.size:
        raise ComponentError(
            f"validation_split={fraction} of {data.size} elements leaves one part empty: give another fraction, or "
            "validation_data"
        )
    return data.part(0, at), data.part(at, data.size)


# ── arrays by name ───────────────────────────────────────────────────────────────────────────────


def _names(given: Any, named: NamedArrays) -> str | list[str] | None:
    """How the source names a part: one array, or a list for a dict of arrays."""
    if given is None:
        return None
    several = isinstance(given, Mapping | list | tuple) and not _is_rows(given)
    return list(named) if several else next(iter(named))


def _is_rows(value: Any) -> bool:
    """Whether a list holds numbers or rows of them instead of arrays."""
    return isinstance(value, list | tuple) and not any(hasattr(one, "shape") for one in value)


def _named(value: Any, what: str, names: tuple[str, ...]) -> NamedArrays:
    if isinstance(value, Mapping):
        return {str(key): _array(item, f"{what}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple) and not _is_rows(value):
        if len(names) != len(value):
            raise ComponentError(
                f"{what} is a list of {len(value)} arrays, the model has {len(names)} names for them: give a dict by "
                "the names of the model's inputs or outputs"
            )
        return {name: _array(item, f"{what}[{at}]") for at, (name, item) in enumerate(zip(names, value, strict=True))}
    return {what: _array(value, what)}


def _array(value: Any, what: str) -> Any:
    """A dense array without Python objects. Raises ComponentError with the remedy."""
    import numpy as np

    if hasattr(value, "row_lengths"):
        raise ComponentError(f"{what} is a RaggedTensor: save its rows as JSON lines and push them as a dataset")
    if hasattr(value, "indices") and hasattr(value, "dense_shape"):
        raise ComponentError(f"{what} is a SparseTensor: save it with scipy.sparse.save_npz and push the file")
    if hasattr(value, "tocsr") and hasattr(value, "toarray"):
        raise ComponentError(f"{what} is a sparse matrix: save it with scipy.sparse.save_npz and push the file")
    if callable(getattr(value, "__next__", None)) or (hasattr(value, "__getitem__") and hasattr(value, "on_epoch_end")):
        raise ComponentError(
            f"{what} is a {type(value).__name__}, whose code runs in this process only: give arrays, or push the data "
            "as files"
        )
    try:
        array = np.asarray(value.to_numpy() if hasattr(value, "to_numpy") else value)
    except (TypeError, ValueError) as error:
        raise ComponentError(f"{what} has no form as an array ({error}): give rows of one shape") from error
    if array.ndim == 0:
        raise ComponentError(f"{what} is {type(value).__name__}, not an array: give one element for each row")
    return _without_objects(array, what)


def _without_objects(array: Any, what: str) -> Any:
    import numpy as np

    if array.dtype.kind in "MmcV":
        raise ComponentError(f"{what} is of {array.dtype.name}: convert it to numbers first")
    if array.dtype.kind in "biufUS":
        return array
    kinds = {type(one).__name__ for one in array.ravel().tolist()}
    if kinds <= {"str"}:
        return array.astype("U")
    if kinds <= {"bytes"}:
        return array.astype("S")
    if kinds <= {"int", "float", "bool"}:
        return array.astype(np.result_type(*(type(one) for one in array.ravel().tolist()[:1000])))
    raise ComponentError(
        f"{what} holds {' and '.join(sorted(kinds))} together: give each column its own name in a dict, without "
        "missing values"
    )


def _weights(sample_weight: Any) -> NamedArrays:
    if sample_weight is None:
        return {}
    if isinstance(sample_weight, Mapping) or (isinstance(sample_weight, list | tuple) and not _is_rows(sample_weight)):
        raise ComponentError(
            "sample_weight has an array for each output: give one array for all outputs, or loss_weights to compile"
        )
    return {WEIGHT: _array(sample_weight, WEIGHT)}


def _check(features: NamedArrays, labels: NamedArrays, weights: NamedArrays) -> None:
    shared = sorted((set(features) & set(labels)) | ((set(features) | set(labels)) & set(weights)))
    if shared:
        raise ComponentError(f"the name {shared[0]!r} is given twice among x, y and sample_weight: rename one")
    if weights and not labels:
        raise ComponentError("sample_weight needs y: give the labels")
    sizes = {name: len(value) for name, value in {**features, **labels, **weights}.items()}
    if len(set(sizes.values())) > 1:
        lengths = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ComponentError(f"the arrays differ in their number of elements ({lengths}): give the same of each")
    if not next(iter(sizes.values()), 0):
        raise ComponentError("x holds no elements: give at least one")
