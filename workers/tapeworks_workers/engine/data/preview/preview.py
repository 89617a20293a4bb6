"""What an uploaded dataset holds: columns, how many rows, the first of them. Read by a job, so that nobody waits for
training to learn that a file is not what its name says.

Files are read as their sources read them; nothing is executed, no pickle is loaded.
"""

from __future__ import annotations

import codecs
import math
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tapeworks.errors import FailureCode, JobFailure
from tapeworks.schemas.assets import DataFormat
from tapeworks_workers.components.sources import tfds
from tapeworks_workers.components.sources.array_files import BrokenArrays
from tapeworks_workers.components.sources.arrays import Arrays
from tapeworks_workers.components.sources.csv import Csv
from tapeworks_workers.components.sources.image_files import BrokenImage
from tapeworks_workers.components.sources.jsonl import Jsonl
from tapeworks_workers.components.sources.parquet import Parquet
from tapeworks_workers.components.sources.text_files import TextFile
from tapeworks_workers.components.sources.tfrecord import TFRecord, compression_of
from tapeworks_workers.engine.data.preview import folder_contents
from tapeworks_workers.engine.data.splitting import files as split_files
from tapeworks_workers.engine.factory.data_files import DataFiles
from tapeworks_workers.processes.messages import UploadedDataset

PREVIEW_ROWS = 5
_LONGEST_TEXT = 200
_MOST_VALUES = 20
_HEAD_BYTES = 64 * 1024
_COUNTED_BYTES = 256 << 20
"""Rows of larger files are not counted."""

_SPLITS = (
    '{mixed} seem to be splits: a job that names the whole dataset reads them as one, unless it sets "validation": '
    '{{"split": "folders"}} or "test": {{"split": "folders"}}'
)
Content = dict[str, Any]
Options = dict[str, Any]
"""Those of the push, as arguments of the source."""
Describe = Callable[[list[Path], Options], Content]
_OTHER_DELIMITERS = re.compile(r"[;\t|]")


def describe(dataset: UploadedDataset) -> Content:
    """The JSON of `tapeworks.schemas.assets.DataContent` for a dataset. Raises JobFailure `invalid_data`."""
    known = DataFiles(uploads=[dataset])
    files = known.files_of(dataset.id)
    if not files:
        raise _invalid(f"no file name matches the format {dataset.format}")
    try:
        preview = _LOOKS[dataset.format](files, dict(dataset.options))
    except (OSError, ValueError, zipfile.BadZipFile, tf.errors.OpError) as error:
        raise _invalid(f"{type(error).__name__}: {error}") from error
    content = {"files": len(files), "classes": {}, "left_out": known.left_out_of(dataset.id), **preview}
    if (mixed := split_files.mixed(files, known)) is not None:
        content["notes"] = [*content.get("notes", []), _SPLITS.format(mixed=mixed)]
    return content


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


def _table(kind: Callable[..., Any]) -> Describe:
    """Columns as a job reads them by default. What a job cannot read is described with the reason, and not judged."""

    def look(files: list[Path], options: Options) -> Content:
        paths = [str(file) for file in files]
        source = kind(files=paths, named=True, **options)
        columns = source.describe()
        readable = [one.name for one in columns if one.unreadable is None]
        notes = source.left_out()
        content: Content = {"rows": source.count(), "preview": []}
        if readable and source.count():
            content = _of_elements(kind(files=paths, named=True, features=readable, **options))
        content["columns"] = [
            {"name": one.name, "dtype": one.dtype, "shape": list(one.shape)}
            | {key: text for key in ("unreadable", "unit") if (text := getattr(one, key)) is not None}
            for one in columns
        ]
        return content | ({"notes": notes} if notes else {})

    return look


def _parquet(files: list[Path], options: Options) -> Content:
    """With the names that Hugging Face's metadata gives to classes."""
    content = _table(Parquet)(files, options)
    classes = Parquet(files=[str(file) for file in files]).numbered_classes
    notes = [f"column {name!r} numbers the classes {_cut_list(names)}" for name, names in classes.items()]
    return content | ({"notes": [*content.get("notes", []), *notes]} if notes else {})


