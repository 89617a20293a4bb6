"""Splits and operations: what comes out of `data` of a spec."""

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tapeworks.errors import FailureCode, JobFailure
from tapeworks_workers.engine.data.pipeline import Data, Split, build_data
from tapeworks_workers.engine.data.splitting import splits
from tests.support.trainings import BATCH, SHUFFLE, job, numbers


def data_of(form: str = "index", size: int = 100, pipeline: Any = (BATCH,), **data: Any) -> Data:
    return build_data(job(data={"source": numbers(size, form), "pipeline": list(pipeline), **data}))


def elements(split: Split | None, number: int = 0) -> list[int]:
    assert split is not None
    return [int(value) for x, _ in split.dataset(number) for value in x.numpy()[:, 0]]


@pytest.mark.parametrize("form", ["index", "unknown"])
def test_random_splits_share_every_element_once(form: str) -> None:
    data = data_of(form, 200, validation=0.2, test=0.1)
    parts = [elements(split) for split in (data.training, data.validation, data.test)]
    assert sorted(itertools.chain(*parts)) == list(range(200))
    if form == "index":
        assert [len(part) for part in parts] == [140, 40, 20]
    else:  # by a stable hash: about so many
        assert 20 < len(parts[1]) < 60
    again = data_of(form, 200, validation=0.2, test=0.1)
    assert elements(again.validation) == parts[1]
    assert all(part == sorted(part) for part in parts), "in the order of the source"


def test_a_source_too_large_for_memory_is_filtered(monkeypatch: pytest.MonkeyPatch) -> None:
    in_memory = data_of(validation=0.2)
    monkeypatch.setattr(splits, "IN_MEMORY_BYTES", 0)
    filtered = data_of(validation=0.2)
    assert elements(filtered.validation) == elements(in_memory.validation)
    assert elements(filtered.training) == elements(in_memory.training)
    assert filtered.training.steps == in_memory.training.steps == 8


@pytest.mark.parametrize("form", ["index", "unknown"])
def test_tail_is_the_end_and_test_is_last(form: str) -> None:
    tail = {"fraction": 0.1, "split": "tail"}
    data = data_of(form, validation=tail, test=tail)
    assert elements(data.training) == list(range(80))
    assert elements(data.validation) == list(range(80, 90))
    assert elements(data.test) == list(range(90, 100))


def test_a_split_with_a_source_of_its_own() -> None:
    data = data_of(validation=numbers(30, "index"))
    assert elements(data.validation) == list(range(30))
    assert len(elements(data.training)) == 100
    assert set(data.sources) == {"training", "validation"}


def test_shuffle_is_another_order_each_pass_and_the_same_in_every_process() -> None:
    data = data_of(pipeline=[SHUFFLE, BATCH], validation=0.2)
    orders = [elements(data.training, number) for number in (0, 1, 0)]
    assert orders[0] == orders[2]
    assert orders[0] != orders[1]
    assert Counter(orders[0]) == Counter(orders[1])
    again = data_of(pipeline=[SHUFFLE, BATCH], validation=0.2)
    assert elements(again.training, 1) == orders[1]
    assert elements(again.validation, 1) == elements(data.validation, 0)  # never shuffled


def test_operations_in_order_and_for_training_only() -> None:
    pipeline = [
        {"op": "skip", "count": 5},
        {"op": "take", "count": 10},
        {"op": "repeat", "count": 2},
        {"op": "map", "function": "lab/Half", "field": "x", "training_only": True},
        {"op": "batch", "batch_size": 4, "drop_remainder": True},
    ]
    data = data_of(pipeline=pipeline, validation={"fraction": 0.5, "split": "tail"})
    assert data.training.steps == 5
    assert elements(data.training)[:6] == [2, 3, 3, 4, 4, 5]
    assert elements(data.validation) == list(range(55, 63))


def test_map_on_the_whole_element_makes_a_dict() -> None:
    data = data_of("plain", pipeline=[{"op": "map", "function": "lab/Sum"}, BATCH, {"op": "cast", "dtype": "float16"}])
    x, y = data.element_spec
    assert {name: (spec.shape.as_list(), spec.dtype.name) for name, spec in x.items()} == {
        "x": ([None, 4], "float16"),
        "sum": ([None, 1], "float16"),
    }
    assert y.dtype == tf.int64


