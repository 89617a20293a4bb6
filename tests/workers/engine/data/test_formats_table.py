"""The table of formats, types and options on the page of data: a file for each cell, described and read."""

from __future__ import annotations

import datetime
import decimal
import gzip
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from PIL import Image

from tapeworks.components.loading import load_installed
from tapeworks.components.registry import registry
from tapeworks.errors import JobFailure
from tapeworks.schemas.assets import DataFormat
from tapeworks.spec.references import Kind
from tapeworks_workers.engine.data.preview.preview import describe
from tests.support.job_files import build, set_data_roots, uploaded
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "data.md"
load_installed()


def cells() -> dict[tuple[str, str], str]:
    """(row, format) → what the page says."""
    lines = PAGE.read_text().partition("test_formats_table.py")[2].partition("\n\n")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    formats = [cell.strip("`") for cell in rows[0][1:]]
    return {(row[0], format): cell for row in rows[2:] for format, cell in zip(formats, row[1:], strict=True)}


TABLE = cells()
OPTIONS = sorted({name.strip("`") for name, _ in TABLE if name.startswith("`") and name[1].isalpha()})


def png(value: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((2, 2, 3), value, "uint8")).save(out, "PNG")
    return out.getvalue()


MOMENT = datetime.datetime(2024, 1, 2, 3, 4, 5)
DAY = MOMENT.date()
HOUR = datetime.time(3, 4, 5)
SPAN = datetime.timedelta(seconds=90)
ARROW: dict[str, pa.Array] = {
    "integers": pa.array([7, -8]),
    "integers of 16 bits": pa.array([7, -8], pa.int16()),
    "integers beyond int64": pa.array([2**63 + 5, 1], pa.uint64()),
    "floats": pa.array([0.5, -1.5]),
    "decimals": pa.array([decimal.Decimal("1.25"), decimal.Decimal("-2.50")]),
    "booleans": pa.array([True, False]),
    "texts": pa.array(["zoë", "b"]),
    "bytes": pa.array([b"\xff\x00", b"b"]),
    "categories (dictionaries of texts)": pa.array(["u", "v"]).dictionary_encode(),
    "timestamps": pa.array([MOMENT, MOMENT], pa.timestamp("ns")),
    "dates": pa.array([DAY, DAY]),
    "times of day": pa.array([HOUR, HOUR]),
    "durations": pa.array([SPAN, SPAN], pa.duration("ms")),
    "lists of any length": pa.array([[1, 2], [3]]),
    "lists of one length": pa.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], pa.list_(pa.float32(), 3)),
    "`{indices, values}`": pa.array([{"indices": [4], "values": [0.5]}, {"indices": [], "values": []}]),
    "structs": pa.array([{"a": 1}, {"a": 2}]),
    "nulls alone": pa.nulls(2),
    "images": pa.array([{"bytes": png(255), "path": "1.png"}, {"bytes": png(0), "path": None}]),
}
"""Row of the table → two values as Arrow has them."""
SPARSE = {"`{indices, values}`": 9}
IMAGES: dict[str, Any] = {"images": {}}
MICROSECONDS = {"timestamps": int((MOMENT - datetime.datetime(1970, 1, 1)).total_seconds()) * 10**6,
                "dates": (DAY - datetime.date(1970, 1, 1)).days, "times of day": (3 * 3600 + 4 * 60 + 5) * 10**6,
                "durations": 90 * 10**6}  # fmt: skip


def texts_of(name: str) -> list[str]:
    """The values as CSV and JSON lines have them."""
    return [str(value) for value in ARROW[name].to_pylist()]


def held(format: str) -> list[str]:
    return [name for name, of in TABLE if of == format and name in ARROW and TABLE[name, format] != "–"]


