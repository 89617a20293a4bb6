"""Splits by file and by the folders of a dataset; windows by file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from PIL import Image

from tapeworks.errors import FailureCode, JobFailure
from tapeworks_workers.components.sources import parts
from tapeworks_workers.engine.data.pipeline import Data, Split
from tapeworks_workers.engine.data.splitting import splits
from tests.support.job_files import build_data, set_data_roots, set_uploads
from tests.support.trainings import BATCH, attempt, job
from tests.workers.engine.data.test_preview import looked

TABLE = {"labels": "y", "features": ["id"]}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A dataset with a folder for each split; ids are of 100 rows each."""
    for number, name in enumerate(["train/a", "train/b", "val/a", "test/a"]):
        file = tmp_path / f"{name}.csv"
        file.parent.mkdir(exist_ok=True)
        ids = np.arange(100 * number, 100 * number + 5)
        pd.DataFrame({"id": ids, "y": ids % 2}).to_csv(file, index=False)
    use(tmp_path)
    yield tmp_path
    set_uploads([])
    set_data_roots([])


def use(folder: Path, format: str = "csv") -> None:
    set_uploads([{"id": "ds_1", "path": str(folder), "format": format}])


def built(
    files: Any = "ds_1", component: str = "csv", config: Any = TABLE, pipeline: Any = (BATCH,), **data: Any
) -> Data:
    source = {"component": component, "config": {"files": files, **config}}
    return build_data(job(data={"source": source, "pipeline": list(pipeline), **data}))


