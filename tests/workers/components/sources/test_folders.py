"""Pictures and texts by folder, records of tf.train.Example, arrays in parts of a sparse matrix."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tapeworks.errors import FailureCode, JobFailure
from tests.workers.components.conftest import source


def fails(one: Any, says: str) -> None:
    with pytest.raises(JobFailure, match=says) as caught:
        one.dataset()
    assert caught.value.code is FailureCode.INVALID_DATA


# ── images ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def pictures(root: Path) -> np.ndarray:
    """Two folders of two pictures each; the pixels, in order of name."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 8, 3)).astype("uint8")
    for index, image in enumerate(pixels):
        folder = root / "pets" / ("cat" if index < 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{index}.png").write_bytes(tf.io.encode_png(image).numpy())
    return pixels


def test_images_by_folder(root: Path, pictures: np.ndarray) -> None:
    one = source("images", files="pets/*/*.png")
    ((x, y),) = one.dataset().batch(10)
    np.testing.assert_allclose(x, pictures / np.float32(255), rtol=1e-6)
    assert y.numpy().tolist() == [0, 0, 1, 1]
    assert one.dataset().element_spec == (tf.TensorSpec([6, 8, 3], tf.float32), tf.TensorSpec([], tf.int64))
    assert int(one.dataset().cardinality()) == 4
    other = source("images", files="pets/*/*.png", classes=["dog", "cat"], scale=False, size=[3, 4], channels=1)
    ((x, y),) = other.dataset().batch(10)
    assert y.numpy().tolist() == [1, 1, 0, 0]
    assert x.shape == (4, 3, 4, 1)
    grey = tf.image.resize(tf.io.decode_png((root / "pets/cat/0.png").read_bytes(), channels=1), [3, 4], antialias=True)
    np.testing.assert_allclose(x[0], grey, atol=1e-3)
    assert source("images", files="pets/*/*.png", labels=None).dataset().element_spec.shape == [6, 8, 3]


def test_jpegs_are_images_too(root: Path) -> None:
    (root / "a").mkdir()
    (root / "a" / "1.jpg").write_bytes(tf.io.encode_jpeg(np.full((4, 4, 3), 128, "uint8")).numpy())
    ((x, _),) = source("images", files="a/*.jpg").dataset()
    np.testing.assert_allclose(x, 128 / 255, atol=0.02)


def test_images_that_do_not_fit_are_told(root: Path, pictures: np.ndarray) -> None:
    (root / "pets" / "cat" / "notes.png").write_text("no picture")
    fails(source("images", files="pets/*/*.png"), "cat/notes.png is no PNG, JPEG, GIF, BMP, WebP")
    fails(source("images", files="pets/*/0.png", classes=["dog"]), "cat/0.png: its folder is none of dog")
    (root / "pets" / "dog" / "9.png").write_bytes(tf.io.encode_png(np.zeros((2, 2, 3), "uint8")).numpy())
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"9\.png has another size than the first"):
        list(source("images", files="pets/*/[0-9].png").dataset())


