"""Rows of Parquet and JSON lines: dtypes, lists, sparse vectors, several files, streams larger than memory."""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from tapeworks.errors import FailureCode, JobFailure
from tests.workers.components.conftest import source


def plain(value: Any) -> Any:
    if isinstance(value, tf.RaggedTensor):
        return value.to_list()
    return np.asarray(tf.sparse.to_dense(value) if isinstance(value, tf.SparseTensor) else value).tolist()


def elements(dataset: tf.data.Dataset) -> list[Any]:
    return [tf.nest.map_structure(plain, element) for element in dataset]


ROWS = [
    {"ids": [1, 2, 3], "text": "a b", "age": 30, "height": 1.5, "label": 1, "w": 0.5},
    {"ids": [], "text": "ünï", "age": 40, "height": 1.75, "label": 0, "w": 1.0},
    {"ids": [4], "text": "", "age": 50, "height": 2.0, "label": 2, "w": 2.0},
]


def write(root: Path, form: str, rows: list[dict[str, Any]], name: str = "t") -> str:
    """Rows as a file of either form."""
    if form == "jsonl":
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(rows), root / f"{name}.parquet", row_group_size=2)
    return f"{name}.{form}"


both = pytest.mark.parametrize("form", ["jsonl", "parquet"])


@both
def test_lists_are_ragged_and_texts_are_strings(root: Path, form: str) -> None:
    file = write(root, form, ROWS)
    ragged = source(form, files=file, features="ids", labels="label", weight="w").dataset()
    assert elements(ragged) == [([1, 2, 3], 1, 0.5), ([], 0, 1.0), ([4], 2, 2.0)]
    assert isinstance(ragged.element_spec[0], tf.RaggedTensorSpec)
    assert int(ragged.cardinality()) == 3
    (x, y, w), *_ = ragged.batch(3)
    assert x.to_list() == [[1, 2, 3], [], [4]]
    assert (y.dtype, w.dtype) == (tf.int64, tf.float32)
    texts = source(form, files=file, features="text", labels=["label", "age"]).dataset()
    assert elements(texts)[1] == ("ünï".encode(), {"label": 0, "age": 40})


@both
def test_numbers_are_a_vector_or_named(root: Path, form: str) -> None:
    file = write(root, form, ROWS)
    vector = source(form, files=file, features=["height", "age"], labels="label").dataset()
    assert elements(vector)[1] == ([1.75, 40.0], 0)
    assert vector.element_spec[0] == tf.TensorSpec([2], tf.float32)
    named = source(form, files=file, features=["age", "ids"], named=True, dtypes={"age": "int8"}).dataset()
    assert elements(named)[0] == {"age": 30, "ids": [1, 2, 3]}
    assert named.element_spec["age"].dtype == tf.int8


def test_a_float64_job_gets_float64(root: Path) -> None:
    file = write(root, "parquet", [{"a": 0.1, "y": 1}])
    keras.config.set_floatx("float64")
    try:
        for one in (source("parquet", files=file, labels="y"), source("iris")):
            assert one.dataset().element_spec[0].dtype == tf.float64
        assert elements(source("parquet", files=file, labels="y").dataset()) == [([0.1], 1)]
    finally:
        keras.config.set_floatx("float32")


@both
def test_series_and_fixed_lists_have_the_shape_that_is_given(root: Path, form: str) -> None:
    rows = [{"s": [[1.0, 2.0], [3.0, 4.0]], "v": [1.0, 2.0, 3.0]}, {"s": [[5.0, 6.0]], "v": [4.0, 5.0, 6.0]}]
    file = write(root, form, rows)
    shapes = {"s": [None, 2], "v": [3]}
    dataset = source(form, files=file, features=["s", "v"], named=True, shapes=shapes).dataset()
    (batch,) = dataset.batch(2)
    assert batch["s"].shape.as_list() == [2, None, 2]
    assert batch["s"].to_list() == [row["s"] for row in rows]
    assert batch["v"].numpy().tolist() == [row["v"] for row in rows]
    fails(source(form, files=file, features="v", shapes={"v": [2]}), "a list of another length than 2")
    fails(source(form, files=file, features="v", shapes={"v": [2, 2]}), "has 1 dimensions")


@both
def test_sparse_vectors_stay_sparse(root: Path, form: str) -> None:
    rows = [
        {"items": {"indices": [70_000, 3], "values": [2.0, 1.0]}, "y": 1},
        {"items": {"indices": [99_999], "values": [5.0]}, "y": 0},
    ]
    file = write(root, form, rows)
    (batch,) = source(form, files=file, features="items", labels="y", sparse={"items": 100_000}).dataset().batch(2)
    x, _ = batch
    assert x.shape.as_list() == [2, 100_000]
    assert x.indices.numpy().tolist() == [[0, 3], [0, 70_000], [1, 99_999]]
    assert x.values.numpy().tolist() == [1.0, 2.0, 5.0]
    fails(source(form, files=file, features="items", sparse={"items": 99_999}), "an index outside 0 … 99998")


@pytest.mark.usefixtures("streamed")
@both
def test_files_are_read_one_after_another(root: Path, form: str) -> None:
    for shard in range(3):
        write(root, form, [{"x": 10 * shard + row} for row in range(4)], f"s{shard}")
    one = source(form, files=f"*.{form}", features="x")
    assert elements(one.dataset()) == [10 * shard + row for shard in range(3) for row in range(4)]
    assert [path.name for path in one.files()] == [f"s{shard}.{form}" for shard in range(3)]


