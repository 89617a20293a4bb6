"""What served models take and give: names for both, and a signature for servers that know dense tensors only.

`named_specs` names inputs by their keys and `named_outputs` outputs by theirs. `flat_signature` takes what is ragged or
sparse in parts: a RaggedTensor `x` as `x_values` and `x_row_splits` (`x_row_splits_0`, … from the outermost, where
several dimensions are ragged), a SparseTensor as `x_indices`, `x_values` and `x_dense_shape`. The key `x` is left out
where there is one input only. Outputs come in parts likewise.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

SERVING_FLAT = "serving_flat"
_NOT_AS_ARGUMENTS = frozenset({"self", "args", "kwargs"})
"""Names that TensorFlow's own functions have."""


def named_specs(spec: Any) -> Any:
    """The specs named by their keys (`x` where there is but one): unnamed ones would be exported as x, x_1, ….

    A nested key is joined by `_`; what TensorFlow's names cannot hold becomes `_`; words of Python get `x_` before
    them, and names that differ by their case alone a `_` behind. Specs of ragged and sparse tensors stay: they can have
    no name.
    """
    taken: set[str] = set()

    def named(item: Any, path: tuple[str, ...]) -> Any:
        if isinstance(item, dict):
            return {key: named(value, (*path, str(key))) for key, value in item.items()}
        if isinstance(item, (list, tuple)):
            return type(item)([named(value, (*path, str(index))) for index, value in enumerate(item)])
        if not isinstance(item, tf.TensorSpec):
            return item
        return tf.TensorSpec(item.shape, item.dtype, name=_unique(path or ("x",), taken))

    return named(spec, ())


def _unique(path: tuple[str, ...], taken: set[str]) -> str:
    name = re.sub(r"\W+", "_", "_".join(path), flags=re.ASCII).strip("_") or "x"
    name = name if name[0].isalpha() else f"x_{name}"
    if keyword.iskeyword(name) or name in _NOT_AS_ARGUMENTS:
        name = f"x_{name}"
    while name.lower() in taken:  # a SavedModel's signature ignores their case
        name += "_"
    taken.add(name.lower())
    return name


def named_outputs(outputs: Any) -> tuple[list[str], Any]:
    """What a signature may return (a tensor, or a flat dict of them), and its names in tf.nest's order."""
    if tf.is_tensor(outputs):
        return ["output_0"], outputs
    taken: set[str] = set()
    if isinstance(outputs, dict) and all(tf.is_tensor(value) for value in outputs.values()):
        names = [_unique((str(key),), taken) for key in sorted(outputs)]
    else:
        names = [f"output_{index}" for index, _ in enumerate(tf.nest.flatten(outputs))]
    return names, dict(zip(names, tf.nest.flatten(outputs), strict=True))


# ── in parts ─────────────────────────────────────────────────────────────────────────────────────


def flat_signature(spec: Any, call: Callable[[Any], Any]) -> tuple[Any, dict[str, list[str]]]:
    """A tf.function of the parts of `spec`, which gives the parts of what `call` does.

    Also the names of its arguments and, once it is traced, of its outputs: {"inputs": […], "outputs": […]}, in
    tf.nest's order with composites expanded. Row splits are checked in the graph.
    """
    taken: set[str] = set()
    specs = [part for path, leaf in keras.tree.flatten_with_path(spec) for part in _part_specs(path, leaf, taken)]
    names: dict[str, list[str]] = {"inputs": [part.name for part in specs], "outputs": []}

    @tf.function(input_signature=[specs], autograph=False)
    def serve(parts: list[Any]) -> dict[str, Any]:
        waiting = iter(parts)
        outputs, result = named_outputs(call(tf.nest.map_structure(lambda leaf: _whole(leaf, waiting), spec)))
        values = [result[name] for name in outputs] if isinstance(result, dict) else [result]
        flat = dict(part for name, value in zip(outputs, values, strict=True) for part in _parts(name, value))
        names["outputs"] = list(flat)
        return flat

    return serve, names


def _part_names(ragged_rank: int | None) -> list[str]:
    """The parts of a RaggedTensor, or (None) of a SparseTensor, in tf.nest's order."""
    if ragged_rank is None:
        return ["indices", "values", "dense_shape"]
    return [
        "values",
        *(["row_splits"] if ragged_rank == 1 else [f"row_splits_{index}" for index in range(ragged_rank)]),
    ]


def _part_specs(path: tuple[Any, ...], leaf: Any, taken: set[str]) -> Iterator[tf.TensorSpec]:
    keys = tuple(map(str, path))
    if isinstance(leaf, tf.TensorSpec):
        yield tf.TensorSpec(leaf.shape, leaf.dtype, _unique(keys or ("x",), taken))
        return
    names = _part_names(leaf.ragged_rank if isinstance(leaf, tf.RaggedTensorSpec) else None)
    for name, part in zip(names, tf.nest.flatten(leaf, expand_composites=True), strict=True):
        yield tf.TensorSpec(part.shape, part.dtype, _unique((*keys, name), taken))


def _whole(leaf: Any, parts: Iterator[Any]) -> Any:
    """The next input of the spec, from its parts."""
    if isinstance(leaf, tf.RaggedTensorSpec):
        values = next(parts)
        return tf.RaggedTensor.from_nested_row_splits(values, [next(parts) for _ in range(leaf.ragged_rank)])
    if isinstance(leaf, tf.SparseTensorSpec):
        return tf.nest.pack_sequence_as(leaf, [next(parts) for _ in range(3)], expand_composites=True)
    return next(parts)


def _parts(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, tf.Tensor):
        yield name, value
        return
    names = _part_names(value.ragged_rank if isinstance(value, tf.RaggedTensor) else None)
    for part, tensor in zip(names, tf.nest.flatten(value, expand_composites=True), strict=True):
        yield f"{name}_{part}", tensor
