"""What Hugging Face's `datasets` says of its columns: class names and fixed shapes, in the metadata of Arrow schemas.

`save_to_disk` writes Arrow streams (`data-00000-of-00001.arrow`), `to_parquet` Parquet files; both hold the features as
JSON under the key `huggingface`.
"""

from __future__ import annotations

import json
from typing import Any

_ARRAYS = ("Array2D", "Array3D", "Array4D", "Array5D")


def features(schema: Any) -> dict[str, dict[str, Any]]:
    """Column → its feature; empty where the schema is of another library."""
    stored = (schema.metadata or {}).get(b"huggingface")
    try:
        found = json.loads(stored)["info"]["features"] if stored else {}
    except (ValueError, KeyError, TypeError):
        return {}
    return {name: one for name, one in found.items() if isinstance(one, dict)} if isinstance(found, dict) else {}


def class_names(schema: Any) -> dict[str, list[str]]:
    """Column of integers → the names that they number."""
    return {
        name: [str(label) for label in one["names"]]
        for name, one in features(schema).items()
        if one.get("_type") == "ClassLabel" and isinstance(one.get("names"), list) and one["names"]
    }


def shapes(schema: Any) -> dict[str, tuple[int | None, ...]]:
    """Column of nested lists → the shape that all rows have."""
    return {
        name: tuple(one["shape"])
        for name, one in features(schema).items()
        if one.get("_type") in _ARRAYS and isinstance(one.get("shape"), list)
    }


def stored(kind: Any) -> Any:
    """The Arrow type in which a column is stored: `datasets` has types of its own for arrays."""
    import pyarrow as pa

    own = isinstance(kind, pa.BaseExtensionType) and str(kind.extension_name).startswith("datasets.")
    return kind.storage_type if own else kind