def write(format: str, folder: Path, name: str = "d") -> Path:
    """A file with a column for each type that the format holds."""
    names = held(format)
    if format == "csv":
        columns = {one: ["", ""] if one == "nulls alone" else texts_of(one) for one in names}
        pd.DataFrame(columns).to_csv(folder / f"{name}.csv", index=False)
    elif format == "parquet":
        pq.write_table(pa.table({one: ARROW[one] for one in names}), folder / f"{name}.parquet")
    elif format == "jsonl":
        plain = ("decimals", "lists", "integers", "floats", "booleans", "nulls", "structs", "`")
        rows = [
            {one: _json(one, row) if one.startswith(plain) else texts_of(one)[row] for one in names} for row in (0, 1)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    elif format == "arrays":
        arrays = {one: np.array(ARROW[one].to_pylist()) for one in names}
        arrays |= {"integers of 16 bits": arrays["integers of 16 bits"].astype("int16")}
        arrays |= {"lists of one length": arrays["lists of one length"].astype("float32")}
        arrays |= {"integers beyond int64": np.array([2**63 + 5, 1], "uint64")}
        arrays |= {"timestamps": np.array([MOMENT] * 2, "datetime64[us]")}
        arrays |= {"dates": np.array([DAY] * 2, "datetime64[D]"), "durations": np.array([SPAN] * 2, "timedelta64[us]")}
        np.savez(folder / f"{name}.npz", **arrays)
    elif format == "tfrecord":
        with tf.io.TFRecordWriter(str(folder / f"{name}.tfrecord")) as out:
            for row in (0, 1):
                features = {}
                for one in names:
                    value = ARROW[one][row].as_py()
                    if one in SPARSE:
                        features |= {"at": _feature(value["indices"], int), "value": _feature(value["values"], float)}
                    else:
                        value = value["bytes"] if one == "images" else value
                        values = value if isinstance(value, list) else [value]
                        features[one] = _feature(values, type(values[0]))
                out.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    elif format == "images":
        for index, value in enumerate((255, 0)):
            path = folder / f"c{index}" / f"{name}{index}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(png(value))
    else:
        (folder / f"{name}.txt").write_text("\n".join(texts_of("texts")), encoding="utf-8")
    return folder


def _json(name: str, row: int) -> Any:
    value = ARROW[name][row].as_py()
    return float(value) if isinstance(value, decimal.Decimal) else value


def _feature(values: list[Any], kind: type) -> tf.train.Feature:
    if kind is float:
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    if kind is int:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    encoded = [value.encode() if isinstance(value, str) else value for value in values]
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=encoded))


def schema() -> dict[str, Any]:
    """Of the records."""
    found: dict[str, Any] = {}
    for name in held("tfrecord"):
        dtype = TABLE[name, "tfrecord"].replace("image", "string").split(" (")[0].rpartition(" ")[2]
        shape = (
            [None] if TABLE[name, "tfrecord"].startswith("ragged") else [3] if "(3)" in TABLE[name, "tfrecord"] else []
        )
        found[name] = {"dtype": dtype, "shape": shape}
        if name in SPARSE:
            found[name] = {"dtype": dtype, "size": 9, "index": "at", "value": "value"}
    return found


