"""What a push reports beside columns and rows: files left out, files and arrays that no job can read, encodings."""

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from PIL import Image

from tapeworks_workers.engine.factory.data_files import DataFiles
from tests.support.job_files import uploaded
from tests.support.trainings import BATCH, attempt, job
from tests.workers.engine.data.test_preview import looked
from tests.workers.engine.test_runner import events


def images(folder: Path, **suffixes: str) -> None:
    """Five of each class."""
    for name, suffix in suffixes.items():
        (folder / name).mkdir(parents=True)
        for index in range(5):
            pixels = np.random.default_rng(index).integers(0, 256, (16, 16, 3)).astype("uint8")
            Image.fromarray(pixels).save(folder / name / f"{index}.{suffix}")


def test_every_common_format_is_taken_and_others_are_counted(tmp_path: Path) -> None:
    images(tmp_path, cat="JPG", dog="jpg", rabbit="webp", tiger="tif")
    told = looked(tmp_path, "images")
    assert (told["rows"], told["left_out"], told["notes"]) == (20, {}, [])
    assert told["classes"] == dict.fromkeys(["cat", "dog", "rabbit", "tiger"], 5)
    (tmp_path / "cat" / "9.heic").write_bytes(b"ftypheic")
    (tmp_path / "LICENSE").write_text("Anybody may.")
    assert looked(tmp_path, "images")["left_out"] == {".heic": 1, "without a suffix": 1}


def test_a_job_reports_what_a_whole_dataset_leaves_out(tmp_path: Path) -> None:
    images(tmp_path / "pets", cat="png", dog="webp")
    (tmp_path / "pets" / "cat" / "9.heic").write_bytes(b"ftypheic")
    files = DataFiles(uploads=[uploaded(tmp_path / "pets", "images")])
    files.resolve("ds_1/*/*.png", component="images")
    assert files.left_out_messages() == [], "a pattern says itself what it leaves out"
    assert len(files.resolve("ds_1", component="images")) == 10
    (message,) = files.left_out_messages()
    assert message == "1 files of the dataset 'ds_1' are not images and are left out: 1 .heic"


def test_a_broken_image_is_a_note_at_push(tmp_path: Path) -> None:
    images(tmp_path, cat="jpg", dog="jpg")
    broken = tmp_path / "cat" / "3.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    told = looked(tmp_path, "images")
    assert told["rows"] == 9
    (note,) = told["notes"]
    assert note.startswith('1 of 10 files cannot be read; a job needs "on_error": "skip": cat/3.jpg cannot be decoded')


@pytest.mark.parametrize(("encoding", "why"), [("latin-1", "line 2: byte 0xf6"), ("utf-16", "is UTF-16")])
def test_texts_of_another_encoding_are_a_note_at_push(tmp_path: Path, encoding: str, why: str) -> None:
    (tmp_path / "a.txt").write_bytes("film\nschön\n".encode(encoding))
    (tmp_path / "b.txt").write_bytes("\ufefffilm\r\n".encode())
    told = looked(tmp_path, "text")
    (note,) = told["notes"]
    assert why in note
    assert 'a job needs their "encoding"' in note
    assert told["preview"][-1] == {"x": "film"}


def test_an_array_that_no_job_reads_is_a_note_at_push(tmp_path: Path) -> None:
    spectra = (np.ones((40, 3)) * (1 + 2j)).astype("complex64")
    np.savez(tmp_path / "s.npz", x=spectra, y=np.zeros(40, "float32"))
    told = looked(tmp_path, "npz")
    assert told["rows"] == 40
    assert told["columns"] == [
        {"name": "x", "dtype": "complex64", "shape": [3]}, {"name": "y", "dtype": "float32", "shape": []},
    ]  # fmt: skip
    assert told["notes"] == [
        "no job can read the array 'x': it holds complex64: complex numbers; save np.stack([x.real, x.imag], -1), "
        "or np.abs(x)"
    ]
    np.save(tmp_path / "s.npz", spectra)  # a pushed .npy is stored under the name of a .npz
    (tmp_path / "s.npz.npy").rename(tmp_path / "s.npz")
    assert looked(tmp_path, "npz")["columns"] == [{"name": "s", "dtype": "complex64", "shape": [3]}]


def test_matrices_and_npy_files_are_described(tmp_path: Path) -> None:
    scipy.sparse.save_npz(tmp_path / "x.npz", scipy.sparse.eye_array(4, 9, format="csr"))
    np.save(tmp_path / "y.npy", np.arange(4))
    told = looked(tmp_path, "npz")
    assert told["rows"] == 4
    assert told["columns"] == [
        {"name": "x", "dtype": "float32", "shape": [9]}, {"name": "y", "dtype": "int64", "shape": []},
    ]  # fmt: skip
    assert [row["y"] for row in told["preview"]] == [0, 1, 2, 3]


def test_a_job_that_names_a_complex_array_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", x=np.ones((40, 3), "complex64"), y=np.zeros(40, "int64"))
    source = {"component": "arrays", "config": {"files": "s.npz"}}
    frames = attempt(job(data={"source": source, "pipeline": [BATCH]}), tmp_path / "job", data_roots=[tmp_path])
    failure = frames[-1]["failure"]
    assert failure["code"] == "invalid_data"
    assert failure["message"].startswith("s.npz: the array 'x' holds complex64")
    assert events(frames, "class_names") == []
