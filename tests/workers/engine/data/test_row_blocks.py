"""Batches and splits cut from blocks of rows are those that tf.data makes of the elements, and resume exactly."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from tapeworks.components.loading import load_installed
from tapeworks.spec.pipeline_ops import Batch
from tapeworks.spec.references import Kind, ReferenceFields
from tapeworks.spec.splits import Split
from tapeworks_workers.components.sources import parts, row_blocks
from tapeworks_workers.engine.data.pipeline_context import PipelineContext
from tapeworks_workers.engine.data.sources import apply_pipeline, open_source
from tapeworks_workers.engine.data.splitting import splits
from tapeworks_workers.engine.factory.build_context import BuildContext
from tests.support.job_files import build, files, set_data_roots

SIZES = [1, 23, 40]
ROWS = sum(SIZES)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three Parquet files in row groups of up to seven rows, read as a stream."""
    load_installed()
    numbers = np.random.default_rng(0)
    start = 0
    for index, size in enumerate(SIZES):
        table = pa.table(
            {"n": np.arange(start, start + size), "x": numbers.normal(size=size), "t": ["é" * n for n in range(size)]}
        )
        pq.write_table(table, tmp_path / f"{index}.parquet", row_group_size=7)
        start += size
    set_data_roots([tmp_path])
    monkeypatch.setattr(parts, "WHOLE_FILE_BYTES", 0)
    monkeypatch.setattr(splits, "IN_MEMORY_BYTES", 0)
    return tmp_path


CONFIG = {"files": "*.parquet", "labels": "n", "features": ["x", "t"], "named": True}


def rows(**config: Any) -> tf.data.Dataset:
    made: tf.data.Dataset = build(
        {"component": "parquet", "config": {**CONFIG, **config}}, Kind.SOURCE, pointer=""
    ).dataset()
    return made


def plain(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The same elements, of which nobody knows that they come in blocks."""
    return dataset.map(lambda *element: element if len(element) > 1 else element[0])


def plain_value(leaf: tf.Tensor) -> Any:
    return np.asarray(leaf).tolist()


def listed(dataset: tf.data.Dataset) -> list[Any]:
    return [tf.nest.map_structure(plain_value, element) for element in dataset]


@pytest.mark.parametrize("config", [{}, {"labels": None, "features": "x", "named": False}])
@pytest.mark.parametrize("size", [5, 7, 1000])
@pytest.mark.parametrize("drop", [True, False])
def test_batches_are_those_of_the_elements(config: dict[str, Any], size: int, drop: bool) -> None:
    dataset = rows(**config)
    right = plain(dataset).batch(size, drop_remainder=drop)
    made = row_blocks.batched(dataset, size, drop_remainder=drop)
    assert made is not None
    assert listed(made) == listed(right)
    assert int(made.cardinality()) == int(right.cardinality())
    assert made.element_spec == right.element_spec


@pytest.mark.slow
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("fractions", [{"validation": Split(fraction=0.3)},
                                       {"validation": Split(fraction=0.3), "test": Split(fraction=0.1)},
                                       {"validation": Split(fraction=0.3, split="tail")}])  # fmt: skip
def test_splits_are_those_of_the_elements(fractions: dict[str, Split], known: bool) -> None:
    dataset = rows()
    if not known:
        dataset = row_blocks.chosen(dataset, lambda numbers: numbers >= 0)
    right = splits.split(plain(dataset), fractions, seed=5)
    made = splits.split(dataset, fractions, seed=5)
    for name, one in made.datasets.items():
        assert row_blocks.batched(one, 3, drop_remainder=False) is not None, "cut from blocks again"
        assert listed(one) == listed(right.datasets[name])
        assert int(one.cardinality()) == int(right.datasets[name].cardinality())
        batches = row_blocks.batched(one, 4, drop_remainder=False)
        assert listed(batches) == listed(right.datasets[name].batch(4))  # type: ignore[arg-type]
    assert sorted(y for one in made.datasets.values() for _, y in listed(one)) == list(range(ROWS))


@pytest.mark.parametrize("taken", [0, 1, 4, 9])
@pytest.mark.parametrize("split", [None, 0.4])
def test_a_job_uses_blocks_and_an_iterator_continues_with_the_next_batch(
    tmp_path: Path, split: float | None, taken: int
) -> None:
    setting = PipelineContext(seed=3, deterministic=True, build=BuildContext(files()))
    origin = open_source(ReferenceFields(component="parquet", config=CONFIG), setting, pointer="/data/source")
    raw = origin.split({} if split is None else {"validation": Split(fraction=split)})["training"]
    pipeline = [Batch(op="batch", batch_size=4)]
    made = apply_pipeline(raw, pipeline, split="training", setting=setting, pointer="/data/pipeline").dataset(0)
    assert "Rebatch" in str([type(one).__name__ for one in _all(made)])
    right = listed(made)
    assert right == listed(plain(raw.dataset(0)).batch(4))
    iterator = iter(made)
    for _ in range(taken):
        next(iterator)
    saved = tf.train.Checkpoint(iterator=iterator).write(str(tmp_path / "it"))
    again = iter(made)
    tf.train.Checkpoint(iterator=again).read(saved).assert_consumed()
    assert listed(again) == right[taken:]


def _all(dataset: tf.data.Dataset) -> list[tf.data.Dataset]:
    return [dataset, *(one for inner in dataset._inputs() for one in _all(inner))]


def test_ragged_rows_stay_elements() -> None:
    dataset = rows(features=["x"], labels=None)
    assert row_blocks.batched(dataset, 2, drop_remainder=False) is not None
    set_data_roots([])
    assert row_blocks.batched(plain(dataset), 2, drop_remainder=False) is None


def test_all_rows_at_once_are_those_of_the_elements(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = rows()
    (right,) = listed(plain(dataset).batch(ROWS))
    assert tf.nest.map_structure(plain_value, row_blocks.whole(dataset)) == right
    monkeypatch.setattr(splits, "IN_MEMORY_BYTES", 1 << 30)
    fractions = {"validation": Split(fraction=0.3)}
    made, plainly = (splits.split(one, fractions, seed=1).datasets for one in (dataset, plain(dataset)))
    assert {name: listed(one) for name, one in made.items()} == {name: listed(one) for name, one in plainly.items()}