def starts(split: Split | None) -> list[int]:
    """The hundreds of the ids of a split."""
    assert split is not None
    return sorted({int(one) // 100 for x, _ in split.dataset(0) for one in x.numpy()[:, 0]})


FOLDERS = {"split": "folders"}


def test_a_datasets_own_folders_are_its_splits(folder: Path) -> None:
    data = built(validation=FOLDERS, test=FOLDERS)
    assert [starts(one) for one in (data.training, data.validation, data.test)] == [[0, 1], [2], [3]]
    assert data.notes == []
    assert [len(one["files"]) for one in data.sources.values()] == [2, 1, 1]
    half = built(validation=FOLDERS)
    assert [starts(one) for one in (half.training, half.validation)] == [[0, 1], [2]]
    assert half.notes == [
        ("left_out", '1 files of test are in no split of the job: "test": {"split": "folders"} reads them')
    ]


def test_files_are_held_out_of_what_the_source_reads(folder: Path) -> None:
    data = built(validation={"files": "val/*.csv"}, test={"files": ["ds_1/test/*.csv"]})
    assert [starts(one) for one in (data.training, data.validation, data.test)] == [[0, 1], [2], [3]]
    set_data_roots([folder])
    data = built("train/*.csv", validation={"files": "val/*.csv"})
    assert [starts(one) for one in (data.training, data.validation)] == [[0, 1], [2]]
    data = built("train/*.csv", validation={"files": "train/b.csv"}, test=0.2)
    assert [starts(one) for one in (data.training, data.validation, data.test)] == [[0], [1], [0]]


def test_a_job_that_mixes_the_folders_is_warned_and_so_is_a_push(folder: Path) -> None:
    ((code, message),) = built().notes
    assert code == "mixed_splits"
    assert "reads train/ (2), val/ (1), test/ (1) as one" in message
    assert built(["ds_1/train/*"]).notes == []
    (note,) = [one for one in looked(folder, "csv")["notes"] if "splits" in one]
    assert "train/ (2), val/ (1), test/ (1)" in note
    assert '"validation": {"split": "folders"}' in note


@pytest.mark.parametrize(
    "names",
    [
        ("train.csv", "test.csv", "validation.csv"),
        ("data/train-00000-of-00001.csv", "data/test-00000-of-00001.csv", "data/valid-00000-of-00001.csv"),
        ("Training/x.csv", "Testing/x.csv", "dev/x.csv"),
        ("sales_train1.csv", "sales_test1.csv", "sales_dev.csv"),
    ],
)
def test_the_usual_names_are_recognised(tmp_path: Path, names: tuple[str, ...]) -> None:
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        pd.DataFrame({"id": [100 * number], "y": [0]}).to_csv(tmp_path / name, index=False)
    use(tmp_path)
    data = built(validation=FOLDERS, test=FOLDERS)
    assert [starts(one) for one in (data.training, data.test, data.validation)] == [[0], [1], [2]]


def test_images_of_folders_keep_the_classes_of_training(tmp_path: Path) -> None:
    for split, names in (("train", "abc"), ("validation", "ac"), ("test", "b")):
        for name in names:
            path = tmp_path / split / name / "1.png"
            path.parent.mkdir(parents=True)
            Image.new("L", (4, 4), ord(name)).save(path)
    use(tmp_path, "images")
    data = built(component="images", config={"channels": 1}, validation=FOLDERS, test=FOLDERS)
    assert data.class_names == ["a", "b", "c"]
    labels = [
        [int(y) for _, ys in split.dataset(0) for y in ys] for split in (data.training, data.validation, data.test)
    ]  # type: ignore[union-attr]
    assert labels == [[0, 1, 2], [0, 2], [1]]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no such folder": ({"files": "ds_1/train/*", "validation": FOLDERS}, "named validation or val or valid or dev"),
    "nothing left": ({"validation": {"files": "**/*.csv"}}, "no file remains for training"),
    "twice": ({"validation": {"files": "val/*"}, "test": {"files": "**/a.csv"}}, "both read val/a.csv"),
    "no such file": ({"validation": {"files": "eval/*"}}, "no file of the dataset 'ds_1' matches 'eval/*'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_files_that_cannot_be_divided_are_refused(folder: Path, name: str) -> None:
    data, message = WRONG[name]
    with pytest.raises(JobFailure, match=message.replace("*", r"\*")) as caught:
        built(**data)
    assert caught.value.code is FailureCode.INVALID_DATA


def test_a_file_in_no_folder_is_named(folder: Path) -> None:
    (folder / "more.csv").write_text("id,y\n1,1\n")
    with pytest.raises(JobFailure, match=r"1 files are in no folder of a split, such as more\.csv"):
        built(validation=FOLDERS)


def test_an_attempt_reports_how_its_data_was_divided(folder: Path, tmp_path: Path) -> None:
    work = tmp_path / "attempt"
    work.mkdir()
    set_uploads([])
    dense = {"component": "sequential", "config": {"layers": [{"component": "keras/Dense", "config": {"units": 2}}]}}
    source = {"component": "csv", "config": {"files": "*/*.csv", **TABLE}}
    data = {"source": source, "validation": {"files": "val/*.csv"}, "pipeline": [BATCH]}
    spec = job(data=data, model=dense, export=None)
    frames = attempt(spec, work, data_roots=[folder])
    assert frames[-1]["outcome"] == "succeeded", frames[-1]["failure"]
    records = [frame["record"] for frame in frames if frame["type"] == "record"]
    found = {one["data"]["code"]: one["data"]["message"] for one in records if one.get("type") == "diagnostic"}
    assert "reads train/ (2), test/ (1) as one" in found["mixed_splits"]


# ── windows ──────────────────────────────────────────────────────────────────────────────────────


def series(folder: Path, format: str, lengths: tuple[int, ...]) -> list[np.ndarray]:
    """A file of steps for each series."""
    made = []
    for number, length in enumerate(lengths):
        steps = np.stack([1000 * number + np.arange(length), np.full(length, number)], 1).astype("float32")
        made.append(steps)
        frame = pd.DataFrame(steps, columns=["v", "w"])
        name = folder / f"day{number}.{format}"
        if format == "csv":
            frame.to_csv(name, index=False)
        elif format == "parquet":
            frame.to_parquet(name, index=False, row_group_size=7)
        elif format == "jsonl":
            frame.to_json(name, orient="records", lines=True)
        else:
            np.savez(name, x=steps)
    return made


def windowed(
    format: str, size: int, shift: int, by_file: bool = True, config: Any = None, **data: Any
) -> tuple[Data, list[np.ndarray]]:
    function = {"component": "windows", "config": {"size": size, "shift": shift, "by_file": by_file}}
    component = "arrays" if format == "npz" else format
    config = config or ({"labels": None} if format == "npz" else {})
    data_ = built(f"*.{format}", component, config, [{"op": "apply", "function": function}, BATCH], **data)
    found = [np.concatenate([x, y[:, None]], 1) for x, y in data_.training.dataset(0)]
    return data_, list(np.concatenate(found))


@pytest.mark.slow
@pytest.mark.parametrize("format", ["csv", "parquet", "jsonl", "npz"])
@pytest.mark.parametrize("shift", [1, 3])
@pytest.mark.parametrize("streamed", [False, True])
def test_windows_by_file_are_those_of_numpy_for_each_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, shift: int, streamed: bool
) -> None:
    if streamed:
        monkeypatch.setattr(parts, "WHOLE_FILE_BYTES", 0)
        monkeypatch.setattr(splits, "IN_MEMORY_BYTES", 0)
    lengths = (300, 4, 2, 5, 301)  # beyond the 256 windows that are cut together, and too short ones
    made = series(tmp_path, format, lengths)
    set_data_roots([tmp_path])
    expected = [
        window.T
        for steps in made
        if len(steps) >= 5
        for window in np.lib.stride_tricks.sliding_window_view(steps, 5, axis=0)[::shift]
    ]
    data, found = windowed(format, 4, shift)
    np.testing.assert_array_equal(found, expected)
    assert data.training.steps == -(-len(expected) // BATCH["batch_size"])
    assert data.notes == []
    # The end of the last file is held out: the other windows stay as they are.
    data, found = windowed(format, 4, shift, validation={"fraction": 0.1, "split": "tail"})
    held_out = round(0.1 * sum(lengths))
    kept = [one for one in expected if one[-1, 0] < 4000 + 301 - held_out]
    np.testing.assert_array_equal(found, kept)


def test_an_iterator_of_windows_by_file_is_saved_inside_a_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "WHOLE_FILE_BYTES", 0)
    monkeypatch.setattr(splits, "IN_MEMORY_BYTES", 0)
    series(tmp_path, "csv", (300, 40))
    set_data_roots([tmp_path])
    data, _ = windowed(
        "csv", 4, 1, validation={"fraction": 0.2, "split": "time", "by": "y"}, config={"labels": "w", "features": ["v"]}
    )
    whole = [x.numpy().tolist() for x, _ in data.training.dataset(0)]
    for position in (3, len(whole) - 2):
        begun = iter(data.training.dataset(0))
        for _ in range(position):
            next(begun)
        tf.train.Checkpoint(iterator=begun).write(str(tmp_path / f"{position}"))
        resumed = iter(data.training.dataset(0))
        tf.train.Checkpoint(iterator=resumed).read(str(tmp_path / f"{position}")).assert_consumed()
        assert [x.numpy().tolist() for x, _ in resumed] == whole[position:]


def test_several_files_as_one_series_are_reported(tmp_path: Path) -> None:
    series(tmp_path, "csv", (20, 20))
    set_data_roots([tmp_path])
    data, found = windowed("csv", 4, 1, by_file=False)
    assert len(found) == 36
    ((code, message),) = data.notes
    assert code == "several_files"
    assert '"by_file": true' in message


def test_windows_after_a_split_by_time(tmp_path: Path) -> None:
    days = pd.date_range("2024-01-01", periods=30).strftime("%Y-%m-%d")
    for shop in (0, 1):
        frame = pd.DataFrame({"day": days, "sold": 100 * shop + np.arange(30.0)})
        frame.to_csv(tmp_path / f"shop{shop}.csv", index=False)
    set_data_roots([tmp_path])
    latest = {"fraction": 0.2, "split": "time", "by": "x.day"}

    def sold(files: str, **config: Any) -> list[list[float]]:
        function = {"component": "windows", "config": {"size": 2, "target": "sold", **config}}
        data = built(
            files, config={"named": True}, pipeline=[{"op": "apply", "function": function}, BATCH], validation=latest
        )
        return [
            [float(y) for _, ys in split.dataset(0) for y in ys] for split in (data.training, data.validation) if split
        ]

    assert sold("shop0.csv") == [list(range(2, 24)), list(range(26, 30))]
    both = sold("*.csv", by_file=True)
    assert both == [[*range(2, 24), *range(102, 124)], [*range(26, 30), *range(126, 130)]]
    with pytest.raises(JobFailure, match=r"not in the order of x\.day") as caught:
        sold("*.csv")
    assert "by_file" in (caught.value.hint or "")


def test_by_file_is_refused_where_files_are_unknown(tmp_path: Path) -> None:
    series(tmp_path, "csv", (20, 20))
    set_data_roots([tmp_path])
    by_file = {"op": "apply", "function": {"component": "windows", "config": {"size": 2, "by_file": True}}}
    with pytest.raises(JobFailure, match="skip is before it"):
        built("*.csv", config={}, pipeline=[{"op": "skip", "count": 1}, by_file, BATCH])
    branch = {"component": "csv", "config": {"files": "*.csv"}}
    with pytest.raises(JobFailure, match="does not know which file") as caught:
        build_data(
            job(
                data={
                    "source": {"component": "concatenate", "config": {"sources": [branch]}},
                    "pipeline": [by_file, BATCH],
                }
            )
        )
    assert "pipeline of each branch" in (caught.value.hint or "")
