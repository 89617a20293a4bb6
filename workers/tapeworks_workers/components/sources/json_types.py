"""Arrow types of JSON fields: what the values of all lines have in common.

Integers beyond int64 are uint64; integers and floats together are floats, a null takes the type of the others, and
texts that look like times stay texts. A field whose values have several types gets a union, which no tensor can hold.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any


def without_times(kind: Any) -> Any:
    """A type that pyarrow found, its times as texts."""
    import pyarrow as pa

    if pa.types.is_temporal(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(without_times(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, without_times(field.type)) for field in kind])
    return kind


def by_python(lines: bytes) -> tuple[dict[str, Any], set[str]]:
    """The types of the fields of lines that pyarrow refuses, since a field changes its type, and the fields that some
    line lacks or gives as null. Raises ValueError."""
    fields: dict[str, Any] = {}
    present: Counter[str] = Counter()
    count = 0
    for line in lines.split(b"\n"):
        if line.strip():
            value = json.loads(line)
            if not isinstance(value, dict):
                raise ValueError(f"a line holds {type(value).__name__}, not an object")
            fields = merged_fields(fields, {name: _type_of(one) for name, one in value.items()})
            present.update(name for name, one in value.items() if one is not None)
            count += 1
    return fields, {name for name in fields if present[name] < count}


def merged_fields(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of both, each with the type that holds the values of both."""
    return {**one, **{name: merged(one[name], kind) if name in one else kind for name, kind in other.items()}}


def merged(one: Any, other: Any) -> Any:
    """The type of the values of two types."""
    import pyarrow as pa

    types = pa.types
    if one.equals(other) or types.is_null(other):
        return one
    if types.is_null(one):
        return other
    if {one, other} <= {pa.int64(), pa.uint64(), pa.float64()}:
        return pa.float64() if pa.float64() in (one, other) else pa.uint64()
    if types.is_list(one) and types.is_list(other):
        return pa.list_(merged(one.value_type, other.value_type))
    if types.is_struct(one) and types.is_struct(other):
        both = merged_fields({field.name: field.type for field in one}, {field.name: field.type for field in other})
        return pa.struct(list(both.items()))
    return pa.dense_union([pa.field("0", pa.null())])


def _type_of(value: Any) -> Any:
    import pyarrow as pa

    if isinstance(value, list):
        kind = pa.null()
        for item in value:
            kind = merged(kind, _type_of(item))
        return pa.list_(kind)
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**63:
        return pa.uint64() if 0 <= value < 2**64 else pa.float64()
    if isinstance(value, dict):
        return pa.struct([(name, _type_of(one)) for name, one in value.items()])
    scalars = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string(), type(None): pa.null()}
    return scalars[type(value)]
