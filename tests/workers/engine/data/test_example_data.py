"""The data sets under examples/: as they are made, and jobs that learn from them, ragged and sparse, in one trace."""

import json
import re
import runpy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from tapeworks.spec.pipeline_ops import Operation
from tests.support.job_files import set_data_roots
from tests.support.paths import ROOT
from tests.support.trainings import CROSS_ENTROPY, SHUFFLE, job, trained

DATA = ROOT / "examples" / "data"


@pytest.fixture(autouse=True)
def root() -> Iterator[None]:
    """The examples' data as the data root."""
    set_data_roots([DATA])
    yield
    set_data_roots([])


def test_the_files_are_what_their_script_makes(tmp_path: Path) -> None:
    shutil.copy(DATA / "make.py", tmp_path)
    runpy.run_path(str(tmp_path / "make.py"), run_name="__main__")
    files = {file.relative_to(DATA) for file in DATA.rglob("*.*") if "__pycache__" not in file.parts}
    assert files == {file.relative_to(tmp_path) for file in tmp_path.rglob("*.*")}
    for file in sorted(files):
        assert (tmp_path / file).read_bytes() == (DATA / file).read_bytes(), file


FILES = {"csv", "parquet", "jsonl", "tfrecord", "arrays", "images", "text"}
COMBINED = {"zip", "concatenate", "sample"}


def test_every_operation_and_every_source_has_an_example() -> None:
    used: set[str] = set()

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            used.update(value[key] for key in ("op", "component") if isinstance(value.get(key), str))
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            walk(item)

    for file in DATA.parent.glob("*/*.json"):
        walk(json.loads(file.read_text())["data"])
    union, _ = get_args(Operation)
    assert {one.model_fields["op"].annotation.__args__[0] for one in get_args(union)} <= used
    assert FILES | COMBINED <= used


@pytest.mark.parametrize("page", ["dtypes", "sparse", "ragged", "data", "tables"])
def test_what_a_page_quotes_stands_in_an_example(page: str) -> None:
    text = (DATA.parents[1] / "docs" / "guide" / f"{page}.md").read_text(encoding="utf-8")
    specs = ["".join(file.read_text().split()) for file in DATA.parent.glob("*/*.json")]
    quoted = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    assert quoted
    for block in quoted:
        assert any("".join(block.split()) in spec for spec in specs), block


def layers(*parts: Any) -> dict[str, Any]:
    return {"component": "sequential", "config": {"layers": [{"component": n, "config": c} for n, c in parts]}}


JOBS = {
    "sentences": (
        {"component": "jsonl", "config": {"files": "sentences.jsonl", "features": "words", "labels": "label"}},
        {"op": "ragged_batch", "batch_size": 32},
        layers(("keras/Hashing", {"num_bins": 500}), ("embedding_bag", {"input_dim": 500, "output_dim": 8}),
               ("keras/Dense", {"units": 2})),
    ),
    "gestures": (
        {"component": "jsonl", "config": {
            "files": "gestures.jsonl", "features": "path", "labels": "label", "shapes": {"path": [None, 2]}}},
        {"op": "bucket_by_sequence_length", "bucket_boundaries": [16, 28], "bucket_batch_sizes": [32, 16, 16],
         "ragged": True},
        layers(("attention_pooling", {"units": 16}), ("keras/Dense", {"units": 32, "activation": "relu"}),
               ("keras/Dense", {"units": 3})),
    ),
    "ratings": (
        {"component": "arrays", "config": {"files": "ratings.npz"}},
        {"op": "batch", "batch_size": 32},
        layers(("sparse_dense", {"units": 8, "activation": "relu"}), ("keras/Dense", {"units": 3})),
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(JOBS))
def test_a_job_learns_from_them(tmp_path: Path, name: str) -> None:
    source, batching, model = JOBS[name]
    spec = job(
        data={"source": source, "validation": 0.2, "pipeline": [SHUFFLE, batching]},
        model=model,
        optimizer={"component": "keras/Adam", "config": {"learning_rate": 0.02}},
        loss=CROSS_ENTROPY,
        metrics=["keras/SparseCategoricalAccuracy"],
        training={"epochs": 3},
    )
    done = trained(spec, tmp_path)
    assert done.history("val_sparse_categorical_accuracy")[-1] > 0.7
    assert {event["count"] for event in done.events("trace")} == {1}


@pytest.mark.slow
def test_a_series_is_forecast_from_windows(tmp_path: Path) -> None:
    windows = {"component": "windows", "config": {"size": 24, "target": 0}}
    spec = job(
        data={
            "source": {"component": "csv", "config": {"files": "temperature.csv"}},
            "validation": {"fraction": 0.2, "split": "tail"},
            "pipeline": [{"op": "apply", "function": windows}, SHUFFLE, {"op": "batch", "batch_size": 32}],
        },
        model=layers(("keras/Flatten", {}), ("keras/Dense", {"units": 1}), ("keras/Reshape", {"target_shape": []})),
        optimizer={"component": "keras/Adam", "config": {"learning_rate": 0.01}},
        loss="keras/MeanSquaredError",
        training={"epochs": 8},
    )
    assert trained(spec, tmp_path).history("val_loss")[-1] < 16, "degrees², where the mean is off by 26"
