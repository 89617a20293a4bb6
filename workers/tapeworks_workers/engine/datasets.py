"""What an uploaded dataset holds: columns, how many rows, the first of them. Told by a job, so that nobody waits for
training to learn that a file is not what its name says.

Files are read as their sources read them; nothing is executed, no pickle is loaded.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tapeworks.assets import DataFormat
from tapeworks.errors import FailureCode, JobFailure
from tapeworks_workers.components.sources.array_files import BrokenArrays
from tapeworks_workers.components.sources.arrays import Arrays
from tapeworks_workers.components.sources.csv import Csv
from tapeworks_workers.components.sources.image_files import BrokenImage
from tapeworks_workers.components.sources.tables import Jsonl, Parquet
from tapeworks_workers.engine import folder_contents
from tapeworks_workers.engine.files import files_of, left_out_of, set_uploads

PREVIEW_ROWS = 5
_LONGEST_TEXT = 200
_MOST_VALUES = 20
_COUNTED_BYTES = 256 << 20
"""Rows of larger files are not counted."""

Content = dict[str, Any]


def describe(uploads: Sequence[Mapping[str, Any]]) -> Content:
    """The JSON of `tapeworks.assets.DataContent` for the one dataset. Raises JobFailure `invalid_data`."""
    set_uploads(uploads)
    (dataset,) = uploads
    files = files_of(dataset["id"])
    if not files:
        raise _invalid(f"no file is named as one of the format {dataset['format']}")
    try:
        told = _LOOKS[DataFormat(dataset["format"])](files)
    except (OSError, ValueError, zipfile.BadZipFile, tf.errors.OpError) as error:
        raise _invalid(f"{type(error).__name__}: {error}") from error
    return {"files": len(files), "classes": {}, "left_out": left_out_of(dataset["id"]), **told}


def _invalid(message: str) -> JobFailure:
    return JobFailure(FailureCode.INVALID_DATA, message, hint="Mend the file, or push it with its own format.")


def _of_elements(source: Any) -> Content:
    """The columns and first rows of a source whose elements are dicts by column."""
    dataset = source.dataset()
    count = int(dataset.cardinality())
    preview = [_row(element) for element in dataset.take(PREVIEW_ROWS)]
    return {"rows": count if count >= 0 else None, "columns": _columns(dataset.element_spec), "preview": preview}


def _columns(spec: Any) -> list[Content]:
    return [
        {"name": name, "dtype": one.dtype.name, "shape": [size for size in one.shape] if one.shape.rank else []}
        for name, one in spec.items()
    ]


def _csv(files: list[Path]) -> Content:
    """Numbers where the first rows hold them, else texts."""
    paths: Any = [str(file) for file in files]
    return _of_elements(Csv(files=paths, named=True, dtypes=Csv(files=paths).guessed()))


def _table(kind: Callable[..., Any]) -> Callable[[list[Path]], Content]:
    def look(files: list[Path]) -> Content:
        return _of_elements(kind(files=[str(file) for file in files], named=True))

    return look


def _npz(files: list[Path]) -> Content:
    try:
        content, readable = folder_contents.arrays(files)
    except BrokenArrays as error:
        raise _invalid(str(error)) from error
    if not readable:
        return content
    source: Any = Arrays(files=[str(file) for file in files], features=readable, labels=None)
    elements = _of_elements(source)
    told = {column["name"]: column for column in elements["columns"]}
    columns = [told.get(column["name"], column) for column in content["columns"]]
    return {**content, "columns": columns, "preview": elements["preview"]}


def _tfrecord(files: list[Path]) -> Content:
    """The features of the first records, as tf.train.Example stores them."""
    records = tf.data.TFRecordDataset([str(file) for file in files])
    preview: list[Content] = []
    columns: dict[str, Content] = {}
    for record in records.take(PREVIEW_ROWS):
        example = tf.train.Example.FromString(record.numpy())
        row = {}
        for name, feature in sorted(example.features.feature.items()):
            kind = feature.WhichOneof("kind")
            values = list(getattr(feature, kind).value) if kind else []
            dtype = {"bytes_list": "string", "float_list": "float32", "int64_list": "int64"}.get(kind or "", "string")
            known = columns.setdefault(name, {"name": name, "dtype": dtype, "shape": [len(values)]})
            if known["shape"] != [len(values)]:
                known["shape"] = [None]
            row[name] = _value(values)
        preview.append(row)
    if not preview:
        raise _invalid(f"{files[0].name} holds no record")
    size = sum(file.stat().st_size for file in files)
    rows = sum(1 for _ in records) if size <= _COUNTED_BYTES else None
    return {"rows": rows, "columns": list(columns.values()), "preview": preview}


def _images(files: list[Path]) -> Content:
    try:
        return folder_contents.images(files, PREVIEW_ROWS)
    except BrokenImage as error:
        raise _invalid(str(error)) from error


def _text(files: list[Path]) -> Content:
    counted = sum(file.stat().st_size for file in files) <= _COUNTED_BYTES
    content = folder_contents.text(files, PREVIEW_ROWS, counted=counted)
    return {**content, "preview": [_row(row) for row in content["preview"]]}


def _row(element: Mapping[str, Any]) -> Content:
    return {name: _value(value) for name, value in element.items()}


def _value(value: Any) -> Any:
    """A value as JSON, cut where it is long."""
    if isinstance(value, tf.RaggedTensor):
        value = value.to_list()
    elif isinstance(value, tf.SparseTensor):
        value = {"indices": value.indices.numpy().tolist(), "values": value.values.numpy().tolist()}
    elif isinstance(value, tf.Tensor):
        value = value.numpy()
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: _value(item) for key, item in value.items()}
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str):
        value = value.replace("\0", "�")
        return value if len(value) <= _LONGEST_TEXT else value[: _LONGEST_TEXT - 1] + "…"
    if isinstance(value, list):
        cut = [_value(item) for item in value[:_MOST_VALUES]]
        return [*cut, "…"] if len(value) > _MOST_VALUES else cut
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


_LOOKS: dict[DataFormat, Callable[[list[Path]], Content]] = {
    DataFormat.CSV: _csv,
    DataFormat.PARQUET: _table(Parquet),
    DataFormat.JSONL: _table(Jsonl),
    DataFormat.NPZ: _npz,
    DataFormat.TFRECORD: _tfrecord,
    DataFormat.IMAGES: _images,
    DataFormat.TEXT: _text,
}
