"""The leaves of an element, a batch or a call's arguments: each with its path, kind, shape and dtype."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

FIELDS = ("x", "y", "sample_weight")


def fields(nest: Any, path: str | None = None) -> list[tuple[str, Any]]:
    """The leaves of a nest with their paths; without a `path` it is an element: `x`, `(x, y)`, …, as in Keras."""
    if path is None:
        return named_leaves(nest)
    if isinstance(nest, Mapping):
        return [leaf for key in nest for leaf in fields(nest[key], f"{path}.{key}")]
    if isinstance(nest, tuple | list):
        return [leaf for index, item in enumerate(nest) for leaf in fields(item, f"{path}.{index}")]
    return [(path, nest)]


def document(path: str, value: Any) -> dict[str, Any]:
    """A tensor or its spec as JSON: field, kind (dense, ragged or sparse), shape (null: unknown) and dtype."""
    spec = value if isinstance(value, tf.TypeSpec) else tf.type_spec_from_value(value)
    kinds = {tf.RaggedTensorSpec: "ragged", tf.SparseTensorSpec: "sparse"}
    shape = None if spec.shape.rank is None else spec.shape.as_list()
    return {"field": path, "kind": kinds.get(type(spec), "dense"), "shape": shape, "dtype": spec.dtype.name}


def documents(nest: Any, path: str | None = None) -> list[dict[str, Any]]:
    """`document` of each leaf."""
    return [document(field, leaf) for field, leaf in fields(nest, path)]


def described(value: Any) -> str:
    """A leaf in words: `float32 (None, 4)`, `ragged int64 (None, None)`; a Python value as Python writes it."""
    if not isinstance(value, tf.TypeSpec) and not tf.is_tensor(value):
        return f"the Python value {value!r}"[:100]
    spec = document("", value)
    kind = "" if spec["kind"] == "dense" else spec["kind"] + " "
    shape = "of unknown rank" if spec["shape"] is None else str(tuple(spec["shape"]))
    return f"{kind}{spec['dtype']} {shape}"


def named_leaves(nest: Any, path: str = "") -> list[tuple[str, Any]]:
    """The leaves of an element (or of the part of it at `path`) with their field paths."""
    found: list[tuple[str, Any]] = []
    map_leaves(lambda at, leaf: found.append((at, leaf)), nest, path)
    return found


def map_leaves(function: Callable[[str, Any], Any], nest: Any, path: str = "") -> Any:
    """The nest with every leaf replaced by `function(path, leaf)`."""
    if isinstance(nest, Mapping):
        return {key: map_leaves(function, item, f"{path or 'x'}.{key}") for key, item in nest.items()}
    if isinstance(nest, tuple | list):
        names = [FIELDS[index] if index < len(FIELDS) else str(index) for index in range(len(nest))]
        at = [f"{path}.{name}" if path else name for name in names]
        return tuple(map_leaves(function, item, place) for item, place in zip(nest, at, strict=True))
    return function(path or "x", nest)