@both
def test_small_files_are_the_rows_of_one_after_another(root: Path, form: str) -> None:
    for shard in range(3):
        write(root, form, [{"x": [shard] * (row % 3), "y": 10 * shard + row} for row in range(4)], f"s{shard}")
    dataset = source(form, files=f"*.{form}", features="x", labels="y").dataset()
    assert [y.numpy() for _, y in dataset] == [10 * shard + row for shard in range(3) for row in range(4)]
    assert [x.to_tensor().numpy().tolist() if hasattr(x, "to_tensor") else x.numpy().tolist() for x, _ in dataset] == [
        [shard] * (row % 3) for shard in range(3) for row in range(4)
    ]


@pytest.mark.usefixtures("streamed")
@both
def test_a_stream_resumes_in_the_middle_of_a_part(root: Path, form: str, tmp_path: Path) -> None:
    for shard in range(3):
        write(root, form, [{"x": [shard] * (row + 1)} for row in range(7)], f"s{shard}")
    one = source(form, files=f"*.{form}", features="x")
    iterator = iter(one.dataset().batch(2))
    begun = [next(iterator).to_list() for _ in range(4)]
    tf.train.Checkpoint(iterator=iterator).write(str(tmp_path / "saved"))
    resumed = iter(source(form, files=f"*.{form}", features="x").dataset().batch(2))
    tf.train.Checkpoint(iterator=resumed).read(str(tmp_path / "saved")).assert_consumed()
    rest = [batch.to_list() for batch in resumed]
    assert [*begun, *rest] == [batch.to_list() for batch in one.dataset().batch(2)]


def test_what_does_not_fit_is_told_with_its_place(root: Path) -> None:
    write(root, "jsonl", [*ROWS, {**ROWS[0], "label": None}], "null")
    write(root, "jsonl", [*ROWS, {**ROWS[0], "label": "one"}], "text")
    write(root, "parquet", ROWS)
    (root / "broken.jsonl").write_text('{"x": 1}\n{"x": \n')
    (root / "empty.jsonl").write_text("")
    (root / "text.parquet").write_text("no parquet")
    fails(
        source("jsonl", files="null.jsonl", features="age", labels="label"),
        "null.jsonl, line 4: column 'label' has no value",
    )
    fails(
        source("jsonl", files="text.jsonl", features="age", labels="label"),
        "column 'label' holds values of several types",
    )
    fails(source("jsonl", files="broken.jsonl"), "broken.jsonl, line 2: JSON parse error")
    fails(source("jsonl", files="empty.jsonl"), "empty.jsonl is empty")
    fails(source("parquet", files="text.parquet"), "text.parquet cannot be read as Parquet")
    fails(source("parquet", files="t.parquet", features="size"), "no column 'size'; it has ids, text, age")
    fails(source("parquet", files="t.parquet", features=["ids", "age"]), "'ids' is not a number: one vector")
    fails(source("parquet", files="t.parquet", features="age", sparse={"age": 3}), "a sparse one holds")
    with pytest.raises(JobFailure, match="a sample weight needs labels"):
        source("parquet", files="t.parquet", weight="w")


def fails(one: Any, says: str) -> None:
    with pytest.raises(JobFailure, match=says) as caught:
        one.dataset()
    assert caught.value.code is FailureCode.INVALID_DATA


@pytest.mark.usefixtures("streamed")
def test_a_mistake_far_into_a_stream_ends_the_job_as_invalid_data(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tapeworks_workers.components.sources import jsonl
    from tapeworks_workers.engine.diagnostics import classify

    monkeypatch.setattr(jsonl, "PART_BYTES", 64)
    write(root, "jsonl", [{"x": row} for row in range(50)] + [{"x": None}])
    dataset = source("jsonl", files="t.jsonl", features="x").dataset()
    with pytest.raises(tf.errors.OpError) as caught:
        list(dataset)
    failure = classify.failure(caught.value, spec={}, phase="training")
    assert failure["code"] == "invalid_data"
    assert "t.jsonl, line 51: column 'x' has no value" in failure["message"]


def test_a_mistake_far_into_a_small_file_is_told_at_once(root: Path) -> None:
    write(root, "jsonl", [{"x": row, "text": "-" * 1000} for row in range(2000)] + [{"x": None, "text": ""}])
    fails(source("jsonl", files="t.jsonl", features="x"), "t.jsonl, line 2001: column 'x' has no value")


def test_a_stream_larger_than_memory_keeps_memory_flat(root: Path) -> None:
    random = np.random.default_rng(0)
    table = pa.table({"x": pa.FixedSizeListArray.from_arrays(random.random(4 * 2**20), 1024), "y": np.arange(4096)})
    for shard in range(4):  # 128 MB in row groups of 2 MB
        pq.write_table(table, root / f"{shard}.parquet", row_group_size=256, compression=None)
    dataset = source("parquet", files="*.parquet", features="x", labels="y").dataset().batch(256)
    process, sizes, read = psutil.Process(), [], 0
    for index, (x, _) in enumerate(dataset.prefetch(2)):
        read += x.shape[0] * 1024 * 8
        if index % 4 == 0:
            sizes.append(process.memory_info().rss)
    assert read == 4 * 4 * 2**20 * 8
    settled = sizes[len(sizes) // 3 :]
    assert max(settled) - min(settled) < 32 * 2**20, "a quarter of what was read"
