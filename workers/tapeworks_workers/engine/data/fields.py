"""Fields of an element: paths to them, and the operations that replace one.

An element is `x`, `(x, y)` or `(x, y, sample_weight)`; x and y may be dicts. A path (`x`, `x.age`, `y`) leads through
dicts by key; where a dict holds whole elements (`zip`), it goes on with theirs: `x.photos.y`.

Interface: `on_element` calls a transform with the element's parts, or replaces one field by its result; `pick` reads a
field; `one_hot`, `to_sparse`, `to_ragged`
and `cast` are what the operations of those names do to a field.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tapeworks.errors import FailureCode, JobFailure
from tapeworks_workers.engine.graph.autograph import call_user_code
from tapeworks_workers.engine.graph.element_spec import FIELDS, named_leaves


def on_element(function: Callable[..., Any], element: tuple[Any, ...], field: str | None) -> Any:
    """Call a transform with the element's parts as arguments, or replace one field of it by the result."""
    if field is None:
        result = call_user_code(function, *element)
        return tuple(result) if isinstance(result, list) else result
    parts = _replaced(element, field, function, field)
    return parts if len(parts) > 1 else parts[0]


def pick(element: tuple[Any, ...], field: str) -> Any:
    """What stands at a path. Raises JobFailure `invalid_data` saying what is there instead."""
    value: Any = element
    path = field
    while path:
        key, path = _step(value, path, field)
        value = value[key]
    return value


def _replaced(value: Any, path: str, function: Callable[..., Any], field: str) -> Any:
    if not path:
        return call_user_code(function, value)
    key, rest = _step(value, path, field)
    replaced = _replaced(value[key], rest, function, field)
    if isinstance(value, Mapping):
        return {**value, key: replaced}
    return (*value[:key], replaced, *value[key + 1 :])


def _step(value: Any, path: str, field: str) -> tuple[Any, str]:
    """The index or key that a path begins with, and the rest of the path. Of keys with dots, the longest that fits."""
    if isinstance(value, tuple | list):
        names = FIELDS[: len(value)]
        key, _, rest = path.partition(".")
        if key in names:
            return names.index(key), rest
        raise _missing(f"the element has no {key!r}: it is ({', '.join(names)})")
    if isinstance(value, Mapping):
        fitting = [key for key in value if path == key or path.startswith(f"{key}.")]
        if fitting:
            longest = max(fitting, key=len)
            return longest, path[len(longest) + 1 :]
    have = f"has {sorted(value)}" if isinstance(value, Mapping) else "is not a dict"
    raise _missing(f"the element has no field {field!r}: the part before {path!r} {have}")


def _missing(message: str) -> JobFailure:
    return JobFailure(FailureCode.INVALID_DATA, message)


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────


def complete(element: tuple[Any, ...], paths: Sequence[str] | None, *, missing_labels: bool) -> tf.Tensor:
    """Whether every value below the paths is there: no NaN, no empty text. None: of the whole element.

    `missing_labels`: whether a y of -1 is a label that is missing.
    """
    parts = [named_leaves(pick(element, path), path) for path in paths] if paths else [named_leaves(element)]
    leaves = [leaf for part in parts for leaf in part]
    present = [_present(leaf) for _, leaf in leaves]
    labels = [leaf for path, leaf in leaves if path == "y" and missing_labels and leaf.dtype.is_integer]
    present += [tf.reduce_all(leaf != -1) for leaf in labels]
    return tf.reduce_all(tf.stack([one for one in present if one is not None] or [tf.constant(True)]))


def _present(leaf: Any) -> tf.Tensor | None:
    """Whether no value of a tensor is missing; None where none can be."""
    if isinstance(leaf, tf.RaggedTensor):
        leaf = leaf.flat_values
    if isinstance(leaf, tf.SparseTensor):
        leaf = leaf.values
    if leaf.dtype == tf.string:
        return tf.reduce_all(leaf != "")
    return tf.reduce_all(~tf.math.is_nan(leaf)) if leaf.dtype.is_floating else None


# ── what operations do to a field ────────────────────────────────────────────────────────────────


def cast(value: Any, *, dtype: str) -> Any:
    """`tf.cast` of every tensor."""
    return tf.nest.map_structure(lambda tensor: tf.cast(tensor, dtype), value)


