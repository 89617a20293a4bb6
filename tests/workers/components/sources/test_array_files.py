"""Arrays as NumPy and SciPy write them: `.npz`, `.npy`, sparse matrices, dtypes that no job reads."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

from tapeworks.errors import FailureCode, JobFailure
from tests.workers.components.conftest import source

MATRIX = scipy.sparse.random_array((6, 40), density=0.2, rng=np.random.default_rng(1), format="csr")


def fails(says: str, **config: Any) -> None:
    with pytest.raises(JobFailure, match=says) as caught:
        source("arrays", **config).dataset()
    assert caught.value.code is FailureCode.INVALID_DATA


def whole(**config: Any) -> Any:
    (batch,) = source("arrays", **config).dataset().batch(1000)
    return batch


def test_npy_files_of_a_folder_are_arrays_side_by_side(root: Path) -> None:
    for folder, count in (("a", 2), ("b", 3)):
        (root / folder).mkdir()
        np.save(root / folder / "x.npy", np.full((count, 4), count, "float64"))
        np.save(root / folder / "y.npy", np.full(count, count))
    x, y = whole(files="*/*.npy")
    assert x[:, 0].numpy().tolist() == [2, 2, 3, 3, 3]
    assert (x.dtype, y.numpy().tolist()) == (tf.float32, [2, 2, 3, 3, 3])
    (root / "a.npz").write_bytes((root / "a" / "x.npy").read_bytes())
    alone = whole(files="a.npz", labels=None)
    assert alone.shape == (2, 4), "a dataset of one .npy file, whatever its name"
    fails(r"a\.npz has no array 'z'; it holds 'a'", files="a.npz", features="z", labels=None)


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr", "dia"])
def test_matrices_that_scipy_saved_stay_sparse(root: Path, form: str) -> None:
    scipy.sparse.save_npz(root / "x.npz", MATRIX.asformat(form))
    np.save(root / "y.npy", np.arange(6))
    x, y = whole(files=["x.npz", "y.npy"])
    assert isinstance(x, tf.SparseTensor)
    np.testing.assert_allclose(tf.sparse.to_dense(x), MATRIX.toarray(), rtol=1e-6)
    assert y.numpy().tolist() == list(range(6))


def test_matrices_in_parts_beside_other_arrays(root: Path) -> None:
    parts = {f"x.{name}": getattr(MATRIX, name) for name in ("data", "indices", "indptr", "shape")}
    np.savez(root / "a.npz", y=np.arange(6), **parts)
    x, _ = whole(files="a.npz")
    np.testing.assert_allclose(tf.sparse.to_dense(x), MATRIX.toarray(), rtol=1e-6)
    fails("holds 'y', 'x'", files="a.npz", features="z")


def test_a_broken_matrix_is_refused(root: Path) -> None:
    scipy.sparse.save_npz(root / "x.npz", MATRIX)
    with np.load(root / "x.npz") as file:
        parts = dict(file)
    for change in ({"indices": parts["indices"] + 40}, {"indptr": parts["indptr"][::-1]}, {"shape": np.array([3, 2])}):
        np.savez(root / "x.npz", **{**parts, **change})
        fails(r"x\.npz cannot be read", files="x.npz", labels=None)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.ones((4, 3), "complex64") * 2j, r"the array 'x' holds complex64: complex numbers; save np\.stack"),
        (np.zeros(4, "datetime64[D]"), r"datetime64\[D\]: dates; save x\.astype"),
        (np.zeros(4, "timedelta64[s]"), r"timedelta64\[s\]: durations"),
        (np.zeros(4, [("a", "i4"), ("b", "f4")]), "rows of several fields"),
        (np.zeros(4, "longdouble"), "float128|longdouble"),
    ],
)
def test_what_no_job_can_read_is_refused_in_one_sentence(root: Path, array: Any, says: str) -> None:
    np.savez(root / "a.npz", x=array, y=np.zeros(4))
    fails(says, files="a.npz")
    assert whole(files="a.npz", features="y", labels=None).shape == (4,), "the other arrays can be read"


def test_a_complex_matrix_is_refused(root: Path) -> None:
    scipy.sparse.save_npz(root / "x.npz", MATRIX * 1j)
    fails("holds complex128", files="x.npz", labels=None)


@pytest.mark.parametrize("dtype", [">f4", ">i8", ">u2", "<f2", "bool", "U3", "S3"])
def test_other_byte_orders_and_texts_keep_their_values(root: Path, dtype: str) -> None:
    values = np.array([[1, 0], [0, 1], [1, 1]]).astype(dtype)
    np.savez(root / "a.npz", x=values)
    read = whole(files="a.npz", labels=None).numpy()
    expected = values.astype("S3") if values.dtype.kind in "US" else values
    assert read.tolist() == expected.tolist()


def test_integers_keep_their_values_or_are_refused(root: Path) -> None:
    np.savez(root / "a.npz", x=np.array([1.0, 2.0, 2.5]), big=np.array([1, 70_000]), nan=np.array([1.0, np.nan]))
    fails(r"'x' cannot be cast to int64: element 2 holds 2\.5", files="a.npz", labels=None, dtypes={"x": "int64"})
    for name, dtype, says in (("big", "int16", "element 1 holds 70000"), ("nan", "int32", "element 1 holds nan")):
        fails(says, files="a.npz", features=name, labels=None, dtypes={name: dtype})
    assert whole(files="a.npz", features="big", labels=None, dtypes={"big": "int32"}).numpy().tolist() == [1, 70_000]


def test_files_of_different_dtypes_take_one_that_holds_both_or_are_refused(root: Path) -> None:
    for name, array in (("a", np.array([1, 2])), ("b", np.array([0.5])), ("c", np.array(["z"])),
                        ("d", np.array([1], "uint64"))):  # fmt: skip
        np.savez(root / f"{name}.npz", x=array)
    assert whole(files="[ab].npz", labels=None).numpy().tolist() == [1, 2, 0.5]
    fails("'x' is of int64, <U1 in different files", files="[ac].npz", labels=None)
    fails("'x' is of int64, uint64 in different files", files="[ad].npz", labels=None)
