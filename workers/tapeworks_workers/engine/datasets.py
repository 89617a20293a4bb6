"""What an uploaded dataset holds: columns, how many rows, the first of them. Told by a job, so that nobody waits for
training to learn that a file is not what its name says.

Files are read as their sources read them; nothing is executed, no pickle is loaded.
"""

from __future__ import annotations

import math
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tapeworks.assets import DataFormat
from tapeworks.errors import FailureCode, JobFailure
from tapeworks_workers.components.sources.arrays import Arrays
from tapeworks_workers.components.sources.csv import Csv
from tapeworks_workers.components.sources.folders import Images
from tapeworks_workers.components.sources.tables import Jsonl, Parquet
from tapeworks_workers.components.sources.unpacked_size import check_arrays
from tapeworks_workers.engine.files import files_of, set_uploads

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
    return {"files": len(files), "classes": {}, **told}


def _invalid(message: str) -> JobFailure:
    return JobFailure(FailureCode.INVALID_DATA, message, hint="Correct the file, or push it with its own format.")


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
    headers = check_arrays(files[0])
    names = list(headers)
    lengths = {name: shape for name, (shape, _) in headers.items()}
    rows = {shape[0] for shape in lengths.values() if shape}
    if len(rows) != 1 or not all(lengths.values()):
        columns = [
            {"name": name, "dtype": str(dtype), "shape": list(shape)} for name, (shape, dtype) in headers.items()
        ]
        return {"rows": None, "columns": columns, "preview": []}
    return _of_elements(Arrays(files=[str(file) for file in files], features=names, labels=None))


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
    source: Any = Images(files=[str(file) for file in files], labels=None)
    height, width = source.size_of(files[0])
    classes = Counter(file.parent.name for file in files)
    preview = [{"file": f"{file.parent.name}/{file.name}"} for file in files[:PREVIEW_ROWS]]
    column = {"name": "x", "dtype": keras.config.floatx(), "shape": [height, width, 3]}
    return {"rows": len(files), "columns": [column], "preview": preview, "classes": dict(sorted(classes.items()))}


def _text(files: list[Path]) -> Content:
    lines = tf.data.TextLineDataset([str(file) for file in files])
    preview = [{"x": _value(line.numpy())} for line in lines.take(PREVIEW_ROWS)]
    size = sum(file.stat().st_size for file in files)
    rows = sum(1 for line in lines if line.numpy().strip()) if size <= _COUNTED_BYTES else None
    folders = Counter(file.parent.name for file in files)
    classes = dict(sorted(folders.items())) if len(folders) > 1 else {}
    column = {"name": "x", "dtype": "string", "shape": []}
    return {"rows": rows, "columns": [column], "preview": preview, "classes": classes}


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
