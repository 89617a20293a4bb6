"""Arrow types as tensors: the default form of each type, one form for several files, values by safe casts.

| Arrow type | in the element |
|---|---|
| integers | their own width; of several files the widest |
| float16, float, double, decimals | the job's float |
| bool | bool |
| string, large_string, string_view, binary and its like, dictionaries of them | string |
| timestamp of any unit | int64: microseconds since 1970-01-01 (UTC where it has a zone) |
| date32, date64 | int64: days since 1970-01-01 |
| time32, time64, duration | int64: microseconds |
| struct of `bytes` (binary) and `path`, as Hugging Face stores images | string: the bytes |
| lists | of their values' form, with one more dimension |
| struct, map, union, interval, extension types (uuid), null | none: the column cannot be read |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tapeworks_workers.components.sources.safe_casts import Array, Unfit, fitted

_PER_MICROSECOND = {"s": 1_000_000, "ms": 1_000, "us": 1}
_UNITS = {
    "timestamp": "microseconds since 1970-01-01",
    "instant": "microseconds since 1970-01-01 UTC",
    "date": "days since 1970-01-01",
    "time": "microseconds since midnight",
    "duration": "microseconds",
}


class Unreadable(ValueError):
    """No tensor can be made of a column; the message says why."""


@dataclass(frozen=True)
class Form:
    """What a column holds, whatever the width its file stores it in."""

    kind: str
    """`float`, `bool`, `string`, `empty`, an integer dtype, or a kind of times; `instant`: a timestamp with a zone."""
    shape: tuple[int | None, ...] = ()
    """Of one row; None: it varies."""

    @property
    def dtype(self) -> str:
        """The default dtype of its tensor."""
        if self.kind == "empty":
            raise Unreadable("holds nothing but nulls")
        if self.kind == "float":
            return str(keras.config.floatx())
        return self.kind if self.kind in ("bool", "string") or "int" in self.kind else "int64"

    @property
    def unit(self) -> str | None:
        """What the integers of times are; None where the column holds none."""
        return _UNITS.get(self.kind)


def form_of(kind: Any) -> Form:
    """The form of an Arrow type. Raises Unreadable."""
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(kind):
        return form_of(kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inner = form_of(kind.value_type)
        return Form(inner.kind, (kind.list_size if types.is_fixed_size_list(kind) else None, *inner.shape))
    if types.is_union(kind):
        raise Unreadable("holds values of several types")
    if types.is_integer(kind):
        return Form(str(kind))
    if is_embedded_file(kind):
        return Form("string")
    for name, matches in _KINDS.items():
        if any(getattr(types, one)(kind) for one in matches):
            return Form("instant" if name == "timestamp" and kind.tz else name)
    raise Unreadable(f"is {kind}, which no tensor can hold")


def is_embedded_file(kind: Any) -> bool:
    """Whether a type is the struct in which Hugging Face's `datasets` holds an image or a sound."""
    import pyarrow as pa

    types = pa.types
    if not types.is_struct(kind) or {field.name for field in kind} != {"bytes", "path"}:
        return False
    return bool(types.is_binary(kind.field("bytes").type) or types.is_large_binary(kind.field("bytes").type))


_KINDS = {
    "float": ("is_floating", "is_decimal"),
    "bool": ("is_boolean",),
    "string": (
        "is_string", "is_large_string", "is_string_view", "is_binary", "is_large_binary", "is_binary_view",
        "is_fixed_size_binary",
    ),
    "timestamp": ("is_timestamp",),
    "date": ("is_date",),
    "time": ("is_time",),
    "duration": ("is_duration",),
    "empty": ("is_null",),
}  # fmt: skip


def joined(forms: Mapping[str, Form]) -> Form:
    """One form for a column of several files, by file name. Raises Unreadable, which names two files that differ."""
    (first, whole), *others = forms.items()
    for name, form in others:
        both = _both(whole, form)
        if both is None:
            raise Unreadable(f"is {whole.kind}{_lists(whole)} in {first} and {form.kind}{_lists(form)} in {name}")
        first, whole = (first, both) if both == whole else (name, both)
    return whole


