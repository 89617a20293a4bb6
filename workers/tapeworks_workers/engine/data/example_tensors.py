"""Tensors and specs for the example of a component.

Interface: `Part(nest)` is one part of an example (`inputs`, `y_true`, `y_pred`): its `specs`, its `values`, and whether
these were `invented`. Values that the author gave are taken as they are, floats in the precision of the process, as
`fit` does. `sample(specs)` invents values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tapeworks.components.examples import Form, Value

Example = Mapping[str, Any]


class NotTried(Exception):
    """The example, or the lack of one, leaves nothing to try."""


@dataclass(frozen=True)
class Part:
    """One part of an example, or several as a tuple."""

    nest: Any
    size: int = 2
    """What unknown dimensions of invented values become."""
    batched: bool = True
    """Whether the first dimension of given values is the batch, which may vary."""

    @property
    def invented(self) -> bool:
        """Whether a value is not the author's."""
        return not all(isinstance(leaf, Value) for leaf in tf.nest.flatten(self.nest))

    @property
    def real(self) -> bool:
        """Whether the author gave a value."""
        return any(isinstance(leaf, Value) for leaf in tf.nest.flatten(self.nest))

    @cached_property
    def specs(self) -> Any:
        """The nest of specs that a trace takes."""
        return tf.nest.map_structure(self._spec, self.nest)

    @cached_property
    def values(self) -> Any:
        """The nest of tensors. Raises NotTried."""
        invented = iter(tf.nest.flatten(sample(tf.nest.map_structure(_whole_spec, self.nest), size=self._rows())))
        flat = []
        for leaf in tf.nest.flatten(self.nest):
            other = next(invented)
            flat.append(_tensor(leaf.value, cast=self.batched) if isinstance(leaf, Value) else other)
        return tf.nest.pack_sequence_as(self.nest, flat)

    def _rows(self) -> int:
        """Invented values beside given ones have as many rows."""
        given = (leaf.value for leaf in tf.nest.flatten(self.nest) if isinstance(leaf, Value))
        sizes = (np.shape(value)[0] for value in given if self.batched and np.ndim(value))
        return next(sizes, self.size)

    def _spec(self, leaf: Any) -> Any:
        if not isinstance(leaf, Value):
            return _whole_spec(leaf)
        spec = tf.type_spec_from_value(_tensor(leaf.value, cast=self.batched))
        if self.batched and isinstance(spec, tf.TensorSpec) and spec.shape.rank:
            return tf.TensorSpec([None, *spec.shape[1:]], spec.dtype)
        return spec


def _whole_spec(leaf: Any) -> Any:
    if isinstance(leaf, Value):
        return tf.TensorSpec([], tf.float32)  # never used: a value stands in its place
    if not isinstance(leaf, Form):
        return leaf
    dtype = tf.as_dtype(leaf.dtype)
    if leaf.ragged:
        return tf.RaggedTensorSpec(leaf.shape, dtype, ragged_rank=1)
    return tf.SparseTensorSpec(leaf.shape, dtype) if leaf.sparse else tf.TensorSpec(leaf.shape, dtype)


def _tensor(value: Any, *, cast: bool) -> Any:
    if not (tf.is_tensor(value) or isinstance(value, (tf.RaggedTensor, tf.SparseTensor))):
        value = tf.convert_to_tensor(value.value if isinstance(value, keras.Variable) else value)
    if cast and value.dtype.is_floating and value.dtype == tf.float64:
        return tf.cast(value, keras.config.floatx())
    return value


def sample(spec: Any, *, size: int = 2) -> Any:
    """Tensors for a nest of specs; unknown dimensions become `size`. Floats lie in 0.1 … 0.9, integers are 0 or 1.

    The rows of a RaggedTensor have 0 and `size` elements in turn, those of a SparseTensor 0 and 1. Parts of one nest
    differ, which y_true and y_pred must: where they are equal many a loss has no gradient.
    """
    random = np.random.default_rng(0)
    return tf.nest.map_structure(lambda part: _sample(part, size, random), spec)


def _sample(spec: Any, size: int, random: np.random.Generator) -> Any:
    if spec.shape.rank is None:
        raise NotTried("its example has a tensor of unknown rank")
    shape = [size if length is None else length for length in spec.shape]
    if isinstance(spec, tf.RaggedTensorSpec):
        splits, rows = [], shape[0]
        for _ in range(spec.ragged_rank):
            lengths = np.arange(rows) % 2 * size
            splits.append(tf.constant(np.concatenate([[0], np.cumsum(lengths)]), spec.row_splits_dtype))
            rows = int(lengths.sum())
        values = _numbers(spec.dtype, [rows, *shape[spec.ragged_rank + 1 :]], random)
        return tf.RaggedTensor.from_nested_row_splits(values, splits)
    if isinstance(spec, tf.SparseTensorSpec):
        indices = np.array([[row, *([0] * (len(shape) - 1))] for row in range(1, shape[0], 2)], np.int64)
        indices = indices.reshape(-1, len(shape))
        return tf.SparseTensor(indices, _numbers(spec.dtype, [len(indices)], random), shape)
    if not isinstance(spec, tf.TensorSpec):
        raise NotTried(f"its example holds a {type(spec).__name__}, which has no sample")
    return _numbers(spec.dtype, shape, random)


def _numbers(dtype: tf.DType, shape: list[int], random: np.random.Generator) -> Any:
    if dtype == tf.string:
        return tf.fill(shape, "a")
    if dtype.is_floating:
        return tf.cast(tf.constant(random.uniform(0.1, 0.9, shape)), dtype)
    return tf.cast(tf.constant(random.integers(0, 2, shape)), dtype)
