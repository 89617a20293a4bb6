"""Batches of rows that lie in memory: the indices are shuffled, and a batch is one gather.

tf.data takes every element by itself through `shuffle` and `batch`, keeps a buffer that a checkpoint must hold, and
begins anew with each pass. Where the source is in memory and the buffer covers it, a batch is a function of its number
alone: nothing is filled, nothing needs to be saved, and passes follow each other without a gap. The order of a pass
is then a full, seeded permutation.

Interface: `find(dataset, operations)` gives the `Rows` that the first operations stand for; `in_memory(dataset)` what
it slices, and `taken` some of these rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from tapeworks_workers.engine.data.operations import PreparedOp
from tapeworks_workers.engine.graph.autograph import engine_code
from tapeworks_workers.engine.graph.tensorflow_private import sliced_tensors

_SPECS = (tf.TensorSpec, tf.RaggedTensorSpec, tf.SparseTensorSpec)


@dataclass(frozen=True, eq=False)
class SparseRows:
    """A SparseTensor, its values and where they are in their rows, so that rows can be gathered."""

    values: tf.RaggedTensor
    """(rows, values of each)."""
    places: tf.RaggedTensor
    """(rows, values of each, rank - 1)."""
    shape: list[int | None]
    """Of a row."""

    @classmethod
    def of(cls, sparse: tf.SparseTensor) -> SparseRows:
        """Returns the rows of a SparseTensor whose indices are in order."""
        rows = tf.cast(sparse.dense_shape[0], tf.int64)

        def ragged(values: tf.Tensor) -> tf.RaggedTensor:
            return tf.RaggedTensor.from_value_rowids(values, sparse.indices[:, 0], rows, validate=False)

        return cls(ragged(sparse.values), ragged(sparse.indices[:, 1:]), sparse.shape.as_list()[1:])

    def taken(self, places: tf.Tensor) -> tf.SparseTensor:
        """These rows."""
        values, at = tf.gather(self.values, places), tf.gather(self.places, places)
        indices = tf.concat([values.value_rowids()[:, None], at.values], 1)
        shape = [tf.size(places, tf.int64), *(tf.constant(length, tf.int64) for length in self.shape)]
        sparse = tf.SparseTensor(indices, values.values, tf.stack(shape))
        sparse.set_shape([None, *self.shape])
        return sparse


@dataclass(frozen=True, eq=False)
class Rows:
    """Arrays, and how they are cut into batches. Batches are numbered through all passes."""

    arrays: Any
    """A nest of tensors of shape (size, …), RaggedTensors and SparseRows."""
    element: Any
    """The nest of specs of one row."""
    size: int
    batch_size: int
    drop_remainder: bool
    seed: int | None
    """Of the order; None: as they lie."""

    @property
    def full(self) -> int:
        """Batches of the full size in a pass."""
        return self.size // self.batch_size

    @property
    def steps(self) -> int:
        """Batches in a pass."""
        return self.full if self.drop_remainder or self.size % self.batch_size == 0 else self.full + 1

    @property
    def element_spec(self) -> Any:
        """The element spec of a batch, as a dataset of these rows reports it."""
        size = self.batch_size if self.steps == self.full else None
        return tf.nest.map_structure(lambda spec: spec._batch(size), self.element)

    def batch(self, number: tf.Tensor) -> Any:
        """The batch of a number: an int64 scalar."""
        start = number % self.steps * self.batch_size
        if self.steps == self.full:
            places = start + tf.range(self.batch_size, dtype=tf.int64)
        else:
            places = tf.range(start, tf.minimum(start + self.batch_size, self.size))
        return self._at(places, number // self.steps)

    def stacked(self, number: tf.Tensor, count: int) -> Any:
        """`count` full batches of one pass, the first of this number: dense leaves of shape (count, batch_size, …).

        Beyond the end of the pass its last row is repeated.
        """
        start = number % self.steps * self.batch_size
        places = tf.minimum(start + tf.range(count * self.batch_size, dtype=tf.int64), self.size - 1)
        rows = self._at(places, number // self.steps)
        return tf.nest.map_structure(lambda t: tf.reshape(t, [count, self.batch_size, *t.shape[1:]]), rows)

    def _at(self, places: tf.Tensor, pass_number: tf.Tensor) -> Any:
        with tf.device("/CPU:0"):  # where the arrays lie: only batches go to another device
            return self._gathered(places, pass_number)

    def _gathered(self, places: tf.Tensor, pass_number: tf.Tensor) -> Any:
        if self.seed is not None:
            key = tf.random.experimental.stateless_fold_in(tf.constant([self.seed, 0], tf.int64), pass_number)
            places = tf.random.experimental.index_shuffle(places, key, tf.constant(self.size - 1, tf.int64))
        return tf.nest.map_structure(lambda array: taken(array, places), self.arrays)

    def of_pass(self, number: int) -> tf.data.Dataset:
        """The batches of one pass."""
        return self._between(number * self.steps, (number + 1) * self.steps)

    def stream(self, number: int) -> tf.data.Dataset:
        """The batches from this number on, pass after pass without end."""
        return self._between(number, tf.int64.max)

    def _between(self, first: int, end: int) -> tf.data.Dataset:
        return tf.data.Dataset.range(first, end).map(engine_code(self.batch))


def find(dataset: tf.data.Dataset, applied: Sequence[PreparedOp]) -> tuple[Rows, int] | None:
    """The rows that a dataset and the first operations on it stand for, and how many operations these are.

    None where elements are not in memory, or are not just shuffled as a whole and batched.
    """
    arrays = in_memory(dataset)
    size = int(dataset.cardinality())
    if arrays is None:
        return None
    seed = None
    for index, item in enumerate(applied):
        operation = item.operation
        if operation.op == "shuffle" and seed is None and operation.buffer_size >= size:
            seed = item.seed
        elif operation.op in ("batch", "ragged_batch"):
            rows = Rows(arrays, dataset.element_spec, size, operation.batch_size, operation.drop_remainder, seed)
            return None if rows.steps == 0 else (rows, index + 1)
        elif operation.op != "cache" or seed is not None:
            return None
    return None


def in_memory(dataset: tf.data.Dataset) -> Any:
    """What a dataset slices: a nest of tensors, RaggedTensors and SparseRows. None where it does something else, or
    has no rows."""
    size = int(dataset.cardinality())
    known = all(isinstance(spec, _SPECS) for spec in tf.nest.flatten(dataset.element_spec))
    whole = sliced_tensors(dataset, size) if known and size != 0 else None
    if whole is None:
        return None
    return tf.nest.map_structure(lambda leaf: SparseRows.of(leaf) if isinstance(leaf, tf.SparseTensor) else leaf, whole)


def taken(array: Any, places: Any) -> Any:
    """Rows of what `in_memory` gives, at these places."""
    return array.taken(places) if isinstance(array, SparseRows) else tf.gather(array, places)