def _lists(form: Form) -> str:
    return f" of shape {list(form.shape)}" if form.shape else ""


def _both(one: Form, other: Form) -> Form | None:
    if one == other or other == Form("empty"):
        return one
    if one == Form("empty"):
        return other
    if len(one.shape) != len(other.shape):
        return None
    shape = tuple(a if a == b else None for a, b in zip(one.shape, other.shape, strict=True))
    kinds = {one.kind, other.kind} - {"empty"}
    if len(kinds) == 1:
        return Form(kinds.pop(), shape)
    integers = {kind for kind in kinds if "int" in kind}
    if len(integers) == 2:
        wide = str(np.promote_types(one.kind, other.kind))
        return Form(wide if "int" in wide else "int64", shape)
    return Form("float", shape) if len(integers) == 1 and "float" in kinds else None


def values_of(column: Any, dtype: str, *, explicit: bool) -> Array:
    """What an Arrow array without nulls and lists holds, texts as bytes. Raises Unfit, and ValueError of pyarrow."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        column = _decoded(column)
        kind = column.type
    if is_embedded_file(kind):
        column = column.field("bytes")
        kind = column.type
        for position in np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)):
            raise Unfit(int(position), "has a path and no bytes; embed the files before the dataset is written")
    texts = form_of(kind).kind == "string"
    if dtype == "string":
        if pa.types.is_fixed_size_binary(kind):
            return np.asarray(column.to_numpy(zero_copy_only=False), object)
        column = column if texts else column.cast(pa.string())
        return np.asarray(column.cast(pa.binary()).to_numpy(zero_copy_only=False), object)
    if texts:
        return fitted(_parsed(column, dtype), dtype, explicit=explicit)
    return fitted(_numbers(column, "float" in dtype), dtype, explicit=explicit)


def _decoded(column: Any) -> Any:
    """The values of a dictionary array. pyarrow cannot take from views of texts, which polars writes."""
    import pyarrow as pa

    words = column.dictionary
    views = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
    if (plain := views.get(words.type)) is not None:
        column = pa.DictionaryArray.from_arrays(column.indices, words.cast(plain))
    return column.dictionary_decode()


def _parsed(column: Any, dtype: str) -> Array:
    """Numbers of texts, where the spec names such a dtype. Raises Unfit."""
    import pyarrow as pa

    texts = column.cast(pa.string())
    wanted = pa.float64() if "float" in dtype else pa.bool_() if dtype == "bool" else pa.int64()
    try:
        return np.asarray(texts.cast(wanted).to_numpy(zero_copy_only=False))
    except pa.ArrowInvalid:
        for position, text in enumerate(texts):
            try:
                text.cast(wanted)
            except pa.ArrowInvalid as error:
                raise Unfit(position, f"{text.as_py()!r} is no {wanted}") from error
        raise


def _numbers(column: Any, fractions: bool) -> Array:
    """Numbers, booleans, or times as integers in the unit of their form (floats where the unit would cut them)."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_decimal(kind):
        column = column.cast(pa.float64())
    if not pa.types.is_temporal(kind):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    if pa.types.is_date(kind):
        return np.asarray(column.cast(pa.date32()).cast(pa.int32()).to_numpy(zero_copy_only=False)).astype(np.int64)
    stored = column.cast(pa.int32() if pa.types.is_time32(kind) else pa.int64()).to_numpy(zero_copy_only=False)
    values = np.asarray(stored).astype(np.int64)
    if kind.unit == "ns":
        return _microseconds(values, fractions)
    factor = _PER_MICROSECOND[kind.unit]
    for position in np.flatnonzero(np.abs(values) > np.iinfo(np.int64).max // factor):
        raise Unfit(int(position), f"{values[position]} {kind.unit} is outside int64 as microseconds")
    return values * factor


def _microseconds(nanoseconds: Array, fractions: bool) -> Array:
    whole, rest = np.divmod(nanoseconds, 1000)
    if not rest.any():
        return whole
    if fractions:
        return whole + rest / 1000.0
    position = int(np.flatnonzero(rest)[0])
    raise Unfit(
        position, f"{nanoseconds[position]} ns is not an integer number of microseconds; give it the dtype float64"
    )
