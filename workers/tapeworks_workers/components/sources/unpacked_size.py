"""What a file says that it unpacks to, read from its headers and checked before its content is.

A file may unpack to 256 MiB, or to 200 times its own size where that is more: the same ratio as for archives. Of a
Parquet file this holds for each row group, of an `.npz` for its arrays together, and a picture may have 2^27 pixels.
What a file does not say in its headers is bounded by the memory limit of the job.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tapeworks.errors import FailureCode, JobFailure, Location

LEAST_BYTES = 256 << 20
RATIO = 200
MAX_PIXELS = 1 << 27
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 8, "FLOAT": 4, "DOUBLE": 8, "BYTE_ARRAY": 4}
"""Bytes that each value of a physical type takes in memory at least."""
_JPEG_SIZES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
"""Markers of segments that begin with a picture's height and width."""


def allowed(path: Path) -> int:
    """How many bytes a file may unpack to."""
    return max(LEAST_BYTES, RATIO * path.stat().st_size)


def check(path: Path, claimed: int, what: str, hint: str, *, component: str) -> None:
    """Raises JobFailure `invalid_data`, which names the file, where it claims to unpack to more than it may."""
    most = allowed(path)
    if claimed > most:
        raise JobFailure(
            FailureCode.INVALID_DATA,
            f"{path.name}: {what} unpacks to {claimed} bytes, at most {most} are allowed for a file of "
            f"{path.stat().st_size} bytes",
            hint=hint,
            location=Location(component=component),
        )


# ── Parquet ──────────────────────────────────────────────────────────────────────────────────────

_ROW_GROUPS = "Write smaller row groups, for example with row_group_size=100_000."


def check_row_groups(path: Path, metadata: Any, names: Sequence[str]) -> None:
    """The columns in `names`, of each row group, by their count of values and by the bytes of their pages.

    Raises JobFailure."""
    schema = metadata.schema
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        total = 0
        for index in range(group.num_columns):
            column = group.column(index)
            if _top(column.path_in_schema, names):
                width = _WIDTHS.get(column.physical_type) or max(1, schema.column(index).length)
                total += max(column.num_values * width, column.total_uncompressed_size)
        check(path, total, f"row group {number}", _ROW_GROUPS, component="parquet")


def flat_texts(metadata: Any, names: Sequence[str]) -> list[str]:
    """The columns in `names` that hold one text or byte string a row: they are read as dictionaries."""
    columns = (metadata.schema.column(index) for index in range(metadata.num_columns))
    return [one.path for one in columns if one.path in names and one.physical_type == "BYTE_ARRAY"]


def check_texts(path: Path, texts: Any, name: str) -> None:
    """A dictionary-encoded column, before every row gets a copy of its text. Raises JobFailure."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = texts.type.value_type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind)):
        return
    lengths = pc.cast(pc.binary_length(texts.dictionary), "int64")
    total = pc.sum(lengths.take(texts.indices)).as_py() or 0
    check(path, total, f"a row group of column {name!r}", _ROW_GROUPS, component="parquet")


def _top(path: str, names: Sequence[str]) -> bool:
    return any(path == name or path.startswith(f"{name}.") for name in names)


# ── arrays ───────────────────────────────────────────────────────────────────────────────────────


def check_arrays(path: Path, names: Iterable[str] | None = None) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Name → shape and dtype of the arrays of an `.npz`, of those in `names` or of all. Raises JobFailure for arrays
    that are too large or larger than their bytes, ValueError and BadZipFile for what is no array."""
    found: dict[str, tuple[tuple[int, ...], Any]] = {}
    with zipfile.ZipFile(path) as archive:
        members = {one.filename.removesuffix(".npy"): one for one in archive.infolist()}
        for name in members if names is None else names:
            if (member := members.get(name)) is not None:
                with archive.open(member) as stream:
                    found[name] = array_header(stream)
                if found[name][1].hasobject:
                    raise ValueError("Object arrays are pickles, which are not read")
                shape, dtype = found[name]
                if math.prod(shape) * dtype.itemsize > member.file_size:
                    raise ValueError(f"the array {name!r} claims the shape {shape}, its bytes are fewer")
        size = sum(members[name].file_size for name in found)
    check(path, size, "its content", "Split it into several files.", component="arrays")
    return found


def array_header(stream: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of a `.npy`. Raises ValueError."""
    version = np.lib.format.read_magic(stream)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:  # (3, 0): names of fields beyond latin-1
        raise ValueError(f"a .npy of version {version}")
    shape, _, dtype = read(stream)
    return shape, dtype


# ── pictures ─────────────────────────────────────────────────────────────────────────────────────


def check_pixels(path: Path) -> None:
    """The width and height in a picture's header. Raises JobFailure. A header without them is left to the decoder,
    which refuses it."""
    with path.open("rb") as file:
        size = _size(file)
    if size is not None and size[0] * size[1] > MAX_PIXELS:
        raise JobFailure(
            FailureCode.INVALID_DATA,
            f"{path.parent.name}/{path.name} has {size[0]} x {size[1]} pixels, at most {MAX_PIXELS} are allowed",
            hint="Scale it down or cut it into tiles.",
            location=Location(component="images"),
        )


def _size(file: Any) -> tuple[int, int] | None:
    """Width and height by the header of a PNG, GIF, BMP or JPEG."""
    head = file.read(32)
    if head.startswith(b"\x89PNG"):
        return int.from_bytes(head[16:20]), int.from_bytes(head[20:24])
    if head.startswith(b"GIF8"):
        return int.from_bytes(head[6:8], "little"), int.from_bytes(head[8:10], "little")
    if head.startswith(b"BM"):
        width, height = (int.from_bytes(head[at : at + 4], "little", signed=True) for at in (18, 22))
        return abs(width), abs(height)
    return _jpeg_size(file) if head.startswith(b"\xff\xd8") else None


def _jpeg_size(file: Any) -> tuple[int, int] | None:
    """The largest of the frames that the segments before the first scan declare."""
    file.seek(2)
    found = None
    while len(marker := file.read(4)) == 4 and marker[0] == 0xFF:
        if marker[1] == 0xFF:  # a fill byte
            file.seek(-3, 1)
            continue
        if marker[1] in _JPEG_SIZES:
            frame = file.read(5)
            height, width = int.from_bytes(frame[1:3]), int.from_bytes(frame[3:5])
            found = max(found or (0, 0), (width, height), key=math.prod)
            file.seek(-5, 1)
        if marker[1] == 0xDA:
            break
        file.seek(max(0, int.from_bytes(marker[2:]) - 2), 1)
    return found