def test_a_cast_of_one_field() -> None:
    cast = {"op": "cast", "dtype": "int32", "field": "x.age"}
    x, _ = data_of("named", pipeline=[BATCH, cast]).element_spec
    assert [x[name].dtype.name for name in ("height", "age")] == ["float32", "int32"]


def test_a_seeded_transform_repeats_itself_by_pass() -> None:
    pipeline = [SHUFFLE, {"op": "map", "function": "lab/Jitter"}, BATCH]
    data = data_of(pipeline=pipeline)

    def noise(number: int) -> np.ndarray:
        return np.concatenate([x.numpy()[:, 0] for x, _ in data.training.dataset(number)])

    np.testing.assert_array_equal(noise(1), noise(1))
    assert not np.array_equal(np.sort(noise(0)), np.sort(noise(1)))


def test_a_cache_freezes_what_is_before_it() -> None:
    jitter = {"op": "map", "function": "lab/Jitter"}
    data = data_of(pipeline=[jitter, {"op": "cache"}, SHUFFLE, BATCH])
    passes = [np.concatenate([x.numpy()[:, 0] for x, _ in data.training.dataset(number)]) for number in (0, 1)]
    np.testing.assert_array_equal(np.sort(passes[0]), np.sort(passes[1]))
    assert not np.array_equal(passes[0], passes[1])


def test_batches_have_no_fixed_size() -> None:
    data = data_of("weighted", size=25)
    assert [spec.shape.as_list() for spec in data.element_spec] == [[None, 4], [None], [None]]
    assert data.training.steps == 3


@pytest.mark.parametrize(
    ("data", "code", "says"),
    [
        ({"source": numbers(0)}, "invalid_data", "training split is empty"),
        ({"pipeline": [{"op": "skip", "count": 1000}, BATCH]}, "invalid_data", "training split is empty"),
        (
            {"pipeline": [{"op": "batch", "batch_size": 500, "drop_remainder": True}]},
            "invalid_data",
            "training split is empty",
        ),
        ({"validation": 0.001}, "invalid_data", "validation split is empty"),
        ({"source": numbers(form="float64")}, "float64_input", "x of the training split is float64"),
        ({"source": numbers(form="endless")}, "invalid_spec", "training split never ends"),
        ({"validation": numbers(form="endless")}, "invalid_data", "validation split never ends"),
        ({"source": numbers(form="endless"), "test": 0.1}, "invalid_data", "endless source cannot be split"),
        ({"pipeline": [{"op": "shuffle", "buffer_size": 10}]}, "invalid_spec", "never batched"),
        ({"pipeline": [{"op": "cast", "dtype": "int32", "field": "x.age"}, BATCH]}, "invalid_data", "'x.age'"),
    ],
)
def test_data_that_cannot_be_trained_on(data: dict[str, Any], code: str, says: str) -> None:
    with pytest.raises(JobFailure, match=says) as caught:
        build_data(job(data=data))
    assert caught.value.code == FailureCode(code)


def test_files_of_a_source_are_in_the_lineage() -> None:
    data = build_data(job(data={"source": "digits"}))
    (file,) = data.sources["training"]["files"]
    assert len(file["sha256"]) == 64
    assert file["bytes"] > 0
    assert "/" not in file["name"]


def test_tuning_is_left_to_pipelines_that_have_something_to_tune() -> None:
    cast = {"op": "cast", "dtype": "float16"}
    shuffle = {"op": "shuffle", "buffer_size": 100}
    for pipeline, tuned in (([shuffle, BATCH], False), ([shuffle, cast, BATCH], True)):
        options = data_of(pipeline=pipeline).training.dataset(0).options()
        assert options.autotune.enabled is tuned


def test_layers_adapt_to_the_training_split_as_other_splits_are_seen() -> None:
    jitter = {"op": "map", "function": "lab/Jitter", "training_only": True}
    pipeline = [SHUFFLE, {"op": "repeat", "count": 3}, jitter, BATCH]
    source = numbers(20)
    found = list(build_data(job(data={"source": source, "pipeline": pipeline})).plain().as_numpy_iterator())
    expected = list(
        build_data(job(data={"source": source, "pipeline": [BATCH]})).training.dataset(0).as_numpy_iterator()
    )
    assert len(found) == len(expected) == 2
    for (x, y), (expected_x, expected_y) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(x, expected_x)
        np.testing.assert_array_equal(y, expected_y)
