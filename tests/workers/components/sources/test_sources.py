"""Built-in sources: scikit-learn's own files, `.npz` arrays, CSV streams."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.datasets
import tensorflow as tf

from tapeworks.errors import FailureCode, JobFailure
from tapeworks_workers.components.sources import csv
from tests.workers.components.conftest import source


def stacked(dataset: tf.data.Dataset) -> Any:
    (batch,) = dataset.batch(10_000)
    return tf.nest.map_structure(lambda tensor: tensor.numpy(), batch)


# ── scikit-learn's ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["digits", "iris", "breast_cancer", "diabetes"])
def test_the_numbers_are_scikit_learns(name: str) -> None:
    expected = getattr(sklearn.datasets, f"load_{name}")()
    one = source(name, **({"scale": False} if name == "digits" else {}))
    x, y = stacked(one.dataset())
    np.testing.assert_allclose(x, expected.data, rtol=1e-6, atol=1e-8)
    np.testing.assert_array_equal(y, expected.target)
    assert (x.dtype, y.dtype) == (np.float32, np.float32 if name == "diabetes" else np.int64)
    assert all(path.is_file() for path in one.files())
    assert int(one.dataset().cardinality()) == len(expected.data)


def test_digits_scaled_and_as_images() -> None:
    expected = sklearn.datasets.load_digits()
    flat, _ = stacked(source("digits").dataset())
    images, _ = stacked(source("digits", image=True).dataset())
    assert (flat.min(), flat.max()) == (0, 1)
    np.testing.assert_array_equal(images[..., 0] * 16, expected.images)
    assert images.shape == (1797, 8, 8, 1)


@pytest.mark.parametrize("name", ["iris", "breast_cancer"])
def test_standardized_columns(name: str) -> None:
    x, _ = stacked(source(name, standardize=True).dataset())
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(x.std(axis=0), 1, atol=1e-5)


def test_diabetes_as_measured() -> None:
    expected = sklearn.datasets.load_diabetes(scaled=False)
    x, _ = stacked(source("diabetes", scaled=False).dataset())
    np.testing.assert_allclose(x, expected.data, rtol=1e-6)


# ── arrays ───────────────────────────────────────────────────────────────────────────────────────


def test_arrays_of_several_files_in_order_of_name(root: Path) -> None:
    np.savez(root / "b.npz", x=np.full((2, 3), 2.0), y=np.array([2, 2]))
    np.savez(root / "a.npz", x=np.full((1, 3), 1.0), y=np.array([1]))
    one = source("arrays", files="*.npz")
    x, y = stacked(one.dataset())
    np.testing.assert_array_equal(x[:, 0], [1, 2, 2])
    np.testing.assert_array_equal(y, [1, 2, 2])
    assert (x.dtype, y.dtype) == (np.float32, np.int64), "float64 is cast, labels are not"
    assert [path.name for path in one.files()] == ["a.npz", "b.npz"]


def test_arrays_by_name_with_weights_and_dtypes(root: Path) -> None:
    np.savez(root / "n.npz", age=np.arange(3.0), sex=np.arange(3), target=np.arange(3.0), w=np.ones(3))
    one = source(
        "arrays", files="n.npz", features=["age", "sex"], labels="target", weight="w",
        dtypes={"sex": "int32", "target": "float64"},
    )  # fmt: skip
    assert one.dataset().element_spec == (
        {"age": tf.TensorSpec([], tf.float32), "sex": tf.TensorSpec([], tf.int32)},
        tf.TensorSpec([], tf.float64),
        tf.TensorSpec([], tf.float32),
    )


def test_arrays_without_labels_are_x_alone(root: Path) -> None:
    np.savez(root / "n.npz", x=np.zeros((3, 2)))
    assert source("arrays", files="n.npz", labels=None).dataset().element_spec == tf.TensorSpec([2], tf.float32)


def test_pickled_objects_are_never_read(root: Path) -> None:
    np.savez(root / "n.npz", x=np.array([{"a": 1}], dtype=object), y=np.zeros(1))
    fails(source("arrays", files="n.npz"), "n.npz cannot be read as .npz or .npy without objects")


def test_arrays_that_do_not_fit_are_told(root: Path) -> None:
    np.savez(root / "short.npz", x=np.zeros((3, 2)), y=np.zeros(2))
    np.savez(root / "empty.npz", x=np.zeros((0, 2)), y=np.zeros(0))
    np.savez(root / "wide.npz", x=np.zeros((1, 5)), y=np.zeros(1))
    np.savez(root / "scalar.npz", x=np.float32(1), y=np.zeros(1))
    (root / "text.npz").write_text("no zip")
    (root / "cut.npz").write_bytes((root / "short.npz").read_bytes()[:100])
    fails(source("arrays", files="short.npz"), r"differ in their first dimension: 'x': \(3, 2\), 'y': \(2,\)")
    fails(source("arrays", files="short.npz", labels="label"), "no array 'label'; it holds 'x', 'y'")
    fails(source("arrays", files="empty.npz"), "hold no elements")
    fails(source("arrays", files=["wide.npz", "empty.npz"]), "do not fit together")
    fails(source("arrays", files="scalar.npz"), "differ in their first dimension")
    fails(source("arrays", files="text.npz"), "text.npz cannot be read")
    fails(source("arrays", files="cut.npz"), "cut.npz cannot be read")
    fails(source("arrays", files="wide.npz", dtypes={"x": "float33"}), "cannot be cast to float33")


# ── csv ──────────────────────────────────────────────────────────────────────────────────────────

TABLE = "age,height,label,w\n30,1.5,0,1\n40,1.6,1,0.5\n50,1.7,2,0.25\n"


def test_csv_vectors_labels_and_weights(root: Path) -> None:
    (root / "t.csv").write_text(TABLE)
    dataset = source("csv", files="t.csv", labels="label", weight="w").dataset()
    x, y, w = stacked(dataset)
    np.testing.assert_allclose(x, [[30, 1.5], [40, 1.6], [50, 1.7]])
    np.testing.assert_array_equal(y, [0, 1, 2])
    np.testing.assert_array_equal(w, [1, 0.5, 0.25])
    assert (x.dtype, y.dtype, w.dtype) == (np.float32, np.int64, np.float32)
    assert int(dataset.cardinality()) == 3


def test_csv_columns_in_the_order_asked_for(root: Path) -> None:
    (root / "t.csv").write_text(TABLE)
    x, y = stacked(source("csv", files="t.csv", features=["label", "age"], labels=["w", "height"]).dataset())
    np.testing.assert_allclose(x, [[0, 30], [1, 40], [2, 50]])
    np.testing.assert_allclose(y, [[1, 1.5], [0.5, 1.6], [0.25, 1.7]])


def test_csv_named_columns_of_several_dtypes(root: Path) -> None:
    (root / "t.csv").write_text('city,age,y\n"Oslo, N",3,0.5\nRome,4,1\n')
    dataset = source("csv", files="t.csv", labels="y", named=True, dtypes={"city": "string", "age": "int32"}).dataset()
    x, y = stacked(dataset)
    assert list(x["city"]) == [b"Oslo, N", b"Rome"]
    assert x["age"].dtype == np.int32
    np.testing.assert_array_equal(y, np.array([0.5, 1], "float32"))


def test_csv_of_several_files_and_other_delimiters(root: Path) -> None:
    (root / "1.csv").write_text("a;b\n1;2\n")
    (root / "2.csv").write_bytes(b"\xef\xbb\xbfa;b\r\n3;4\r\n")
    x = stacked(source("csv", files="*.csv", delimiter=";").dataset())
    np.testing.assert_array_equal(x, [[1, 2], [3, 4]])


def test_csv_rows_of_several_lines_and_of_several_parts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv, "PART_BYTES", 40)
    rows = [(f"{number}", 'a "note"\nof two lines' if number % 3 else "") for number in range(50)]
    (root / "t.csv").write_text(
        "n,note\r\n\r\n" + "".join(f'{number},"{note.replace(chr(34), chr(34) * 2)}"\r\n' for number, note in rows)
    )
    dataset = source("csv", files="t.csv", named=True, dtypes={"n": "int32", "note": "string"}).dataset()
    told = stacked(dataset)
    assert [str(number) for number in told["n"]] == [number for number, _ in rows]
    assert [note.decode() for note in told["note"]] == [note for _, note in rows]
    assert int(dataset.cardinality()) == 50, "empty lines are no rows"


def test_csv_numbers_as_texts_hold_them(root: Path) -> None:
    (root / "t.csv").write_text('a,b\n 1.5,"2"\n1e3,.5\nnan,-inf')
    np.testing.assert_array_equal(
        stacked(source("csv", files="t.csv").dataset()), [[1.5, 2], [1e3, 0.5], [np.nan, -np.inf]]
    )


def test_csv_that_does_not_fit_is_told_with_file_and_line(root: Path) -> None:
    (root / "t.csv").write_text(TABLE)
    (root / "bad.csv").write_text(TABLE + "sixty,1.8,0,1\n")
    (root / "label.csv").write_text(TABLE + "60,1.8,0.5,1\n")
    (root / "hole.csv").write_text(TABLE + "60,,0,1\n")
    (root / "short.csv").write_text(TABLE + "60,1.8\n")
    (root / "header.csv").write_text("age,height,label,w\n")
    (root / "empty.csv").write_text("")
    (root / "twice.csv").write_text("a,a\n1,2\n")
    (root / "other.csv").write_text("a,b\n1,2\n")
    (root / "plus.csv").write_text("a\n+1\n")
    (root / "latin.csv").write_bytes("a,b\n1,café\n".encode("latin-1"))
    (root / "mac.csv").write_bytes(b"a,b\r1,2\r")
    (root / "quote.csv").write_text('a,b\n1,"' + "x" * 200_000 + "\n")
    fails(source("csv", files="t.csv", labels="lable"), "t.csv has no column 'lable'; it has age, height, label, w")
    fails(source("csv", files="bad.csv"), "bad.csv, line 5: column 'age' holds 'sixty', not a number")
    integer = {"label": "int64"}
    fails(source("csv", files="label.csv", labels="label", dtypes=integer), "line 5: .*'0.5', not a whole number")
    fails(source("csv", files="hole.csv"), "line 5: column 'height' holds '', not a number")
    fails(source("csv", files="short.csv"), "short.csv, line 5: 2 fields under 4 columns")
    fails(source("csv", files="header.csv"), "header.csv: no rows below the header")
    fails(source("csv", files="empty.csv"), "empty.csv is empty")
    assert source("csv", files="twice.csv", named=True).dataset().element_spec.keys() == {"a", "a.1"}, "as in pandas"
    assert stacked(source("csv", files="plus.csv").dataset()).tolist() == [[1]], "as in pandas"
    assert stacked(source("csv", files="latin.csv", features=["a"]).dataset()).tolist() == [[1]]
    fails(source("csv", files="latin.csv", named=True), "latin.csv, line 2: column 'b' .*invalid UTF8")
    assert stacked(source("csv", files="mac.csv").dataset()).tolist() == [[1, 2]], "as in pandas"
    fails(source("csv", files="quote.csv", features=["a"]), "quote.csv, line 2: a quotation mark opens a field")
    fails(source("csv", files=["other.csv", "t.csv"]), "the header of t.csv is not that of other.csv")
    fails(source("csv", files="t.csv", dtypes={"age": "int32"}), "dtypes float32, int32: one vector takes one dtype")


# ── where files may lie ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("pattern", ["../secret.npz", "/etc/hostname", "nothing*.npz", "link.npz", "linked/*.npz"])
def test_nothing_outside_the_data_roots_is_read(root: Path, pattern: str) -> None:
    np.savez(root.parent / "secret.npz", x=np.zeros((1, 1)), y=np.zeros(1))
    (root / "link.npz").symlink_to(root.parent / "secret.npz")
    (root / "linked").symlink_to(root.parent)
    with pytest.raises(JobFailure, match="no file below a data root matches") as refused:
        source("arrays", files=pattern)
    assert refused.value.code is FailureCode.INVALID_DATA
    assert "/data/source/config/files" in str(refused.value)


def test_without_a_data_root_no_file_is_read() -> None:
    with pytest.raises(JobFailure, match="this worker has no data root"):
        source("arrays", files="x.npz")


def test_a_link_within_the_roots_and_an_absolute_path_are_fine(root: Path) -> None:
    np.savez(root / "n.npz", x=np.zeros((1, 1)), y=np.zeros(1))
    (root / "deep").mkdir()
    (root / "deep" / "link.npz").symlink_to(root / "n.npz")
    assert len(source("arrays", files=["deep/link.npz", str(root / "n.npz")]).files()) == 1, "one file, named twice"
    assert len(source("arrays", files="**/*.npz").files()) == 1


def fails(source: Any, message: str) -> None:
    with pytest.raises(JobFailure, match=message) as refused:
        source.dataset()
    assert refused.value.code is FailureCode.INVALID_DATA
