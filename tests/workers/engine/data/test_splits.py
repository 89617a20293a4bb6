"""Splits by class, group and time: exact, the same in memory and streamed, and as scikit-learn counts them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.model_selection import GroupShuffleSplit, StratifiedShuffleSplit

from tapeworks.errors import FailureCode, JobFailure
from tapeworks_workers.components.sources import parts
from tapeworks_workers.engine.data.pipeline import Data, Split
from tapeworks_workers.engine.data.splitting import field_values
from tapeworks_workers.engine.data.splitting import splits as splitting
from tests.support.job_files import build_data, set_data_roots
from tests.support.trainings import BATCH, job, numbers

ROWS = 997
FORMATS = {"csv": "d.csv", "parquet": "d.parquet", "jsonl": "d.jsonl"}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, Path]:
    """A table of patients, in no order of time, and a folder with a file of each format."""
    random = np.random.default_rng(5)
    days = pd.Timestamp("2024-01-01") + pd.to_timedelta(random.integers(0, 60, ROWS), "D")
    frame = pd.DataFrame(
        {
            "id": np.arange(ROWS),
            "patient": random.choice([f"p{number}" for number in range(80)], ROWS, p=random.dirichlet(np.ones(80))),
            "date": days.strftime("%Y-%m-%d"),
            "value": random.normal(size=ROWS),
            "kind": random.choice(["rare", "seldom", "often"], ROWS, p=[0.02, 0.18, 0.8]),
            "y": random.choice(4, ROWS, p=[0.6, 0.3, 0.09, 0.01]),
        }
    )
    folder = tmp_path_factory.mktemp("splits")
    frame.to_csv(folder / "d.csv", index=False)
    frame.to_parquet(folder / "d.parquet", index=False, row_group_size=100)
    frame.to_json(folder / "d.jsonl", orient="records", lines=True)
    return frame, folder


@pytest.fixture
def table(written: tuple[pd.DataFrame, Path]) -> Iterator[pd.DataFrame]:
    """The table; its files are below the data root."""
    set_data_roots([written[1]])
    yield written[0]
    set_data_roots([])


def built(format: str = "csv", pipeline: Any = (BATCH,), **data: Any) -> Data:
    source = {"component": format, "config": {"files": FORMATS[format], "labels": "y", "named": True}}
    return build_data(job(data={"source": source, "pipeline": list(pipeline), **data}))


def rows(split: Split | None, number: int = 0) -> list[int]:
    """The ids of a split, in its order."""
    assert split is not None
    return [int(one) for x, _ in split.dataset(number) for one in x["id"].numpy()]


def all_rows(data: Data) -> dict[str, list[int]]:
    splits = {"training": data.training, "validation": data.validation, "test": data.test}
    return {name: rows(split) for name, split in splits.items() if split is not None}


STRATIFIED = {"fraction": 0.2, "stratify": "y"}
GROUPED = {"fraction": 0.2, "group": "x.patient"}
LATEST = {"fraction": 0.2, "split": "time", "by": "x.date"}
SPLITS: dict[str, dict[str, Any]] = {
    "random": {"validation": 0.2, "test": 0.1},
    "stratified": {"validation": STRATIFIED, "test": {**STRATIFIED, "fraction": 0.1}},
    "by text": {"validation": {"fraction": 0.3, "stratify": "x.kind"}},
    "grouped": {"validation": GROUPED, "test": {**GROUPED, "fraction": 0.1}},
    "by time": {"validation": LATEST, "test": {**LATEST, "fraction": 0.1}},
    "mixed": {"validation": STRATIFIED, "test": LATEST},
    "mixed with groups": {"validation": GROUPED, "test": {"fraction": 0.1, "split": "tail"}},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SPLITS)
def test_splits_hold_each_row_once_however_the_source_is_read(
    table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    found = all_rows(built(**SPLITS[name]))
    assert sorted(row for split in found.values() for row in split) == list(range(ROWS))
    assert all(split == sorted(split) for split in found.values()), "in the order of the source"
    assert all_rows(built("parquet", **SPLITS[name])) == found, "in every format"
    # Streamed, and never read into memory; a few rows at a time, so that values come in another order.
    monkeypatch.setattr(field_values, "AT_ONCE", 50)
    monkeypatch.setattr(splitting, "AT_ONCE", 70)
    monkeypatch.setattr(parts, "WHOLE_FILE_BYTES", 0)
    monkeypatch.setattr(splitting, "IN_MEMORY_BYTES", 0)
    streamed = built("jsonl", **SPLITS[name])
    assert all_rows(streamed) == found
    assert rows(streamed.training, 3) == found["training"], "in every pass"


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("format", FORMATS)
def test_a_split_may_go_by_a_column_that_is_no_feature(
    table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, format: str, streamed: bool
) -> None:
    if streamed:
        monkeypatch.setattr(parts, "WHOLE_FILE_BYTES", 0)
        monkeypatch.setattr(splitting, "IN_MEMORY_BYTES", 0)
    source = {"component": format, "config": {"files": FORMATS[format], "labels": "y", "features": ["id", "value"]}}
    splits = {"validation": GROUPED, "test": {"fraction": 0.1, "stratify": "x.kind"}}
    data = build_data(job(data={"source": source, "pipeline": [BATCH], **splits}))
    wanted = all_rows(built(format, **splits))
    assert data.element_spec[0].shape.as_list() == [None, 2]
    for split, ids in zip((data.training, data.validation, data.test), wanted.values(), strict=True):
        assert split is not None
        assert [int(one) for x, _ in split.dataset(0) for one in x.numpy()[:, 0]] == ids


def test_rows_of_any_length_are_split_as_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    words = [[f"w{row}"] * int(random.integers(0, 4)) for row in range(ROWS)]
    points = [[[float(row), 1.0]] * int(random.integers(0, 3)) for row in range(ROWS)]
    table = pa.table({"id": np.arange(ROWS), "words": words, "points": points, "y": random.integers(0, 3, ROWS)})
    pq.write_table(table, tmp_path / "d.parquet", row_group_size=90)
    set_data_roots([tmp_path])
    config = {"files": "d.parquet", "labels": "y", "named": True, "shapes": {"points": [None, 2]}}

    def read() -> list[tuple[int, list[Any], list[Any]]]:
        source = {"component": "parquet", "config": config}
        data = build_data(job(data={"source": source, "pipeline": [BATCH], "validation": STRATIFIED}))
        assert data.element_spec[0]["points"].shape.as_list() == [None, None, 2]
        batches = [x for x, _ in data.validation.dataset(0)]  # type: ignore[union-attr]
        return [
            row
            for x in batches
            for row in zip(x["id"].numpy().tolist(), x["words"].to_list(), x["points"].to_list(), strict=True)
        ]

    in_memory = read()
    monkeypatch.setattr(parts, "WHOLE_FILE_BYTES", 0)
    assert read() == in_memory
    assert in_memory == [(row, [word.encode() for word in words[row]], points[row]) for row, *_ in in_memory]


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_classes_keep_their_shares_as_in_scikit_learn(table: pd.DataFrame, fraction: float) -> None:
    data = built(validation={"fraction": fraction, "stratify": "y"})
    mine = np.array(rows(data.validation))
    count = round(ROWS * fraction)
    assert len(mine) == count
    labels = table["y"].to_numpy()
    theirs = next(
        StratifiedShuffleSplit(1, test_size=count, train_size=ROWS - count, random_state=0).split(labels, labels)
    )
    for label, size in Counter(labels.tolist()).items():
        own = int((labels[mine] == label).sum())
        assert abs(own - fraction * size) < 1
        assert abs(own - int((labels[theirs[1]] == label).sum())) <= 1


def test_two_stratified_splits_both_keep_the_shares(table: pd.DataFrame) -> None:
    found = all_rows(built(**SPLITS["stratified"]))
    labels = table["y"].to_numpy()
    for name, fraction in (("validation", 0.2), ("test", 0.1), ("training", 0.7)):
        for label, size in Counter(labels.tolist()).items():
            assert abs(int((labels[found[name]] == label).sum()) - fraction * size) < (2 if name == "training" else 1)


@pytest.mark.parametrize("seed", range(3))
def test_groups_are_never_divided(table: pd.DataFrame, seed: int) -> None:
    found = all_rows(built(validation=GROUPED, test={**GROUPED, "fraction": 0.1}))
    of_group = table["patient"].to_numpy()
    groups = {name: set(of_group[split]) for name, split in found.items()}
    assert not groups["training"] & groups["validation"]
    assert not groups["validation"] & groups["test"]
    assert not groups["training"] & groups["test"]
    assert abs(len(found["validation"]) / ROWS - 0.2) < 0.05
    theirs = next(GroupShuffleSplit(1, test_size=0.2, random_state=seed).split(of_group, groups=of_group))
    assert not set(of_group[theirs[0]]) & set(of_group[theirs[1]]), "what scikit-learn promises"


def test_the_latest_rows_are_held_out_and_no_day_is_divided(table: pd.DataFrame) -> None:
    found = all_rows(built(**SPLITS["by time"]))
    dates = table["date"].to_numpy()
    training, validation, test = (dates[found[name]] for name in ("training", "validation", "test"))
    assert max(training) < min(validation)
    assert max(validation) < min(test)
    largest = table["date"].value_counts().max()
    assert abs(len(test) - 0.1 * ROWS) <= largest / 2
    assert abs(len(validation) - 0.2 * ROWS) <= largest


@pytest.mark.parametrize("format", ["%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S.%f", "%Y-%m-%dT%H:%M:%S+02:00"])
def test_texts_of_times_and_numbers_are_in_one_order(table: pd.DataFrame, tmp_path: Path, format: str) -> None:
    times = pd.to_datetime(table["date"]) + pd.to_timedelta(table["id"], "s")
    table.assign(date=times.dt.strftime(format), seconds=times.astype("int64") / 1e9).to_csv(
        tmp_path / "d.csv", index=False
    )
    set_data_roots([tmp_path])
    wanted = sorted(times.sort_values().index[-round(0.2 * ROWS) :])
    assert rows(built(validation=LATEST).validation) == wanted
    assert rows(built(validation={**LATEST, "by": "x.seconds"}).validation) == wanted


def test_an_unknown_number_of_rows_is_counted_for_a_split_by_class() -> None:
    data = build_data(job(data={"source": numbers(300, "unknown"), "validation": STRATIFIED}))
    known = build_data(job(data={"source": numbers(300, "index"), "validation": STRATIFIED}))
    first, second = ([int(i) for x, _ in one.validation.dataset(0) for i in x[:, 0]] for one in (data, known))  # type: ignore[union-attr]
    assert first == second
    assert len(first) == 60


WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "no such field": ({"fraction": 0.2, "stratify": "x.age"}, "'x.age'", "a column of its table"),
    "no scalar": ({"fraction": 0.2, "stratify": "x"}, "is a dict", "one value for each element"),
    "one row a class": ({"fraction": 0.2, "stratify": "x.id"}, "997 of 997 classes have fewer than 2", "rare classes"),
    "fractions": ({"fraction": 0.2, "stratify": "x.value"}, "classes have fewer than 2", "Leave stratify out"),
    "no text of a time": ({**LATEST, "by": "x.kind"}, "which is not an ISO 8601 time", "2024-12-31"),
    "nothing": ({"fraction": 0.0001, "stratify": "y"}, "the validation split is empty", "larger fraction"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_split_that_cannot_be_made_says_why(table: pd.DataFrame, name: str) -> None:
    split, message, hint = WRONG[name]
    with pytest.raises(JobFailure) as caught:
        built(validation=split)
    assert caught.value.code is FailureCode.INVALID_DATA
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("columns", "split", "message"),
    [
        ({"patient": ["a", "b"] * 20}, GROUPED, "no group of x.patient fits: the smallest of 2 has 20 elements"),
        ({"date": ["2024-01-01"] * 40}, LATEST, "all 40 elements have one x.date"),
        ({"date": [1.0] * 39 + [np.inf]}, LATEST, "element 39 is inf"),
        ({"date": ["2024-01-01"] * 39 + ["soon"]}, LATEST, "element 39 is 'soon'"),
    ],
)
def test_values_that_do_not_serve_are_named(tmp_path: Path, columns: Any, split: Any, message: str) -> None:
    frame = pd.DataFrame({"id": np.arange(40), "y": [0, 1] * 20, **columns})
    frame.to_parquet(tmp_path / "d.parquet")
    set_data_roots([tmp_path])
    with pytest.raises(JobFailure, match=message):
        built("parquet", validation=split)


def test_large_groups_are_reported_with_the_share_that_they_make(tmp_path: Path) -> None:
    frame = pd.DataFrame({"id": np.arange(40), "y": [0, 1] * 20, "patient": np.repeat(["a", "b", "c"], [15, 15, 10])})
    frame.to_parquet(tmp_path / "d.parquet")
    set_data_roots([tmp_path])
    data = built("parquet", validation=GROUPED)
    assert len(rows(data.validation)) in (10, 15)
    ((code, message),) = data.notes
    assert code == "split_size"
    assert "of the elements, not 0.2: groups of x.patient are not divided" in message


def test_what_a_split_keeps_in_memory_is_bounded(table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(field_values, "MAX_GROUP_BYTES", 100)
    with pytest.raises(JobFailure, match="more than 100 bytes of them"):
        built(validation=GROUPED)
    monkeypatch.setattr(field_values, "MAX_GROUPS", 70)
    with pytest.raises(JobFailure, match=r"'x\.patient': has more than 70 different values"):
        built(validation=GROUPED)


def test_one_source_is_needed_for_groups_and_times() -> None:
    two = {"component": "concatenate", "config": {"sources": [numbers(20, "index"), numbers(20, "index")]}}
    with pytest.raises(JobFailure, match="by group cuts one source"):
        build_data(job(data={"source": two, "validation": {"fraction": 0.2, "group": "y"}}))
    data = build_data(job(data={"source": two, "validation": {"fraction": 0.25, "stratify": "y"}}))
    assert data.validation is not None
