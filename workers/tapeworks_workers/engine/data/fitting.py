"""The part of a batch that fits a spec."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tensorflow as tf


def fitting_part(spec: Any, batch: Any) -> Any:
    """The batch, or the first of its parts, that fits a spec, extra keys left out; None: none does."""
    found = (_fitting(spec, candidate) for candidate in _parts(batch))
    return next((part for part in found if part is not None), None)


def _parts(nest: Any) -> Iterator[Any]:
    """The nest and everything inside it: a role of several unpaired sources takes a part of a part."""
    yield nest
    if isinstance(nest, (dict, list, tuple)) and not hasattr(nest, "dtype"):
        for part in nest.values() if isinstance(nest, dict) else nest:
            yield from _parts(part)


def _fitting(spec: Any, value: Any) -> Any:
    """The part of `value` of the spec's structure, dtypes and shapes, extra keys left out; None: it does not fit."""
    if isinstance(spec, dict):
        if not isinstance(value, dict) or not spec.keys() <= value.keys():
            return None
        parts = {key: _fitting(item, value[key]) for key, item in spec.items()}
        return None if any(part is None for part in parts.values()) else parts
    if isinstance(spec, (list, tuple)):
        if not isinstance(value, (list, tuple)) or len(spec) != len(value):
            return None
        items = [_fitting(item, part) for item, part in zip(spec, value, strict=True)]
        return None if any(item is None for item in items) else type(spec)(items)
    if isinstance(value, (dict, list, tuple)) and not hasattr(value, "dtype"):
        return None
    return value if spec.is_compatible_with(tf.type_spec_from_value(_tensor(value))) else None


def _tensor(value: Any) -> Any:
    return value if tf.is_tensor(value) else tf.convert_to_tensor(value)
