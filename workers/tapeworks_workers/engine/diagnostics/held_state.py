"""What a component keeps in its attributes: variables, random generators, layers, optimizers and metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

_LEAVES = (
    tf.Variable, keras.Variable, tf.random.Generator,
    keras.Layer, keras.optimizers.Optimizer, keras.metrics.Metric,
)  # fmt: skip
_PLAIN = (str, bytes, int, float, bool, type(None), type)


def held(root: Any, prefix: str, *, skip: Any = ()) -> Iterator[tuple[str, Any]]:
    """(path, object) through containers, tf.Modules and plain objects, each object once, in a stable order.

    Objects are tf.Variable, keras.Variable, tf.random.Generator and what owns variables itself: layers, optimizers
    and metrics, which are not looked into. `skip`: a class, or a tuple of them, whose instances are left out.
    """
    visited: set[int] = set()

    def walk(value: Any, path: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, _PLAIN) or isinstance(value, skip) or id(value) in visited:
            return
        visited.add(id(value))
        if isinstance(value, _LEAVES):
            yield path, value
        elif isinstance(value, Mapping):
            for key in value:
                yield from walk(value[key], f"{path}/{key}")
        elif isinstance(value, list | tuple):
            for index, item in enumerate(value):
                yield from walk(item, f"{path}/{index}")
        elif hasattr(value, "__dict__"):
            for key in sorted(vars(value)):
                yield from walk(vars(value)[key], f"{path}/{key}")

    yield from walk(root, prefix)


def held_variables(root: Any, prefix: str, known: set[int], *, skip: Any = ()) -> dict[str, tf.Variable]:
    """Path → variable, less those in `known` (ids of tf.Variables), which gets them."""
    found: dict[str, tf.Variable] = {}
    for path, item in held(root, prefix, skip=skip):
        if isinstance(item, tf.random.Generator):
            parts = {path: item.state}
        elif isinstance(item, tf.Variable | keras.Variable):
            parts = {path: item}
        else:
            parts = {f"{path}/{index}": variable for index, variable in enumerate(item.variables)}
        for name, variable in parts.items():
            inner = variable.value if isinstance(variable, keras.Variable) else variable
            if id(inner) not in known:
                known.add(id(inner))
                found[name] = inner
    return found


def held_metrics(root: Any, *, skip: Any = ()) -> list[keras.metrics.Metric]:
    """The metrics among them, those of layers included."""
    found: list[keras.metrics.Metric] = []
    for _, item in held(root, "", skip=skip):
        if isinstance(item, keras.metrics.Metric):
            found.append(item)
        elif isinstance(item, keras.Layer):
            found += item.metrics
    return found