def test_a_link_out_of_the_data_root_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    (root / "link.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(JobFailure, match="no file below a data root"):
        source("text", files="*.txt")


# ── text ─────────────────────────────────────────────────────────────────────────────────────────


def test_text_by_line_and_by_file(root: Path) -> None:
    for folder, text in (("neg", "bad\n\nawful\n"), ("pos", "good\n")):
        (root / folder).mkdir()
        (root / folder / "1.txt").write_text(text)
    lines = list(source("text", files="*/*.txt", labels="folder").dataset().as_numpy_iterator())
    assert lines == [(b"bad", 0), (b"good", 1), (b"awful", 0)]
    assert list(source("text", files="neg/1.txt").dataset().as_numpy_iterator()) == [b"bad", b"awful"]
    whole = source("text", files="*/*.txt", per="file", labels="folder", classes=["pos", "neg"]).dataset()
    assert list(whole.as_numpy_iterator()) == [(b"bad\n\nawful\n", 1), (b"good\n", 0)]


# ── tfrecord ─────────────────────────────────────────────────────────────────────────────────────


def feature(*values: Any) -> tf.train.Feature:
    if isinstance(values[0], bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if isinstance(values[0], float):
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def records(path: Path, count: int, compression: str = "") -> None:
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for i in range(count):
            features = {
                "ids": feature(*range(i + 1)), "series": feature(*map(float, range(2 * i + 2))), "text": feature(b"t"),
                "pair": feature(float(i), 1.0), "at": feature(9, 2), "value": feature(0.5, 1.5), "label": feature(i),
            }  # fmt: skip
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())


SCHEMA = {
    "ids": {"dtype": "int64", "shape": [None]},
    "series": {"dtype": "float32", "shape": [None, 2]},
    "text": {"dtype": "string"},
    "pair": {"dtype": "float32", "shape": [2]},
    "items": {"dtype": "float32", "size": 100_000, "index": "at", "value": "value"},
    "label": {"dtype": "int64"},
}


@pytest.mark.parametrize("compression", [None, "GZIP"])
def test_records_ragged_sparse_and_dense(root: Path, compression: str | None) -> None:
    records(root / "a.tfrecord", 3, compression or "")
    one = source("tfrecord", files="*.tfrecord", schema=SCHEMA, labels="label", compression=compression)
    ((x, y),) = one.dataset().batch(3)
    assert x["ids"].to_list() == [[0], [0, 1], [0, 1, 2]]
    assert x["series"].to_list() == [[[float(2 * j), float(2 * j + 1)] for j in range(i + 1)] for i in range(3)]
    assert x["series"].shape.as_list() == [3, None, 2]
    assert x["text"].numpy().tolist() == [b"t"] * 3
    assert x["pair"].numpy().tolist() == [[0, 1], [1, 1], [2, 1]]
    assert x["items"].indices.numpy().tolist() == [[row, at] for row in range(3) for at in (2, 9)]
    assert x["items"].shape.as_list() == [3, 100_000]
    assert y.numpy().tolist() == [0, 1, 2]


def test_records_of_one_feature_from_several_files(root: Path) -> None:
    for name in "ab":
        records(root / f"{name}.tfrecord", 2)
    one = source(
        "tfrecord", files="*.tfrecord", schema=SCHEMA, features="ids", labels=["label"], dtypes={"ids": "int32"}
    )
    assert [int(y["label"]) for _, y in one.dataset()] == [0, 1, 0, 1]
    assert one.dataset().element_spec[0].dtype == tf.int32


def test_records_that_do_not_fit_are_told(root: Path) -> None:
    records(root / "a.tfrecord", 1)
    (root / "bad.tfrecord").write_bytes(b"no record at all, but long enough to be one")
    fails(source("tfrecord", files="bad.tfrecord", schema=SCHEMA), r"bad\.tfrecord, record 1: corrupted")
    wrong = {"pair": {"dtype": "float32", "shape": [3]}}
    fails(source("tfrecord", files="a.tfrecord", schema=wrong), r"a\.tfrecord, record 1: Key: pair")
    for schema, says in (
        ({"x": {"dtype": "float64"}}, "dtype 'float64'; dtype is one of float32, int64, string"),
        ({"x": {"dtype": "int64", "shaep": []}}, "unknown key 'shaep'"),
        ({"x": {"dtype": "int64", "size": 3}}, "names the features index and value"),
        ({"x": {"dtype": "int64", "shape": [2, None]}}, "only the first dimension may be null"),
    ):
        with pytest.raises(JobFailure, match=says):
            source("tfrecord", files="a.tfrecord", schema=schema)
    with pytest.raises(JobFailure, match="the schema has no 'y'"):
        source("tfrecord", files="a.tfrecord", schema=SCHEMA, labels="y")


# ── arrays in CSR parts ──────────────────────────────────────────────────────────────────────────


def test_arrays_in_parts_of_a_sparse_matrix_stay_sparse(root: Path) -> None:
    parts = {
        "x.data": np.array([1.0, 2.0, 3.0]), "x.indices": np.array([99_999, 5, 7]),
        "x.indptr": np.array([0, 2, 2, 3]), "x.shape": np.array([3, 100_000]),
    }  # fmt: skip
    np.savez(root / "a.npz", y=np.array([1, 0, 1], "uint8"), **parts)
    np.savez(root / "b.npz", y=np.array([2, 2, 2], "uint8"), **parts)
    ((x, y),) = source("arrays", files="*.npz").dataset().batch(10)
    assert isinstance(x, tf.SparseTensor)
    assert x.indices.numpy().tolist() == [[0, 5], [0, 99_999], [2, 7], [3, 5], [3, 99_999], [5, 7]]
    assert x.values.numpy().tolist() == [2.0, 1.0, 3.0] * 2
    assert x.shape.as_list() == [6, 100_000]
    assert y.numpy().tolist() == [1, 0, 1, 2, 2, 2]
    np.savez(root / "wrong.npz", y=np.zeros(3), **{**parts, "x.indices": np.array([100_000, 5, 7])})
    fails(source("arrays", files="wrong.npz"), "'x' is not a sparse matrix")
    np.savez(root / "short.npz", y=np.zeros(2), **parts)
    fails(source("arrays", files="short.npz"), "differ in their first dimension")
