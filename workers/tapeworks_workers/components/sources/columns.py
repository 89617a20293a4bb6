"""Columns of pyarrow as tensors: dense, ragged where a dimension varies, sparse where they hold indices and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tapeworks_workers.components.sources.arrow_columns import values_of
from tapeworks_workers.components.sources.class_labels import class_numbers
from tapeworks_workers.components.sources.safe_casts import Array, Unfit


@dataclass(frozen=True)
class Description:
    """A column as a job reads it by default, for the content of a dataset."""

    name: str
    dtype: str
    shape: tuple[int | None, ...] = ()
    unreadable: str | None = None
    """Why a job cannot read it."""
    unit: str | None = None
    """What the integers of times are."""


@dataclass(frozen=True)
class Column:
    """A column as tensors: flat values, and row splits for each dimension whose length varies."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    """Of one row; None: it varies."""
    size: int | None = None
    """Of a sparse vector."""
    explicit: bool = False
    """Whether the spec names the dtype: integers may then be rounded to floats."""
    missing: bool = False
    """Whether a null is read as NaN or "": the spec's `nulls`."""
    classes: tuple[str, ...] | None = None
    """Of a label of `string`: the list that numbers it."""

    @property
    def ragged(self) -> int:
        """How many of the leading dimensions are ragged (have row splits)."""
        varying = [index for index, length in enumerate(self.shape) if length is None]
        return varying[-1] + 1 if varying else 0

    @property
    def outputs(self) -> list[tf.DType]:
        """Dtypes of the arrays that a part of the file gives."""
        dtype = tf.as_dtype(self.dtype if self.classes is None else "int64")
        return [dtype, tf.int64, tf.int64] if self.size is not None else [dtype, *[tf.int64] * self.ragged]

    def arrays(self, column: Any) -> list[Array]:
        """The arrays of a pyarrow array. Raises Unfit with the row, ValueError for what does not fit."""
        if self.shape or self.size is not None:
            self._check_nulls(column, None)
        if self.size is not None:
            return self._sparse(column)
        splits: list[Array] = []
        rows = np.arange(len(column))
        for index, length in enumerate(self.shape):
            lengths = _lengths(column)
            if length is not None and not np.all(lengths == length):
                row = int(rows[np.flatnonzero(lengths != length)[0]])
                raise Unfit(row, f"column {self.name!r} holds a list of another length than {length}")
            if index < self.ragged:
                splits.append(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
            column = column.flatten()
            rows = np.repeat(rows, lengths)
            if index < len(self.shape) - 1:
                self._check_nulls(column, rows)
        try:
            return [self._values(column, rows), *splits]
        except Unfit as unfit:
            colon = "" if unfit.message.startswith(("has ", "holds ")) else ":"
            message = f"column {self.name!r}{colon} {unfit.message}"
            raise Unfit(int(rows[unfit.position]), message) from unfit

    def _values(self, column: Any, rows: Array) -> Array:
        """The values of an array without lists, those that are missing as the spec's `nulls` says. Raises Unfit."""
        if not column.null_count:
            values = values_of(column, self.dtype, explicit=self.explicit)
        elif not self.missing:
            raise Unfit(_first_null(column), _NULL.format(_MISSING.get(self.dtype, "NaN")))
        elif self.dtype != "string" and not tf.as_dtype(self.dtype).is_floating:
            raise Unfit(_first_null(column), _NO_MISSING.format(self.dtype))
        else:
            known = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
            try:
                present = values_of(column.drop_null(), self.dtype, explicit=self.explicit)
            except Unfit as unfit:
                raise Unfit(int(known[unfit.position]), unfit.message) from unfit
            values = np.full(len(column), b"" if self.dtype == "string" else np.nan, present.dtype)
            values[known] = present
        return values if self.classes is None else class_numbers(values, self.classes, missing=self.missing)

    def _check_nulls(self, column: Any, rows: Array | None) -> None:
        """Raises Unfit for a list that is missing. `rows`: the row of each, where there are several in a row."""
        if column.null_count:
            position = _first_null(column)
            row = position if rows is None else int(rows[position])
            raise Unfit(row, f"column {self.name!r} has no value (null) where a list belongs; write an empty list, or "
                        "choose features without it")  # fmt: skip

    def _sparse(self, column: Any) -> list[Array]:
        indices, values = column.field("indices"), column.field("values")
        lengths = _lengths(indices)
        if not np.array_equal(lengths, _lengths(values)):
            raise ValueError(f"column {self.name!r} holds indices and values of different lengths")
        if indices.flatten().null_count or values.flatten().null_count:
            raise ValueError(f"column {self.name!r} holds an index or value that is null; leave both out")
        at = values_of(indices.flatten(), "int64", explicit=True)
        given = values_of(values.flatten(), self.dtype, explicit=True)
        if len(at) and (at.min() < 0 or at.max() >= int(self.size or 0)):
            raise ValueError(f"column {self.name!r} holds an index outside 0 … {int(self.size or 0) - 1}")
        row = np.repeat(np.arange(len(lengths)), lengths)
        order = np.lexsort((at, row))
        return [given[order], np.stack([row, at[order]], 1), np.array(len(lengths))]

    def tensor(self, parts: Sequence[tf.Tensor]) -> Any:
        """The rows of a part as one tensor, ragged or sparse where the column is."""
        values, *others = parts
        if self.size is not None:
            shape = tf.stack([others[1], tf.constant(self.size, tf.int64)])
            sparse = tf.SparseTensor(tf.ensure_shape(others[0], [None, 2]), tf.ensure_shape(values, [None]), shape)
            sparse.set_shape([None, self.size])
            return sparse
        values = tf.reshape(values, [-1, *(length or -1 for length in self.shape[self.ragged :])])
        for splits in reversed(others):
            values = tf.RaggedTensor.from_row_splits(values, tf.ensure_shape(splits, [None]), validate=False)
        return values


@dataclass(frozen=True)
class ImageColumn(Column):
    """Encoded images: bytes, or structs that hold them in a field `bytes`, as Hugging Face writes them."""

    @property
    def outputs(self) -> list[tf.DType]:
        return [tf.string]

    def arrays(self, column: Any) -> list[Array]:
        import pyarrow as pa

        check_nulls(column, self.name)
        if pa.types.is_struct(column.type):
            column = column.field("bytes")
            if column.null_count:
                row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
                raise Unfit(row, f"column {self.name!r} holds no bytes, perhaps only the path of an image")
        return [values_of(column, "string", explicit=True)]

    def tensor(self, parts: Sequence[tf.Tensor]) -> Any:
        return tf.ensure_shape(parts[0], [None])


def holds_images(kind: Any) -> bool:
    """Whether a column of this Arrow type can hold encoded images."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and pa.types.is_binary(field.type) for field in kind)
    return any(getattr(pa.types, one)(kind) for one in ("is_binary", "is_large_binary", "is_binary_view"))


def check_nulls(column: Any, name: str, rows: Array | None = None) -> None:
    """Raises Unfit where a value is missing. `rows`: the row of each value, where there are several in a row."""
    if column.null_count:
        position = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        row = position if rows is None else int(rows[position])
        raise Unfit(row, f"column {name!r} has no value (null); fill it, or choose features without it")


_MISSING = {"string": '""'}
_NULL = 'has no value (null); "nulls": "missing" reads it as {}, or choose features without it'
_NO_MISSING = "has no value (null), which {} cannot hold; dtypes of float32 for the column reads it as NaN"


def _first_null(column: Any) -> int:
    return int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])


def _lengths(column: Any) -> Array:
    import pyarrow as pa

    if pa.types.is_fixed_size_list(column.type):
        return np.full(len(column), column.type.list_size)
    return np.asarray(column.value_lengths().to_numpy(zero_copy_only=False))
