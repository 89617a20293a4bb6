"""`windows` gets the steps of a series in their order, or the job is refused with what to write instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tapeworks.components.loading import load_components
from tapeworks.errors import FailureCode, JobFailure
from tapeworks_workers.engine.data.pipeline import Data
from tests.support.job_files import build_data, set_data_roots
from tests.support.paths import LAB
from tests.support.trainings import SHUFFLE, job, numbers

load_components([LAB / "element_order_parts.py"])
BATCH = {"op": "batch", "batch_size": 32}
MAPPED = {"op": "cast", "dtype": "float32", "field": "x"}
SERIES = numbers(400, "index")
REPEAT = {"op": "repeat", "count": 2}


def windows(**config: Any) -> dict[str, Any]:
    return {"op": "apply", "function": {"component": "windows", "config": {"size": 4, **config}}}


def balance(take: int = 100) -> dict[str, Any]:
    return {"op": "apply", "function": {"component": "balance", "config": {"classes": 3, "take": take}}}


def built(pipeline: list[dict[str, Any]], source: Any = SERIES, **data: Any) -> Data:
    training = data.pop("training", {})
    return build_data(job(data={"source": source, "pipeline": pipeline, **data}, training=training))


def in_order(data: Data) -> int:
    """How many windows there are; each is checked to hold neighbours."""
    found = np.concatenate([x.numpy().reshape(len(x), 4) for x, _ in data.training.dataset(0)])
    assert (np.diff(found, axis=1) == 1).all()
    return len(found)


TAIL = {"fraction": 0.2, "split": "tail"}
REFUSED: dict[str, tuple[list[dict[str, Any]], dict[str, Any], str, str]] = {
    "a random split": ([windows(), BATCH], {"validation": 0.2}, "draws data.validation at random", '"split": "tail"'),
    "one of two splits": (
        [windows(), BATCH], {"validation": TAIL, "test": 0.1}, "draws data.test at random", '"test": {"fraction": 0.1',
    ),
    "a shuffle": ([SHUFFLE, windows(), BATCH], {}, "pipeline/0 is before it: shuffle", "Move shuffle behind it"),
    "a shuffle for training": ([{**SHUFFLE, "training_only": True}, windows(), BATCH], {}, "shuffle", "Move shuffle"),
    "a repeat": ([REPEAT, windows(), BATCH], {}, "first element of the data after its last", "Move repeat behind it"),
    "balance": ([balance(), windows(), BATCH], {}, "'balance' changes the order", "Move balance behind it"),
    "sampled sources": (
        [windows(), BATCH], {"source": {"component": "sample", "config": {"sources": [SERIES, SERIES]}}},
        "the source 'sample' mixes its sources", "pipeline of each branch",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_series_whose_order_is_lost_is_refused(name: str) -> None:
    pipeline, data, message, hint = REFUSED[name]
    with pytest.raises(JobFailure) as caught:
        built(pipeline, **data)
    assert caught.value.code is FailureCode.INVALID_SPEC
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


def test_what_the_hints_say_is_taken() -> None:
    validated = built([windows(), BATCH], validation=TAIL, test={"fraction": 0.1, "split": "tail"})
    assert in_order(validated) == 280 - 4
    assert built([windows(), SHUFFLE, REPEAT, BATCH]).training.steps == -(-2 * 396 // 32)
    branch = {"source": SERIES, "pipeline": [windows()]}
    sampled = built([BATCH], source={"component": "sample", "config": {"sources": [branch, branch]}})
    assert in_order(sampled) == 2 * 396


def test_parallel_calls_before_windows_keep_the_order() -> None:
    uneven = {"op": "map", "function": "order/SlowFirst"}
    assert in_order(built([uneven, MAPPED, windows(), BATCH], training={"deterministic": False})) == 396


@pytest.mark.parametrize("rows", [200, 400_000])
def test_files_follow_each_other_whatever_their_size(tmp_path: Path, rows: int) -> None:
    for number in range(4):
        values = np.arange(number * rows, (number + 1) * rows, dtype=np.float64)
        table = pa.table({"v": values + 0.0, "noise": np.random.default_rng(number).normal(size=rows)})
        pq.write_table(table, tmp_path / f"day{number}.parquet", row_group_size=rows // 3 + 1)
    set_data_roots([tmp_path])
    source = {"component": "parquet", "config": {"files": "*.parquet", "features": ["v"]}}
    data = built([{"op": "batch", "batch_size": 5000}], source=source)
    found = np.concatenate([batch.numpy()[:, 0] for batch in data.training.dataset(0)])
    assert (np.diff(found) == 1).all()
    assert len(found) == 4 * rows


def test_no_window_holds_steps_of_two_series(tmp_path: Path) -> None:
    lines = [f"{shop},{day},{100 * shop + day}" for shop in (1, 2) for day in range(10)]
    (tmp_path / "sales.csv").write_text("\n".join(["shop,day,sold", *lines]))
    set_data_roots([tmp_path])
    source = {"component": "csv", "config": {"files": "sales.csv", "named": True}}
    data = built([windows(key="shop", target="sold"), BATCH], source=source)
    ((x, y),) = list(data.training.dataset(0))
    assert list(x) == ["day", "sold"]
    assert x["day"].numpy().tolist() == 2 * [[start + step for step in range(4)] for start in range(6)]
    assert y.numpy().tolist() == [100 * shop + day for shop in (1, 2) for day in range(4, 10)]
    for mistake, message in (({"target": 0}, "target is the name of one"), ({"key": "store"}, "not a column of x")):
        with pytest.raises(JobFailure, match=message):
            built([windows(**mistake), BATCH], source=source)