SUFFIX = {name: name for name in ("csv", "parquet", "jsonl")}
SUFFIX |= {"arrays": "npz", "tfrecord": "tfrecord", "images": "png", "text": "txt"}
PUSHED = {"arrays": "npz"}
FORMATS = list(SUFFIX)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for each format, below the data root."""
    root = tmp_path_factory.mktemp("formats")
    for format in FORMATS:
        (root / format).mkdir()
        write(format, root / format)
    set_data_roots([root])
    yield root
    set_data_roots([])


def source(format: str, **config: Any) -> Any:
    given: dict[str, Any] = {"files": f"{format}/**/*.{SUFFIX[format]}*"}
    if format == "tfrecord":
        given["schema"] = schema()
    return build({"component": format, "config": given | config}, Kind.SOURCE, pointer="/data/source")


READ: dict[str, dict[str, Any]] = {}
"""Format → the columns of its elements, two rows as a batch. Read once."""
DESCRIBED: dict[str, dict[str, Any]] = {}


def elements(format: str) -> dict[str, Any]:
    if format not in READ:
        readable = [name for name in held(format) if TABLE[name, format] not in ("unreadable", "refused")]
        config: dict[str, Any] = {"features": readable}
        config |= {"named": True} if format in ("csv", "parquet", "jsonl") else {}
        config |= {"labels": None} if format == "arrays" else {}
        if format in ("parquet", "jsonl"):
            config |= {"sparse": SPARSE, "shapes": {"lists of one length": [3]}}
        config |= {"images": IMAGES} if format in ("parquet", "tfrecord") else {}
        dataset = source(format, **config).dataset()
        READ[format] = next(iter(dataset.batch(2)))
    return READ[format]


def described(format: str, root: Path) -> dict[str, Any]:
    if format not in DESCRIBED:
        pushed = DataFormat(PUSHED.get(format, format))
        DESCRIBED[format] = describe(uploaded(root / format, pushed))
    return DESCRIBED[format]


TYPES = [(name, format) for (name, format), cell in TABLE.items() if name in ARROW and cell != "–"]


@pytest.mark.parametrize(("name", "format"), TYPES)
def test_a_type_in_a_format_is_described_and_read_as_the_page_says(files: Path, name: str, format: str) -> None:
    cell = TABLE[name, format]
    content = described(format, files)
    columns = {column["name"]: column for column in content["columns"]}
    if format in ("images", "text"):
        dataset = source(format, labels=None).dataset()
        (batch,) = dataset.batch(2)
        assert columns["x"]["dtype"] == batch.dtype.name
        values = np.full((2, 2, 3), 1.0) if format == "images" else "zoë".encode()
        np.testing.assert_array_equal(batch[0], values)
        return
    if cell == "refused":
        assert any(repr(name) in note for note in content["notes"])
        with pytest.raises(JobFailure, match="save"):
            source(format, features=name, labels=None).dataset()
        return
    if cell == "unreadable":
        assert columns[name]["unreadable"]
        with pytest.raises(JobFailure, match=re.escape(repr(name))):
            source(format, features=name).dataset()
        return
    kind, dtype, shape = re.fullmatch(r"(?:(ragged|sparse) )?(\w+)(?: \((\d)\))?", cell).groups()  # type: ignore[union-attr]
    value = elements(format)[name]
    dtype = "float32" if dtype == "image" else dtype
    assert value.dtype.name == dtype
    assert isinstance(value, {"ragged": tf.RaggedTensor, "sparse": tf.SparseTensor}.get(kind, tf.Tensor))
    if shape is not None:
        assert value.shape.as_list() == [2, int(shape)]
    if format != "tfrecord" and cell != "image" and kind != "sparse":  # records have no dtypes of their own
        assert columns[name]["dtype"] == dtype
        assert "unreadable" not in columns[name]
    first = (
        value.to_list()[0]
        if kind == "ragged"
        else tf.sparse.to_dense(value)[0]
        if kind == "sparse"
        else value[0].numpy()
    )
    np.testing.assert_array_equal(first, expected(name, format, dtype))


def expected(name: str, format: str, dtype: str) -> Any:
    if name == "nulls alone":
        return b""
    if name == "images":
        return np.full((2, 2, 3), 1.0)
    if name in SPARSE:
        return np.eye(9)[4] * 0.5
    value = ARROW[name][0].as_py()
    if name in MICROSECONDS and dtype == "int64":
        return MICROSECONDS[name]
    if dtype == "string":
        return value if isinstance(value, bytes) else texts_of(name)[0].encode()
    return float(value) if isinstance(value, decimal.Decimal) else value


# ── options ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("format", FORMATS)
def test_a_source_has_the_options_that_the_page_says(option: str, format: str) -> None:
    config = registry.get(Kind.SOURCE, format).config.schema
    assert (option in config["properties"]) == (TABLE[f"`{option}`", format] == "yes")


TABLES = ("csv", "parquet", "jsonl", "tfrecord")
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "labels": ({"labels": "integers"}, {"y": [7, -8]}),
    "features": ({"features": ["floats"], "labels": "integers"}, {"y": [7, -8]}),
    "weight": ({"labels": "integers", "weight": "floats"}, {"y": [7, -8], "weight": [0.5, -1.5]}),
    "named": ({"named": True, "features": ["integers", "floats"]}, {"integers": [7, -8], "floats": [0.5, -1.5]}),
    "dtypes": ({"labels": "integers", "dtypes": {"integers": "int32"}}, {"y": np.array([7, -8], "int32")}),
}
"""Option → config, and what the two rows hold."""


@pytest.mark.parametrize(
    ("option", "format"),
    [(one, format) for one in CASES for format in FORMATS[:5] if TABLE[f"`{one}`", format] == "yes"],
)
def test_an_option_of_tables_does_what_it_says(files: Path, option: str, format: str) -> None:
    config, wanted = CASES[option]
    chosen = config if "features" in config else {"features": ["floats"], **config}
    if format == "tfrecord":
        chosen = {key: value for key, value in chosen.items() if key != "named"}
    (batch,) = source(format, **chosen).dataset().batch(2)
    x, *others = batch if isinstance(batch, tuple) else (batch,)
    found = dict(zip(("y", "weight"), others, strict=False)) | (x if isinstance(x, dict) else {})
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values)
        if isinstance(values, np.ndarray):
            assert found[name].dtype.name == values.dtype.name


def rows_of(format: str, **config: Any) -> int:
    features = {} if format in ("images", "text") else {"features": ["integers"]}
    return len(list(source(format, **features, **config).dataset()))


@pytest.mark.parametrize("format", [one for one in FORMATS if TABLE["gzip'd files", one] == "yes"])
def test_compressed_files_are_read(files: Path, tmp_path: Path, format: str) -> None:
    folder = tmp_path / format
    folder.mkdir()
    plain = write(format, folder) / f"d.{SUFFIX[format]}"
    Path(f"{plain}.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    set_data_roots([tmp_path])
    assert rows_of(format, **({} if format != "arrays" else {"labels": None})) == 2
    assert described_rows(format, folder) == 2
    set_data_roots([files])


def described_rows(format: str, folder: Path) -> Any:
    return describe(uploaded(folder, PUSHED.get(format, format)))["rows"]


@pytest.mark.parametrize("format", FORMATS)
def test_several_files_are_read_one_after_another(files: Path, tmp_path: Path, format: str) -> None:
    assert TABLE["several files", format] == "yes"
    shutil.copytree(files / format, tmp_path / format)
    write(format, tmp_path / format, "e")
    set_data_roots([tmp_path])
    assert rows_of(format, **({"labels": None} if format in ("images", "arrays", "text") else {})) == 4
    assert described_rows(format, tmp_path / format) == 4
    set_data_roots([files])


ENCODED = {"csv": "name\nzoë\n", "jsonl": '{"name": "zoë"}\n', "text": "zoë\n"}


@pytest.mark.parametrize("format", ENCODED)
def test_encodings_are_read(files: Path, tmp_path: Path, format: str) -> None:
    (tmp_path / f"d.{SUFFIX[format]}").write_text(ENCODED[format], encoding="latin-1")
    set_data_roots([tmp_path])
    config = {"labels": None} if format == "text" else {"named": True}
    (found,) = source(format, files=f"d.{SUFFIX[format]}", encoding="latin-1", **config).dataset()
    assert (found if format == "text" else found["name"]).numpy().decode() == "zoë"
    set_data_roots([files])


def test_the_other_options_do_what_they_say(files: Path, tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("# no row\n1.000,5;-;'a;b';ja\n2.000,0;3;c;nein\n")
    write("images", tmp_path)
    write("text", tmp_path)
    (tmp_path / "c0" / "broken.png").write_bytes(png(1)[:40])
    (tmp_path / "latin.txt").write_bytes(b"\xff\xfe\xfd")
    set_data_roots([tmp_path])
    options = {"delimiter": ";", "decimal": ",", "thousands": ".", "quotechar": "'", "comment": "#", "header": False}
    values = {"names": ["a", "b", "c", "d"], "na_values": ["-"], "true_values": ["ja"], "false_values": ["nein"]}
    (batch,) = source("csv", files="d.csv", named=True, **options, **values).dataset().batch(2)
    np.testing.assert_array_equal(batch["a"], [1000.5, 2000])
    np.testing.assert_array_equal(batch["b"], [np.nan, 3])
    np.testing.assert_array_equal(batch["c"], [b"a;b", b"c"])
    np.testing.assert_array_equal(batch["d"], [True, False])
    images = source("images", files="c?/*.png", classes=["c1", "c0"], on_error="skip")
    assert sorted(int(y) for _, y in images.dataset()) == [0, 1]
    assert len(images.skipped()) == 1
    with pytest.raises(JobFailure, match="max_skipped is 0"):
        source("images", files="c?/*.png", on_error="skip", max_skipped=0).dataset()
    (tmp_path / "labels.csv").write_text("file,label,box\nc0/d0.png,3,\nc1/d1.png,4,\n")
    config = {"size": [1, 3], "channels": 1, "scale": False}
    (batch,) = source("images", files="c?/d*.png", table="labels.csv", **config).dataset().batch(2)
    np.testing.assert_array_equal(batch[0], np.array([[[[255]] * 3], [[[0]] * 3]]))
    np.testing.assert_array_equal(batch[1], [3, 4])
    lines = source("text", files="*.txt", on_error="skip")
    assert len(list(lines.dataset())) == 2
    assert len(lines.skipped()) == 1
    set_data_roots([files])
