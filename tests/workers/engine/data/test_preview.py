"""What a dataset of each format holds, as a look at it tells: columns, rows, the first of them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from tapeworks.client.assets import format_of
from tapeworks.client.payloads import NothingToSend
from tapeworks.components.loading import load_installed
from tapeworks.errors import FailureCode, JobFailure
from tapeworks.schemas.assets import DataContent, DataFormat
from tapeworks.spec.references import Kind
from tapeworks_workers.engine.data.preview.preview import describe
from tapeworks_workers.engine.factory.build_context import BuildContext
from tapeworks_workers.engine.factory.data_files import DataFiles
from tapeworks_workers.engine.factory.factory import build
from tests.support.job_files import uploaded


def csv(folder: Path) -> None:
    (folder / "a.csv").write_text("age,weight,city\n3,1.5,Graz\n4,2.5,Linz\n")
    (folder / "b.csv").write_text("age,weight,city\n5,3.5,Wien\n")


def parquet(folder: Path) -> None:
    pq.write_table(
        pa.table({"n": [1, 2, 3], "words": [["a"], ["b", "c"], []], "x": [0.5, 1.5, 2.5]}), folder / "a.parquet"
    )


def jsonl(folder: Path) -> None:
    rows = [{"n": 1, "t": "one"}, {"n": 2, "t": "x" * 500}]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def npz(folder: Path) -> None:
    np.savez(folder / "a.npz", x=np.zeros((4, 3), "float32"), y=np.arange(4))


def tfrecord(folder: Path) -> None:
    with tf.io.TFRecordWriter(str(folder / "a.tfrecord")) as out:
        for n in range(3):
            feature = {
                "n": tf.train.Feature(int64_list=tf.train.Int64List(value=[n])),
                "v": tf.train.Feature(float_list=tf.train.FloatList(value=[0.5] * (n + 1))),
                "t": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"text"])),
            }
            out.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())


def images(folder: Path) -> None:
    for name, count in (("daisy", 2), ("rose", 1)):
        (folder / name).mkdir()
        for n in range(count):
            tf.io.write_file(str(folder / name / f"{n}.png"), tf.io.encode_png(tf.zeros((5, 7, 3), tf.uint8)))
    (folder / "README.txt").write_text("not a picture")


def text(folder: Path) -> None:
    for name in ("good", "bad"):
        (folder / name).mkdir()
        (folder / name / "a.txt").write_text("one line\n\nanother\n")


def scalar(name: str, dtype: str) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": []}


EXPECTED: dict[str, tuple[Callable[[Path], None], dict[str, Any]]] = {
    "csv": (csv, {"rows": 3, "files": 2, "columns": [
        scalar("age", "int64"), scalar("weight", "float32"), scalar("city", "string")]}),
    "parquet": (parquet, {"rows": 3, "columns": [
        scalar("n", "int64"), {"name": "words", "dtype": "string", "shape": [None]}, scalar("x", "float32")]}),
    "jsonl": (jsonl, {"rows": 2, "columns": [scalar("n", "int64"), scalar("t", "string")]}),
    "npz": (npz, {"rows": 4, "columns": [{"name": "x", "dtype": "float32", "shape": [3]}, scalar("y", "int64")]}),
    "tfrecord": (tfrecord, {"rows": 3, "columns": [
        {"name": "n", "dtype": "int64", "shape": [1]}, {"name": "t", "dtype": "string", "shape": [1]},
        {"name": "v", "dtype": "float32", "shape": [None]}]}),
    "images": (images, {"rows": 3, "classes": {"daisy": 2, "rose": 1}, "columns": [
        {"name": "x", "dtype": "float32", "shape": [5, 7, 3]}]}),
    "text": (text, {"rows": 4, "classes": {"bad": 1, "good": 1}, "columns": [scalar("x", "string")]}),
}  # fmt: skip


def looked(folder: Path, format: str) -> dict[str, Any]:
    told = describe(uploaded(folder, format))
    again: dict[str, Any] = json.loads(json.dumps(told, allow_nan=False))
    DataContent.model_validate(again)
    return again


@pytest.mark.parametrize("format", EXPECTED)
def test_a_dataset_of_each_format(tmp_path: Path, format: str) -> None:
    make, expected = EXPECTED[format]
    make(tmp_path)
    told = looked(tmp_path, format)
    assert {name: told[name] for name in expected} == expected
    assert told["preview"]
    assert all(len(value) <= 200 for row in told["preview"] for value in row.values() if isinstance(value, str))


@pytest.mark.parametrize(
    ("format", "name", "content", "why"),
    [
        ("csv", "a.csv", b"a,b\n1\n", "line 2: 1 fields"),
        ("csv", "a.csv", b"", "is empty"),
        ("parquet", "a.parquet", b"PAR1 not really", "cannot be read as Parquet"),
        ("jsonl", "a.jsonl", b"{broken\n", "a.jsonl"),
        ("npz", "a.npz", b"PK broken", "a.npz cannot be read"),
        ("tfrecord", "a.tfrecord", b"not a record at all", "corrupted"),
        ("images", "a/x.png", b"\x89PNG\r\n\x1a\nbroken", "cannot be decoded"),
        ("csv", "a.txt", b"a\n1\n", "no file name matches the format"),
    ],
)
def test_a_file_that_is_not_what_it_says_is_told(
    tmp_path: Path, format: str, name: str, content: bytes, why: str
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(JobFailure, match=why) as failed:
        looked(tmp_path, format)
    assert failed.value.code is FailureCode.INVALID_DATA


def test_columns_that_a_job_cannot_read_are_described_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    table = {"s": [{"a": 1}, {"a": 2}], "n": [1, None], "when": pa.array([1, 2], pa.timestamp("ns")), "x": [1.0, 2.0]}
    pq.write_table(pa.table(table), tmp_path / "p" / "a.parquet")
    told = looked(tmp_path / "p", "parquet")
    reasons = {column["name"]: column.get("unreadable") for column in told["columns"]}
    assert reasons == {
        "s": "is struct<a: int64>, which no tensor can hold",
        "n": "a.parquet, row 2: column 'n' has no value (null); "
        '"nulls": "missing" reads it as NaN, or choose features without it',
        "when": "a.parquet, row 1: column 'when': 1 ns is not an integer number of microseconds; "
        "give it the dtype float64",
        "x": None,
    }
    assert (told["rows"], told["preview"]) == (2, [{"x": 1.0}, {"x": 2.0}])
    assert told["notes"] == ["column 's' is left out: it is struct<a: int64>, which no tensor can hold"]


def test_blanks_other_headers_and_encodings_are_described(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,x\n" + "".join(f"{n},{n}\n" for n in range(150)) + ",1\n")
    (tmp_path / "b.csv").write_text("x,z\n1,2\n")
    told = looked(tmp_path, "csv")
    assert {column["name"]: column.get("unreadable") for column in told["columns"]} == {
        "id": "is not in b.csv; a job can name the files that have it",
        "x": None,
        "z": "is not in a.csv; a job can name the files that have it",
    }
    assert told["rows"] == 152
    (tmp_path / "b.csv").unlink()
    (reason, *_) = [column["unreadable"] for column in looked(tmp_path, "csv")["columns"] if column["name"] == "id"]
    assert reason == 'has rows without a value; "nulls": "missing" reads them as NaN'
    (tmp_path / "a.csv").write_bytes("größe,y\nx,1\n".encode("latin-1"))
    told = looked(tmp_path, "csv")
    assert [column["name"] for column in told["columns"]] == ["größe", "y"]
    assert "are described as latin-1" in told["notes"][0]


def test_shards_and_compressed_files_are_of_their_format(tmp_path: Path) -> None:
    for number in range(2):
        tfrecord(tmp_path)
        (tmp_path / "a.tfrecord").rename(tmp_path / f"t.tfrecord-0000{number}-of-00002")
    assert looked(tmp_path, "tfrecord")["rows"] == 6
    for file in tmp_path.iterdir():
        (tmp_path / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    assert looked(tmp_path, "tfrecord")["rows"] == 6
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"a\n1\n"))
    assert looked(tmp_path, "csv")["preview"] == [{"a": 1}]


def test_what_is_described_is_what_a_job_reads(tmp_path: Path) -> None:
    """`named` gives the default form of each column: dtype and shape of the description are those of the element."""
    load_installed()
    for format, make in (("csv", csv), ("parquet", parquet), ("jsonl", jsonl)):
        folder = tmp_path / format
        folder.mkdir()
        make(folder)
        told = looked(folder, format)
        context = BuildContext(DataFiles(uploads=[uploaded(folder, format)]))
        source = build({"component": format, "config": {"files": "ds_1", "named": True}}, Kind.SOURCE, context=context)
        spec = source.dataset().element_spec
        assert {name: one.dtype.name for name, one in spec.items()} == {
            column["name"]: column["dtype"] for column in told["columns"]
        }


def test_a_part_of_a_dataset_is_named_by_a_glob_and_nothing_beside_it(tmp_path: Path) -> None:
    csv(tmp_path)
    (tmp_path.parent / "outside.csv").write_text("a\n")
    files = DataFiles(uploads=[uploaded(tmp_path, "csv")])
    assert files.resolve("ds_1", component="csv") == [str(tmp_path / name) for name in ("a.csv", "b.csv")]
    assert files.resolve("ds_1/b*.csv", component="csv") == [str(tmp_path / "b.csv")]
    for wrong in ("ds_1/../outside.csv", "ds_1/c.csv", "ds_2"):
        with pytest.raises(JobFailure):
            files.resolve(wrong, component="csv")


def test_options_of_the_push_are_used(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("größe;n\n1.234,5;k.A.\n2,5;7\n".encode("cp1252"))
    options = {"delimiter": ";", "decimal": ",", "thousands": ".", "encoding": "cp1252", "na_values": ["k.A."]}
    with pytest.raises(JobFailure, match="line 2: 2 fields under 1 columns") as refused:
        looked(tmp_path, "csv")
    assert refused.value.hint == "Push it with --csv delimiter=';': its header holds ';'."
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "b.csv").write_text("x;y\n1;2\n")
    assert any("push with --csv delimiter=';'?" in note for note in looked(tmp_path / "b", "csv")["notes"])
    (tmp_path / "b" / "b.csv").unlink()
    told = describe(uploaded(tmp_path, "csv", **options))
    assert [(one["name"], one["dtype"]) for one in told["columns"]] == [("größe", "float32"), ("n", "float32")]
    assert told["preview"] == [{"größe": 1234.5, "n": "nan"}, {"größe": 2.5, "n": 7.0}]
    assert "notes" not in told
    (tmp_path / "t.txt").write_text("größe\n", encoding="utf-16")
    told = describe(uploaded(tmp_path, "text", encoding="utf-16"))
    assert (told["rows"], told["preview"], told["notes"]) == (1, [{"x": "größe"}], [])


def test_json_arrays_and_arrow_files_are_datasets(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"n": 1, "t": "a"}, {"n": 2, "t": "b"}]))
    (tmp_path / "dataset_info.json").write_text("{}")
    told = looked(tmp_path, "jsonl")
    assert (told["rows"], told["files"], told["left_out"]) == (2, 1, {})
    assert told["columns"] == [scalar("n", "int64"), scalar("t", "string")]
    feather.write_feather(pa.table({"n": [1, 2, 3]}), str(tmp_path / "a.feather"))
    told = looked(tmp_path, "parquet")
    assert (told["rows"], told["preview"], told["left_out"]) == (3, [{"n": 1}, {"n": 2}, {"n": 3}], {".json": 1})


def test_json_beside_other_data_describes_it(tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text("[]")
    (tmp_path / "a.png").write_bytes(b"")
    assert format_of(tmp_path) is DataFormat.IMAGES
    assert format_of(tmp_path / "labels.json") is DataFormat.JSONL
    (tmp_path / "a.jsonl").write_bytes(b"")
    with pytest.raises(NothingToSend, match="images and jsonl"):
        format_of(tmp_path)