def _cut_list(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_VALUES} more" if len(names) > _MOST_VALUES else ""
    return ", ".join(names[:_MOST_VALUES]) + more


def _csv(files: list[Path], options: Options) -> Content:
    """Files of another encoding are described by a guess where the push names none."""
    guess = None
    if "encoding" not in options:
        guess = next((encoding for file in files if (encoding := _guessed_encoding(file)) is not None), None)
    try:
        content = _table(Csv)(files, options if guess is None else {**options, "encoding": guess})
    except JobFailure as failure:
        if (other := _other_delimiter(files[0], options)) is None:
            raise
        raise JobFailure(
            failure.code, failure.message, hint=f"Push it with --csv delimiter={other!r}: its header holds {other!r}."
        ) from failure
    notes = content.get("notes", [])
    if guess is not None:
        notes = [
            f"the files are not UTF-8: they are described as {guess}; a job that reads them needs their encoding",
            *notes,
        ]
    if len(content["columns"]) == 1 and (other := _other_delimiter(files[0], options)) is not None:
        notes = [*notes, f"the header has one column, with {other!r} in its name: push with --csv delimiter={other!r}?"]
    return content | ({"notes": notes} if notes else {})


def _other_delimiter(file: Path, options: Options) -> str | None:
    """A delimiter that the header holds and no option names."""
    head = TextFile(file).head(_HEAD_BYTES).partition(b"\n")[0].decode(errors="replace")
    found = _OTHER_DELIMITERS.search(head)
    return found[0] if found is not None and "delimiter" not in options else None


def _guessed_encoding(file: Path) -> str | None:
    """None where the first row of a file is UTF-8; else UTF-16 by its mark, or Latin-1, which any bytes are."""
    head = TextFile(file).head(_HEAD_BYTES)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    try:
        head.partition(b"\n")[0].decode()
    except UnicodeDecodeError:
        return "latin-1"
    return None


def _npz(files: list[Path], options: Options) -> Content:
    try:
        content, readable = folder_contents.arrays(files)
    except BrokenArrays as error:
        raise _invalid(str(error)) from error
    if not readable:
        return content
    source: Any = Arrays(files=[str(file) for file in files], features=readable, labels=None)
    elements = _of_elements(source)
    described = {column["name"]: column for column in elements["columns"]}
    columns = [described.get(column["name"], column) for column in content["columns"]]
    return {**content, "columns": columns, "preview": elements["preview"]}


def _tfrecord(files: list[Path], options: Options) -> Content:
    """The features of the first records, as tf.train.Example stores them."""
    paths = ([str(file) for file in files], [compression_of(file) for file in files])
    described = (files[0].parent / tfds.FILE).is_file()
    records = tf.data.Dataset.from_tensor_slices(paths).flat_map(
        lambda path, compression: tf.data.TFRecordDataset(path, compression_type=compression)
    )
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
        raise _invalid(f"{files[0].name} contains no record")
    size = sum(file.stat().st_size for file in files)
    rows = sum(1 for _ in records) if size <= _COUNTED_BYTES else None
    found = {"rows": rows, "columns": list(columns.values()), "preview": preview}
    if not described:
        return found
    try:  # with the shapes that a job reads; what no schema can say is described as it is stored
        return {**found, **_of_elements(TFRecord(files=[str(file) for file in files])), "rows": rows}
    except JobFailure as failure:
        return {**found, "notes": [failure.message]}


def _images(files: list[Path], options: Options) -> Content:
    try:
        return folder_contents.images(files, PREVIEW_ROWS)
    except BrokenImage as error:
        raise _invalid(str(error)) from error


def _text(files: list[Path], options: Options) -> Content:
    counted = sum(file.stat().st_size for file in files) <= _COUNTED_BYTES
    content = folder_contents.text(files, PREVIEW_ROWS, counted=counted, **options)
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


_LOOKS: dict[DataFormat, Describe] = {
    DataFormat.CSV: _csv,
    DataFormat.PARQUET: _parquet,
    DataFormat.JSONL: _table(Jsonl),
    DataFormat.NPZ: _npz,
    DataFormat.TFRECORD: _tfrecord,
    DataFormat.IMAGES: _images,
    DataFormat.TEXT: _text,
}
