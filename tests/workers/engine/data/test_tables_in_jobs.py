"""Jobs on tables as people have them: what is left out is reported at the start, and ids keep their integers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.support.job_files import set_data_roots
from tests.support.trainings import BATCH, attempt, job


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "data"
    folder.mkdir()
    yield folder
    set_data_roots([])


def ran(root: Path, tmp_path: Path, source: dict[str, Any], **fields: Any) -> tuple[dict[str, Any], list[Any]]:
    """The last frame of an attempt, and its diagnostics."""
    spec = job(data={"source": source, "pipeline": [BATCH]}, export=None, **fields)
    folder = tmp_path / "attempt"
    folder.mkdir()
    frames = attempt(spec, folder, data_roots=[root])
    records = [frame["record"] for frame in frames if frame["type"] == "record"]
    return frames[-1], [one["data"] for one in records if one.get("type") == "diagnostic"]


def dense(units: int, *layers: Any) -> dict[str, Any]:
    last = {"component": "keras/Dense", "config": {"units": units}}
    return {"component": "sequential", "config": {"layers": [*layers, last]}}


def test_a_job_starts_with_what_its_source_leaves_out(root: Path, tmp_path: Path) -> None:
    pd.DataFrame({"a": np.arange(20.0), "y": np.arange(20.0)}).to_csv(root / "d.csv")
    source = {"component": "csv", "config": {"files": "d.csv", "labels": "y"}}
    finish, (note,) = ran(root, tmp_path, source, model=dense(1), loss="keras/MeanSquaredError", metrics=[])
    assert finish["outcome"] == "succeeded", finish["failure"]
    assert note["code"] == "left_out"
    assert "'Unnamed: 0'" in note["message"]
    assert note["location"]["component"] == "csv"


@pytest.mark.slow
def test_a_value_far_into_the_data_ends_the_job_with_its_file_and_line(root: Path, tmp_path: Path) -> None:
    lines = [json.dumps({"a": row, "y": 0.5, "pad": "-" * 400}) for row in range(30_000)]
    lines[25_000] = json.dumps({"a": None, "y": 0.5, "pad": ""})
    (root / "d.jsonl").write_text("\n".join(lines))
    source = {"component": "jsonl", "config": {"files": "d.jsonl", "features": ["a"], "labels": "y"}}
    finish, _ = ran(root, tmp_path, source, model=dense(1), loss="keras/MeanSquaredError", metrics=[])
    assert finish["failure"]["code"] == "invalid_data"
    assert "d.jsonl, line 25001: column 'a' has no value (null)" in finish["failure"]["message"]
