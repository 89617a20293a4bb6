"""Broken TFRecord files and JSON lines: the file and the record or line are named, or left out and reported."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from tapeworks.errors import FailureCode, JobFailure
from tapeworks_workers.engine.data.checks import broken_files
from tests.workers.components.conftest import source
from tests.workers.components.sources.test_folders import feature

SCHEMA = {"n": {"dtype": "int64"}, "v": {"dtype": "float32", "shape": [2]}}


def example(number: int, **others: Any) -> bytes:
    features = {"n": feature(number), "v": feature(0.5, 1.5), **others}
    kept = {name: one for name, one in features.items() if one is not None}
    message: bytes = tf.train.Example(features=tf.train.Features(feature=kept)).SerializeToString()
    return message


def write(path: Path, records: list[bytes], compression: str = "") -> list[int]:
    """The records, and where each begins in the file."""
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for record in records:
            writer.write(record)
    begins = [0]
    for record in records:
        begins.append(begins[-1] + 16 + len(record))
    return begins


def damage(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(content)


BROKEN = {
    "a missing feature": (example(70, v=None), "Feature: v"),
    "another dtype": (example(70, n=feature(1.5)), "Data types don't match"),
    "another shape": (example(70, v=feature(1.0)), "Key: v"),
    "no example": (b"\xff\xff\xff not a message", "not a tf.train.Example"),
    "no example of text": (b"not a message", "Could not parse example input"),
}


def make(folder: Path, record: bytes, compression: str = "") -> Any:
    """Two files of 150 records; record 71 of the second is the given one."""
    for name, first in (("a", 0), ("b", 1000)):
        records = [example(first + n) for n in range(150)]
        if name == "b":
            records[70] = record
        write(folder / f"{name}.tfrecord", records, compression)
    return {"files": "*.tfrecord", "schema": SCHEMA, "features": "n"}


def read(one: Any) -> list[int]:
    with broken_files.named([one]):
        return [int(x) for x in one.dataset()]


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["", "GZIP"])
@pytest.mark.parametrize("name", BROKEN)
def test_a_record_that_does_not_fit_is_named_or_left_out(root: Path, name: str, compression: str) -> None:
    record, says = BROKEN[name]
    config = make(root, record, compression)
    with pytest.raises(JobFailure) as caught:
        read(source("tfrecord", **config))
    assert caught.value.code is FailureCode.INVALID_DATA
    assert caught.value.message.startswith("b.tfrecord, record 71: ")
    assert says in caught.value.message
    assert '"on_error": "skip"' in (caught.value.hint or "")
    one = source("tfrecord", **config, on_error="skip")
    assert read(one) == [*range(150), *(1000 + n for n in range(150) if n != 70)]
    assert int(one.dataset().cardinality()) == 299
    assert one.rows_by_file() == [150, 149]
    (reason,) = one.skipped()
    assert reason.startswith("b.tfrecord, record 71: ")
    message = broken_files.skipped_message("tfrecord", one)
    assert message is not None
    assert message.startswith("tfrecord: 1 records cannot be read and are skipped: b.tfrecord, record 71: ")


@pytest.mark.parametrize("place", ["length", "content", "end"])
def test_behind_a_damaged_frame_a_file_is_lost(root: Path, place: str) -> None:
    config = make(root, example(1070))
    begins = write(root / "b.tfrecord", [example(1000 + n) for n in range(150)])
    if place == "end":
        content = (root / "b.tfrecord").read_bytes()
        (root / "b.tfrecord").write_bytes(content[: begins[70] + 20])
    else:
        damage(root / "b.tfrecord", begins[70] + (2 if place == "length" else 14))
    with pytest.raises(
        JobFailure, match=r"b\.tfrecord, record 71: (corrupted|truncated) record .* rest of the file is lost"
    ):
        read(source("tfrecord", **config))
    one = source("tfrecord", **config, on_error="skip")
    assert read(one) == [*range(150), *range(1000, 1070)]
    assert len(one.skipped()) == 1


def test_a_gzip_file_that_ends_early_is_named(root: Path) -> None:
    config = make(root, example(1070), "GZIP")
    content = (root / "b.tfrecord").read_bytes()
    (root / "b.tfrecord").write_bytes(content[: len(content) // 2])
    with pytest.raises(JobFailure, match=r"b\.tfrecord, record \d+: (truncated record|the compressed data ends early)"):
        read(source("tfrecord", **config))
    one = source("tfrecord", **config, on_error="skip")
    found = read(one)
    assert found[:150] == list(range(150))
    assert 150 < len(found) < 300


def test_no_more_than_allowed_are_left_out(root: Path) -> None:
    config = make(root, example(70, v=None))
    with pytest.raises(JobFailure, match="1 records cannot be read, max_skipped is 0: b.tfrecord, record 71"):  # noqa: RUF043
        source("tfrecord", **config, on_error="skip", max_skipped=0).dataset()
    wrong = {**config, "schema": {"n": {"dtype": "string"}}}
    with pytest.raises(JobFailure, match="300 records cannot be read, none is left"):
        source("tfrecord", **wrong, on_error="skip", max_skipped=1000).dataset()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("line", "says"),
    [('{"a": 1, "b": }', "Invalid value"), ('{"a": 1', "JSON parse error")],
)
def test_a_broken_json_line_is_named(root: Path, line: str, says: str, packed: bool) -> None:
    lines = [f'{{"a": {n}, "b": {n}.5}}' for n in range(30)]
    lines[3] = ""  # a blank line has a number too
    lines[20] = line
    content = "\n".join(lines).encode()
    name = "d.jsonl.gz" if packed else "d.jsonl"
    (root / name).write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(JobFailure) as caught:
        source("jsonl", files=name, features=["b"]).dataset()
    assert caught.value.code is FailureCode.INVALID_DATA
    assert f"{name}, line 21: " in caught.value.message
    assert says in caught.value.message