def one_hot(ids: Any, *, depth: int, dtype: str, sparse: bool, zeros_outside: bool = False) -> Any:
    """`tf.one_hot`, or the same as a SparseTensor whose zeros are never made.

    Ids outside 0 … depth-1 are refused when they come, unless `zeros_outside`: they have no one then.
    """
    if isinstance(ids, tf.SparseTensor) or not ids.dtype.is_integer:
        raise JobFailure(
            FailureCode.INVALID_DATA, f"one_hot takes integers, not {_dtype_text(ids)}", hint="Cast the field first."
        )
    ids = tf.cast(ids, tf.int64) if zeros_outside else _in_range(tf.cast(ids, tf.int64), depth)
    if not sparse:
        return tf.one_hot(ids, depth, dtype=dtype)
    if isinstance(ids, tf.RaggedTensor):
        raise JobFailure(FailureCode.INVALID_DATA, "one_hot with sparse takes no ragged ids")
    flat = tf.reshape(ids, [-1])
    kept = tf.where((flat >= 0) & (flat < depth))
    if ids.shape.rank:
        before = tf.transpose(tf.unravel_index(kept[:, 0], tf.shape(ids, tf.int64)))
    else:
        before = kept[:, :0]
    at = tf.concat([before, tf.gather_nd(flat, kept)[:, None]], 1)
    shape = tf.concat([tf.shape(ids, tf.int64), [depth]], 0)
    result = tf.SparseTensor(at, tf.ones([tf.shape(at)[0]], dtype), shape)
    # The static shape: what the batch's spec tells the model of its last dimension.
    result.set_shape([*ids.shape.as_list(), depth])
    return result


def _in_range(ids: Any, depth: int) -> Any:
    """The ids; running them fails as invalid data where one has no place in the one-hot, which would be all zeros."""
    flat = ids.flat_values if isinstance(ids, tf.RaggedTensor) else ids
    values = tf.reshape(flat, [-1])
    outside = tf.boolean_mask(values, (values < 0) | (values >= depth))
    found = tf.strings.as_string(tf.concat([outside, [0]], 0)[0])
    message = tf.strings.join(
        [
            "invalid data: one_hot with depth ",
            str(depth),
            f" takes ids from 0 to {depth - 1}, and the data holds ",
            found,
        ]
    )
    check = tf.debugging.Assert(tf.size(outside) == 0, [message])
    with tf.control_dependencies([check] if check is not None else []):
        return ids.with_flat_values(tf.identity(flat)) if isinstance(ids, tf.RaggedTensor) else tf.identity(flat)


def to_sparse(value: Any) -> Any:
    """Dense and ragged tensors as SparseTensors; sparse ones stay."""

    def convert(tensor: Any) -> Any:
        if isinstance(tensor, tf.RaggedTensor):
            return tensor.to_sparse()
        if isinstance(tensor, tf.SparseTensor):
            return tensor
        result = tf.sparse.from_dense(tensor)
        result.set_shape(tensor.shape)
        return result

    return tf.nest.map_structure(convert, value)


def to_ragged(value: Any, *, padding: Any) -> Any:
    """Dense (rank 2 and up) and sparse tensors as RaggedTensors; a single row loses its padding."""
    return tf.nest.map_structure(functools.partial(_row_lengths, padding=padding), value)


def _row_lengths(tensor: Any, *, padding: Any) -> Any:
    if isinstance(tensor, tf.RaggedTensor):
        return tensor
    if isinstance(tensor, tf.SparseTensor):
        return tf.RaggedTensor.from_sparse(tensor)
    if not tensor.shape.rank:
        raise JobFailure(
            FailureCode.INVALID_DATA, f"to_ragged takes rows, not {_dtype_text(tensor)}", hint="Put it after batch."
        )
    filler = None if padding is None else tf.cast(padding, tensor.dtype)
    if tensor.shape.rank == 1:
        return tf.RaggedTensor.from_tensor(tensor[None], padding=filler)[0]
    return tf.RaggedTensor.from_tensor(tensor, padding=filler)


def _dtype_text(tensor: Any) -> str:
    return f"a {type(tensor).__name__} of {tensor.dtype.name} and shape {tensor.shape}"
