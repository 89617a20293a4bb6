"""Operations that batch, filter and re-form elements: what comes out, in one trace, and how a resumed pass goes on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tapeworks.errors import FailureCode, JobFailure
from tapeworks_workers.engine.data.batch_iterator import BatchIterator
from tapeworks_workers.engine.data.pipeline import Data, build_data
from tapeworks_workers.engine.diagnostics.classify import classify
from tests.support.trainings import BATCH, SHUFFLE, job, numbers, trained

SENTENCES = {"component": "lab/Sequences", "config": {"form": "ragged"}}
SERIES = {"component": "lab/Sequences", "config": {"form": "series"}}
SPARSE = {"component": "lab/Sequences", "config": {"form": "sparse"}}
BUCKETS = {"op": "bucket_by_sequence_length", "bucket_boundaries": [4], "bucket_batch_sizes": [5, 3]}
RAGGED = {"op": "ragged_batch", "batch_size": 4}
PADDED = {"op": "padded_batch", "batch_size": 4}


def data_of(source: Any, *pipeline: Any, **data: Any) -> Data:
    """In order: the parallel operations of other jobs may give a later element first."""
    return build_data(
        job(data={"source": source, "pipeline": list(pipeline), **data}, training={"deterministic": True})
    )


def plain(value: Any) -> Any:
    if isinstance(value, tf.RaggedTensor):
        return value.to_list()
    return (tf.sparse.to_dense(value) if isinstance(value, tf.SparseTensor) else value).numpy().tolist()


def batches(data: Data, number: int = 0) -> list[Any]:
    return [tuple(plain(part) for part in element) for element in data.training.dataset(number)]


def rows(data: Data) -> list[Any]:
    return [row for batch in batches(data) for row in zip(*batch, strict=True)]


EXPECTED = [([10 * i + j for j in range(i % 6 + 1)], i) for i in range(23)]
"""What lab/Sequences holds: rows of 1 … 6 ids, each with its number."""


@pytest.mark.parametrize(
    ("source", "pipeline"),
    [
        (SENTENCES, [RAGGED]),
        (SENTENCES, [BATCH]),
        (SENTENCES, [{**BUCKETS, "ragged": True}]),
        (SENTENCES, [PADDED]),
        (SENTENCES, [BUCKETS]),
        (SERIES, [RAGGED]),
        (SERIES, [BUCKETS]),
        (SPARSE, [BATCH]),
    ],
)
def test_one_trace_serves_every_length(source: Any, pipeline: Any) -> None:
    data = data_of(source, *pipeline)
    traces = []

    @tf.function(input_signature=[data.element_spec])
    def step(element: Any) -> Any:
        traces.append(element)
        return tf.shape(element[1])[0]

    sizes = [int(step(element)) for element in data.training.dataset(0)]
    assert sum(sizes) == 23
    assert len(set(sizes)) > 1, "a short last batch is among them"
    assert len(traces) == 1
    assert all(leaf.shape[0] is None for leaf in tf.nest.flatten(data.element_spec))


def test_ragged_and_padded_batches_hold_the_elements() -> None:
    assert rows(data_of(SENTENCES, RAGGED)) == EXPECTED
    padded = data_of(SENTENCES, {**PADDED, "padded_shapes": {"x": [8]}, "padding_values": {"x": -1}})
    assert rows(padded) == [(ids + [-1] * (8 - len(ids)), y) for ids, y in EXPECTED]
    assert batches(data_of(SENTENCES, PADDED))[0][0] == [
        [0, 0, 0, 0],
        [10, 11, 0, 0],
        [20, 21, 22, 0],
        [30, 31, 32, 33],
    ]
    assert rows(data_of(SENTENCES, PADDED, {"op": "to_ragged", "padding": 0}))[1:] == EXPECTED[1:]


def test_buckets_hold_elements_of_like_length() -> None:
    for operation in (BUCKETS, {**BUCKETS, "ragged": True}):
        for x, y in batches(data_of(SENTENCES, operation)):
            lengths = [number % 6 + 1 for number in y]
            assert max(lengths) < 4 or min(lengths) >= 4
            assert len(y) <= (5 if max(lengths) < 4 else 3)
            assert [row[0] for row in x] == [10 * number for number in y]
    boundary = {**BUCKETS, "bucket_boundaries": [4, 7], "bucket_batch_sizes": [5, 3, 1], "pad_to_bucket_boundary": True}
    assert {len(x[0]) for x, _ in batches(data_of(SENTENCES, boundary))} == {3, 6}
    dropping = data_of(SENTENCES, {**BUCKETS, "ragged": True, "drop_remainder": True})
    assert {len(y) for _, y in batches(dropping)} == {5, 3}


def test_sparse_rows_stay_sparse_to_the_batch() -> None:
    data = data_of(SPARSE, SHUFFLE, BATCH, validation=0.2)
    assert data.element_spec[0] == tf.SparseTensorSpec([None, 100_000], tf.float32)
    seen = [(x, y) for split in (data.training, data.validation) if split for x, y in split.dataset(0)]
    assert sum(x.values.shape[0] for x, _ in seen) == sum(len(ids) for ids, _ in EXPECTED)
    assert sorted(int(label) for _, y in seen for label in y) == list(range(23))


def test_one_hot_dense_and_sparse_agree_with_tensorflow() -> None:
    plain_numbers = [BATCH, {"op": "cast", "dtype": "uint8", "field": "y"}]
    labels = [y for _, y in batches(data_of(numbers(30), *plain_numbers))]
    for place in (0, 2):  # before and after the batch
        for sparse in (False, True):
            pipeline = [*plain_numbers]
            pipeline.insert(place, {"op": "one_hot", "depth": 2, "sparse": sparse, "outside": "zeros"})
            if place == 0:
                pipeline.pop()
            data = data_of(numbers(30), *pipeline)
            assert [y for _, y in batches(data)] == [tf.one_hot(y, 2).numpy().tolist() for y in labels]
            assert isinstance(data.element_spec[1], tf.SparseTensorSpec) is sparse
            assert data.element_spec[1].shape.as_list() == [None, 2]


def test_one_hot_of_an_id_outside_is_invalid_data() -> None:
    for sparse in (False, True):
        for place in (0, 1):
            pipeline: list[dict[str, Any]] = [BATCH]
            pipeline.insert(place, {"op": "one_hot", "depth": 2, "sparse": sparse})
            with pytest.raises(tf.errors.InvalidArgumentError) as caught:
                batches(data_of(numbers(30), *pipeline))
            failure = classify(caught.value)
            assert failure.code == "invalid_data"
            assert "one_hot with depth 2 takes ids from 0 to 1, and the data holds 2" in failure.message


def test_fields_become_sparse_and_ragged() -> None:
    data = data_of(SENTENCES, RAGGED, {"op": "to_sparse"})
    assert isinstance(data.element_spec[0], tf.SparseTensorSpec)
    back = data_of(SENTENCES, RAGGED, {"op": "to_sparse"}, {"op": "to_ragged"})
    assert rows(back) == EXPECTED
    dense = data_of(numbers(20), {"op": "to_sparse"}, BATCH, {"op": "to_ragged", "field": "x"})
    for (x, _), (expected, _) in zip(batches(dense), batches(data_of(numbers(20), BATCH)), strict=True):
        np.testing.assert_array_equal(x, expected)


def test_rebatch_and_unbatch() -> None:
    for source in (SENTENCES, SPARSE):
        whole = rows(data_of(source, BATCH))
        assert rows(data_of(source, BATCH, {"op": "rebatch", "batch_size": 4})) == whole
        again = data_of(source, BATCH, {"op": "unbatch"}, SHUFFLE, BATCH)
        assert sorted(rows(again), key=lambda row: row[1]) == whole
    with pytest.raises(JobFailure, match="unbatch meets single elements"):
        data_of(SENTENCES, {"op": "unbatch"}, BATCH)


def test_filter_keeps_what_its_function_says() -> None:
    short = {"op": "filter", "function": {"component": "lab/Shorter", "config": {"than": 3}}, "field": "x"}
    assert rows(data_of(SENTENCES, short, RAGGED)) == [(ids, y) for ids, y in EXPECTED if len(ids) < 3]
    coin = {"op": "filter", "function": "lab/Coin"}
    data = data_of(SENTENCES, coin, RAGGED)
    assert batches(data, 1) == batches(data, 1) != batches(data, 0)
    with pytest.raises(JobFailure, match=r"must return one bool .* not float64"):
        data_of(SENTENCES, {"op": "filter", "function": "lab/Half", "field": "y"}, RAGGED)


def test_apply_calls_a_function_on_the_dataset() -> None:
    dealt = data_of(numbers(30), {"op": "apply", "function": "lab/Dealt"}, BATCH)
    assert batches(dealt, 1) == batches(dealt, 1) != batches(dealt, 0)
    batched = data_of(numbers(30), {"op": "apply", "function": "lab/Pairs"})
    assert batched.training.steps == 15
    with pytest.raises(JobFailure, match=r"must return a tf.data.Dataset, not int"):
        data_of(numbers(30), {"op": "apply", "function": "lab/NoDataset"}, BATCH)


@pytest.mark.parametrize(
    ("pipeline", "says"),
    [
        ([{**PADDED, "padding_values": {"x.a": 1}}], "has no 'x.a'; it has x, y"),
        ([{**PADDED, "padded_shapes": {"x": [3, 3]}}], r"padded_shapes of x is \[3, 3\]"),
        ([{**PADDED, "padding_values": {"x": "none"}}], "'none' cannot fill x, which is int64"),
        ([{**BUCKETS, "length_field": "y"}], "length_field 'y' has no length"),
        ([{**BUCKETS, "length_field": "sample_weight"}], "no 'sample_weight'"),
        ([{"op": "one_hot", "depth": 3, "field": "x.a"}, RAGGED], "'x.a'"),
        ([RAGGED, {"op": "cast", "dtype": "float32"}, {"op": "one_hot", "depth": 3, "field": "x"}], "takes integers"),
        ([{"op": "to_ragged", "field": "y"}, RAGGED], "takes rows"),
    ],
)
def test_what_does_not_fit_the_element_is_told(pipeline: Any, says: str) -> None:
    with pytest.raises(JobFailure, match=says) as caught:
        data_of(SENTENCES, *pipeline)
    assert caught.value.code == FailureCode.INVALID_DATA
    with pytest.raises(JobFailure, match="cannot pad x, which is sparse"):
        data_of(SPARSE, PADDED)


@pytest.mark.parametrize(
    ("source", "pipeline"),
    [
        (SENTENCES, [SHUFFLE, BUCKETS]),
        (SENTENCES, [SHUFFLE, {**BUCKETS, "ragged": True}]),
        (SENTENCES, [{"op": "cache"}, {**SHUFFLE, "buffer_size": 5}, RAGGED]),
        (SENTENCES, [{"op": "filter", "function": "lab/Coin"}, {"op": "repeat", "count": 3}, PADDED]),
        (SPARSE, [SHUFFLE, BATCH, {"op": "rebatch", "batch_size": 4}]),
        (SENTENCES, [BATCH, {"op": "unbatch"}, SHUFFLE, BATCH]),
        (numbers(40), [{"op": "apply", "function": {"component": "windows", "config": {"size": 3}}}, SHUFFLE, BATCH]),
        (numbers(40), [
            {"op": "apply", "function": {"component": "balance", "config": {"classes": 3, "take": 60}}}, BATCH]),
        (numbers(40), [{"op": "apply", "function": "lab/Dealt"}, {**BATCH, "batch_size": 4}]),
        ({"component": "zip", "config": {"stop": "longest", "sources": {
            "a": {"source": SENTENCES, "pipeline": [SHUFFLE]}, "b": {"source": numbers(9), "pipeline": [SHUFFLE]}}}},
         [RAGGED]),
        ({"component": "sample", "config": {"weights": [3, 1], "sources": [
            {"source": SENTENCES, "pipeline": [SHUFFLE]}, SENTENCES]}}, [RAGGED]),
    ],
)  # fmt: skip
def test_a_pass_resumes_in_its_middle_exactly(tmp_path: Path, source: Any, pipeline: Any) -> None:
    def spec() -> Data:
        return data_of(source, *pipeline)

    def taken(feed: BatchIterator, count: int | None = None) -> list[Any]:
        elements = []
        for element in feed.iterator:
            elements.append(tf.nest.map_structure(plain, element))
            feed.position += 1
            if len(elements) == count:
                break
        return elements

    whole = taken(BatchIterator(spec().training, number=1))
    first = BatchIterator(spec().training, number=1)
    begun = taken(first, 2)
    assert first.save(tmp_path), "tf.data can save it"
    resumed = BatchIterator(spec().training, number=1, position=2)
    resumed.resume(tmp_path)
    assert resumed.savable
    assert [*begun, *taken(resumed)] == whole
    assert len(whole) > 2


@pytest.mark.thorough
def test_labels_of_other_widths_train_alike(tmp_path: Path) -> None:
    def logs(dtype: str) -> dict[str, float]:
        cast = {"op": "cast", "dtype": dtype, "field": "y"}
        data = {"source": numbers(30), "pipeline": [cast, BATCH]}
        spec = job(data=data, metrics=["keras/SparseCategoricalAccuracy"], training={"epochs": 1})
        return trained(spec, tmp_path / dtype).events("epoch")[0]["logs"]

    expected = logs("int64")
    for dtype in ("int8", "int16", "int32", "uint8", "uint16", "uint32", "uint64"):
        assert logs(dtype) == expected, dtype
