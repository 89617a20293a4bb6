"""Images labelled by a CSV or JSON lines beside them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tapeworks.errors import FailureCode, JobFailure
from tests.workers.components.conftest import source


@pytest.fixture
def photos(root: Path) -> Path:
    """Four, each with its number as its shade."""
    for index, place in enumerate(("a/1.png", "a/2.png", "b/1.png", "b/3.png")):
        (root / place).parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((2, 2, 3), index, "uint8")).save(root / place)
    return root


def labels(**config: Any) -> list[Any]:
    given = {"files": "*/*.png", "table": "labels.csv", **config}
    dataset = source("images", **given).dataset()
    assert [int(x[0, 0, 0] * 255 + 0.5) for x, _ in dataset] == [0, 1, 2, 3]
    return [y.numpy().tolist() for _, y in dataset]


def test_rows_label_the_files_whatever_their_order(photos: Path) -> None:
    rows = ["b/3.png,yes", "a/1.png,no", "b/1.png,yes", "2.png,maybe", "other.png,never"]
    (photos / "labels.csv").write_text("\ufefffile,label\n" + "\n".join(rows) + "\n")
    assert labels() == [1, 0, 2, 2], "maybe, no, yes, in order of name"
    assert labels(classes=["yes", "no", "maybe"]) == [1, 2, 0, 0]
    one = source("images", files="*/*.png", table="labels.csv")
    assert one.class_names() == ["maybe", "no", "yes"]
    assert [path.name for path in one.files()][-1] == "labels.csv", "its digest belongs to the lineage"
    with pytest.raises(JobFailure, match=r"a/2\.png: its label 'maybe' is none of yes, no"):
        labels(classes=["yes", "no"])


def test_json_lines_and_columns_of_other_names(photos: Path) -> None:
    rows = [{"image": name, "kind": kind, "box": 1} for name, kind in
            (("a/1.png", "no"), ("a/2.png", "yes"), ("b/1.png", "no"), ("b/3.png", "no"))]  # fmt: skip
    (photos / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert labels(table="labels.jsonl", file_column="image", label_column="kind") == [0, 1, 0, 0]


@pytest.mark.parametrize(
    ("cells", "column", "expected", "dtype"),
    [
        (["7,0", "-1,0", "0,0", "3,0"], "u", [7, -1, 0, 3], tf.int64),
        (["0.5,0", "1,0", "2,0", "1e3,0"], "u", [0.5, 1, 2, 1000], tf.float32),
        (["1,2", "3,4.5", "5,6", "7,8"], ["u", "v"], [[1, 2], [3, 4.5], [5, 6], [7, 8]], tf.float32),
        (["007,0", "008,0", "7,0", "007,0"], "u", [0, 1, 2, 0], tf.int64),
    ],
    ids=["integers", "floats", "vector", "codes"],
)
def test_numbers_are_labels_as_they_are(photos: Path, cells: Any, column: Any, expected: Any, dtype: Any) -> None:
    names = ["a/1.png", "a/2.png", "b/1.png", "b/3.png"]
    lines = [f"{name},{cell}" for name, cell in zip(names, cells, strict=True)]
    (photos / "labels.csv").write_text("\n".join(["file,u,v", *lines]))
    assert labels(label_column=column) == expected
    one = source("images", files="*/*.png", table="labels.csv", label_column=column)
    assert one.dataset().element_spec[1].dtype == dtype


def test_tables_that_do_not_label_the_files_are_refused(photos: Path) -> None:
    whole = "file,label\na/1.png,x\na/2.png,y\nb/1.png,x\nb/3.png,y\n"
    for text, says in (
        (whole.replace("b/1.png,x\n", ""), r"1 of 4 files have no row in labels\.csv: b/1\.png"),
        (whole + "a/2.png,x\n", r"labels\.csv, line 6: 'a/2\.png' has another label than in labels\.csv, line 3"),
        (whole.replace("b/1.png,x", "b/1.png,"), r"labels\.csv, line 4: the label 'label' is ''"),
        (whole.replace("label", "kind"), r"labels\.csv, line 2: no column 'label'; it has 'file', 'kind'"),
        (whole.replace("a/1.png,x", "a/1.png"), r"labels\.csv, line 2: 1 fields under 2 columns"),
        ("", "labels.csv is empty"),
    ):
        (photos / "labels.csv").write_text(text)
        with pytest.raises(JobFailure, match=says) as caught:
            labels()
        assert caught.value.code is FailureCode.INVALID_DATA
    (photos / "labels.csv").write_text(whole)
    with pytest.raises(JobFailure, match="a vector of label takes only numbers"):
        labels(label_column=["label"])
    with pytest.raises(JobFailure, match="needs labels"):
        labels(labels=None)
    (photos / "labels.csv").write_bytes("file,label\na/1.png,é\n".encode("latin-1"))
    with pytest.raises(JobFailure, match="cannot be read as CSV in UTF-8"):
        labels()
    (photos / "labels.jsonl").write_text("{broken\n")
    with pytest.raises(JobFailure, match="cannot be read as JSON lines"):
        labels(table="labels.jsonl")
