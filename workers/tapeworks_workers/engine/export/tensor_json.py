"""Nests of tensors and of specs as JSON, with the arrays beside it in one npz file (no pickles).

`Arrays.add(nest)` gives a structure that `bundled.load.nest(structure, arrays)` turns into tensors again, and
`stored_leaves` into plain arrays, without TensorFlow's runtime; `spec_document` and `spec_from_document` do the same
for tf.TensorSpec, RaggedTensorSpec and SparseTensorSpec. `reload.py` imports this file by path.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf


class Arrays:
    """Arrays on their way into one npz file."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        """By the names that structures have for them."""

    def add(self, nest: Any) -> dict[str, Any]:
        """Take a nest of arrays or tensors (ragged, sparse, strings, bfloat16 too); returns its structure as JSON."""
        if nest is None:
            return {"kind": "none"}
        if isinstance(nest, dict):
            return {"kind": "dict", "items": {key: self.add(item) for key, item in nest.items()}}
        if isinstance(nest, (list, tuple)) and not isinstance(nest, _COMPOSITES):
            kind = "list" if isinstance(nest, list) else "tuple"
            return {"kind": kind, "items": [self.add(item) for item in nest]}
        if isinstance(nest, tf.compat.v1.ragged.RaggedTensorValue):
            nest = tf.RaggedTensor.from_nested_row_splits(nest.flat_values, nest.nested_row_splits)
        if isinstance(nest, tf.RaggedTensor):
            splits = [self.add(item) for item in nest.nested_row_splits]
            return {"kind": "ragged", "values": self.add(nest.flat_values), "row_splits": splits}
        if isinstance(nest, (tf.SparseTensor, tf.compat.v1.SparseTensorValue)):
            parts = ("indices", "values", "dense_shape")
            return {"kind": "sparse", **{part: self.add(getattr(nest, part)) for part in parts}}
        return self._add_array(np.asarray(nest))

    def _add_array(self, array: np.ndarray) -> dict[str, Any]:
        name, dtype = str(len(self.arrays)), tf.as_dtype(array.dtype)
        if dtype == tf.string:
            texts = [item if isinstance(item, bytes) else str(item).encode() for item in array.ravel().tolist()]
            self.arrays[name] = np.frombuffer(b"".join(texts), np.uint8)
            self.arrays[name + "_lengths"] = np.array([len(text) for text in texts], np.int64)
        elif dtype == tf.bfloat16:  # npz would write it as raw bytes of no known type
            self.arrays[name] = array.view(np.uint16)
        else:
            self.arrays[name] = array
        return {"kind": "tensor", "array": name, "dtype": dtype.name, "shape": list(array.shape)}

    def write(self, file: Path) -> None:
        """Write the npz file."""
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, **self.arrays)  # type: ignore[arg-type]


def stored_leaves(structure: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The arrays of a stored nest in the order of `tf.nest.flatten(nest, expand_composites=True)`."""
    kind = structure["kind"]
    if kind == "none":
        return []
    if kind == "dict":
        parts = [structure["items"][key] for key in sorted(structure["items"])]
    elif kind in ("list", "tuple"):
        parts = structure["items"]
    elif kind == "ragged":
        parts = [structure["values"], *structure["row_splits"]]
    elif kind == "sparse":
        parts = [structure[part] for part in ("indices", "values", "dense_shape")]
    else:
        return [_stored_array(structure, arrays)]
    return [leaf for part in parts for leaf in stored_leaves(part, arrays)]


def _stored_array(structure: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    raw, dtype = arrays[structure["array"]], tf.as_dtype(structure["dtype"])
    if dtype == tf.string:
        ends = np.cumsum(arrays[structure["array"] + "_lengths"]).tolist()
        data = raw.tobytes()
        texts = np.empty(len(ends), object)
        texts[:] = [data[a:b] for a, b in zip([0, *ends], ends, strict=False)]
        return texts.reshape(structure["shape"])
    if raw.dtype != dtype.as_numpy_dtype:
        raw = raw.view(dtype.as_numpy_dtype)
    return raw.reshape(structure["shape"])


_COMPOSITES = (tf.compat.v1.ragged.RaggedTensorValue, tf.compat.v1.SparseTensorValue)


def spec_document(spec: Any) -> Any:
    """A nest of specs as JSON."""
    if spec is None:
        return {"kind": "none"}
    if isinstance(spec, dict):
        return {"kind": "dict", "items": {key: spec_document(item) for key, item in spec.items()}}
    if isinstance(spec, (list, tuple)):
        kind = "list" if isinstance(spec, list) else "tuple"
        return {"kind": kind, "items": [spec_document(item) for item in spec]}
    shape = None if spec.shape.rank is None else spec.shape.as_list()
    document = {"shape": shape, "dtype": spec.dtype.name}
    if isinstance(spec, tf.RaggedTensorSpec):
        splits = {"ragged_rank": spec.ragged_rank, "row_splits_dtype": spec.row_splits_dtype.name}
        return {"kind": "ragged", **document, **splits}
    kind = "sparse" if isinstance(spec, tf.SparseTensorSpec) else "tensor"
    return {"kind": kind, **document, "name": getattr(spec, "name", None)}


def spec_from_document(document: dict[str, Any]) -> Any:
    """The nest of specs again."""
    kind = document["kind"]
    if kind == "none":
        return None
    if kind == "dict":
        return {key: spec_from_document(item) for key, item in document["items"].items()}
    if kind in ("list", "tuple"):
        items = [spec_from_document(item) for item in document["items"]]
        return tuple(items) if kind == "tuple" else items
    dtype = tf.as_dtype(document["dtype"])
    if kind == "ragged":
        splits = tf.as_dtype(document["row_splits_dtype"])
        return tf.RaggedTensorSpec(document["shape"], dtype, document["ragged_rank"], splits)
    if kind == "sparse":
        return tf.SparseTensorSpec(document["shape"], dtype)
    return tf.TensorSpec(document["shape"], dtype, document["name"])
