"""Columns that the names of folders hold: `country=de/year=2024/part.parquet`, the layout of Hive.

pandas, Spark, DuckDB and polars write it and give the columns back, after those of the file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

import numpy as np

from tapeworks_workers.components.sources.safe_casts import Array, fitted

_FOLDER = re.compile(r"([^=/]+)=(.*)")
_NULL = "__HIVE_DEFAULT_PARTITION__"
_WHOLE = re.compile(r"-?\d{1,18}")


def partitions(paths: Sequence[Path]) -> dict[str, dict[Path, int | str | None]]:
    """Column → its value in each file; whole numbers where all values are. Empty where the files do not agree."""
    found = [_pairs(path) for path in paths]
    if not found or any(list(one) != list(found[0]) for one in found):
        return {}
    columns: dict[str, dict[Path, int | str | None]] = {}
    for name in found[0]:
        texts = [one[name] for one in found]
        known = [text for text in texts if text is not None]
        whole = bool(known) and all(_WHOLE.fullmatch(text) for text in known)
        values = [int(text) if whole and text is not None else text for text in texts]
        columns[name] = dict(zip(paths, values, strict=True))
    return columns


def _pairs(path: Path) -> dict[str, str | None]:
    """The nearest folders above a file that are named `column=value`, the outermost first."""
    pairs: list[tuple[str, str | None]] = []
    for folder in path.parents:
        matched = _FOLDER.fullmatch(folder.name)
        if matched is None:
            break
        value = unquote(matched[2])
        pairs.append((unquote(matched[1]), None if value == _NULL else value))
    return dict(reversed(pairs))


def constant(value: int | str | None, dtype: str, rows: int, *, missing: bool = False) -> Array:
    """A column of one value. `missing`: whether a folder without a value gives NaN or "".

    Raises ValueError where the dtype cannot hold it.
    """
    if value is None:
        if not missing or (dtype != "string" and "float" not in dtype):
            raise ValueError('has no value; "nulls": "missing" reads it as NaN or an empty text')
        value = "" if dtype == "string" else "nan"
    if dtype == "string":
        return np.array([str(value).encode()] * rows, object)
    return fitted(np.full(rows, value if isinstance(value, int) else float(value)), dtype, explicit=True)
