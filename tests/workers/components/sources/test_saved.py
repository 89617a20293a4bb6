"""The iterator of a source of files, saved after any element, goes on with the very next one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from PIL import Image

from tests.support.tiers import some
from tests.workers.components.conftest import source

ROWS = {"few": [6, 6], "many": [700, 600]}
"""Of the first and second file. Many do not fit into one buffer of a reader."""


def csv(root: Path, rows: list[int]) -> Any:
    values = np.random.default_rng(3).normal(size=(sum(rows), 5)).round(9)
    for name, part in zip("ab", np.split(values, rows[:1]), strict=True):
        note = f'"{name}, {chr(10) * 400} ""so"""'
        lines = ["p,q,r,s,t,note", *(",".join([*map(str, row), note]) for row in part)]
        (root / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return source("csv", files="*.csv", features=["p", "q"], labels="t")


def parquet(root: Path, rows: list[int]) -> Any:
    for name, count in zip("ab", rows, strict=True):
        pq.write_table(pa.table({"x": np.arange(count), "y": np.arange(count) * 0.5}), root / f"{name}.parquet", 4)
    return source("parquet", files="*.parquet", features="x", labels="y")


def jsonl(root: Path, rows: list[int]) -> Any:
    for name, count in zip("ab", rows, strict=True):
        lines = [json.dumps({"x": [row, ord(name)], "text": "-" * 400}) for row in range(count)]
        (root / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return source("jsonl", files="*.jsonl", features="x")


def tfrecord(root: Path, rows: list[int], compression: str | None = None) -> Any:
    for name, count in zip("ab", rows, strict=True):
        with tf.io.TFRecordWriter(str(root / f"{name}.tfrecord"), compression or "") as writer:
            for row in range(count):
                x = tf.train.Feature(int64_list=tf.train.Int64List(value=[row]))
                more = tf.train.Feature(bytes_list=tf.train.BytesList(value=[np.random.default_rng(row).bytes(400)]))
                example = tf.train.Example(features=tf.train.Features(feature={"x": x, "more": more}))
                writer.write(example.SerializeToString())
    schema = {"x": {"dtype": "int64"}, "more": {"dtype": "string"}}
    return source("tfrecord", files="*.tfrecord", schema=schema, compression=compression)


def tfrecord_with_broken_records(root: Path, rows: list[int]) -> Any:
    one = tfrecord(root, rows)
    content = (root / "a.tfrecord").read_bytes()
    with tf.io.TFRecordWriter(str(root / "c.tfrecord")) as writer:
        writer.write(b"no example")
    (root / "a.tfrecord").write_bytes(content + (root / "c.tfrecord").read_bytes())
    return source("tfrecord", files="*.tfrecord", schema=one.spec, on_error="skip")


def images_with_masks(root: Path, rows: list[int]) -> Any:
    images(root, rows)
    for path in sorted(root.glob("*/*.png")):
        mask = root / "masks" / path.parent.name / path.name
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2), int(path.stem) % 7).save(mask)
    return source("images", files="?/*.png", masks="masks/*/*.png")


def images_in_parquet(root: Path, rows: list[int]) -> Any:
    images(root, rows)
    for name in "ab":
        data = [path.read_bytes() for path in sorted((root / name).iterdir())]
        words = [["w"] * (number % 3) for number in range(len(data))]
        table = pa.table({"image": [{"bytes": one, "path": None} for one in data], "words": words})
        pq.write_table(table, root / f"{name}.parquet", 4)
    return source("parquet", files="*.parquet", named=True, images={"image": {}})


def text(root: Path, rows: list[int], per: str = "line") -> Any:
    for name, count in zip("ab", rows, strict=True):
        lines = [f"{name}{row} {'-' * 400}" for row in range(count)]
        (root / name).mkdir()
        for number, part in enumerate(np.array_split(lines, 1 if per == "line" else count)):
            (root / name / f"{number:03}.txt").write_text("\n\n".join(part))
    return source("text", files="*/*.txt", per=per, labels="folder")


def images(root: Path, rows: list[int]) -> Any:
    for name, count in zip("ab", rows, strict=True):
        (root / name).mkdir()
        for index in range(count):
            (root / name / f"{index:03}.png").write_bytes(
                tf.io.encode_png(np.full((2, 2, 3), index % 256, "uint8")).numpy()
            )
    return source("images", files="*/*.png")


def images_by_pillow(root: Path, rows: list[int]) -> Any:
    images(root, rows)
    for index, path in enumerate(sorted(root.glob("*/*.png"))[::2]):
        Image.fromarray(np.full((2, 2, 3), index % 256, "uint8")).save(path.with_suffix(".bmp"))
        path.unlink()
    return source("images", files="*/*.*")


def arrays(root: Path, rows: list[int]) -> Any:
    for name, count in zip("ab", rows, strict=True):
        np.savez(root / f"{name}.npz", x=np.arange(count), y=np.arange(count))
    return source("arrays", files="*.npz")


SOURCES: dict[str, Callable[[Path, list[int]], Any]] = {
    "csv": csv,
    "parquet": parquet,
    "jsonl": jsonl,
    "tfrecord": tfrecord,
    "tfrecord_gzip": lambda root, rows: tfrecord(root, rows, "GZIP"),
    "tfrecord_with_broken_records": tfrecord_with_broken_records,
    "images_with_masks": images_with_masks,
    "images_in_parquet": images_in_parquet,
    "text": text,
    "text_of_files": lambda root, rows: text(root, rows, "file"),
    "images": images,
    "images_by_pillow": images_by_pillow,
    "arrays": arrays,
}


def told(elements: Any) -> list[str]:
    """As texts, to be compared whole."""
    return [str(tf.nest.map_structure(lambda leaf: repr(leaf.numpy()), element)) for element in elements]


@pytest.mark.slow
@pytest.mark.usefixtures("streamed")
@pytest.mark.parametrize("many", some(ROWS, "few".__eq__))
@pytest.mark.parametrize("name", SOURCES)
def test_the_next_element_after_a_saved_one(root: Path, tmp_path: Path, name: str, many: str) -> None:
    rows = ROWS[many]
    one = SOURCES[name](root, rows)
    whole = told(one.dataset())
    assert len(whole) > 10
    for position in (rows[0] // 3, rows[0] - 1, rows[0]):
        begun = iter(one.dataset())
        taken = told(next(begun) for _ in range(position))
        tf.train.Checkpoint(iterator=begun).write(str(tmp_path / f"{position}"))
        resumed = iter(one.dataset())
        tf.train.Checkpoint(iterator=resumed).read(str(tmp_path / f"{position}")).assert_consumed()
        assert told(resumed) == whole[position:], f"after element {position}"
        assert taken == whole[:position]
