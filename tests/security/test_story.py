"""A user's way with nothing but HTTP: data and code go up, a model comes down, loads elsewhere, and goes on."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_iris

from qualification.security.attacked_server import PACKAGE, House
from tapeworks.schemas.jobs import State

ELSEWHERE = """
import json, sys
sys.modules["tapeworks"] = None  # as where it was never installed
sys.path.insert(0, ".")
import keras, numpy as np, tensorflow as tf
import load
model = load.load(".")["model"]
x = np.load("x.npy")
served = tf.saved_model.load("saved_model/model/1")
plain = served.signatures["serving_default"](**{name: tf.constant(x) for name in
                                               served.signatures["serving_default"].structured_input_signature[1]})
found = {"layers": [type(layer).__name__ for layer in model.layers], "smoothing": model.loss.smoothing,
         "accuracy": float((model.predict(x, verbose=0).argmax(1) == np.load("y.npy")).mean()),
         "apart": float(np.abs(next(iter(plain.values())).numpy() - model.predict(x, verbose=0)).max())}
print(json.dumps(found))
"""


def flowers(path: Path, *, shift: float = 0.0) -> tuple[Any, Any]:
    """Iris as a parquet file, and as arrays."""
    x, y = load_iris(return_X_y=True)
    x = (x + shift).astype("float32")
    features = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 4)
    pq.write_table(pa.table({"x": features, "y": pa.array(y.astype("int64"))}), path, row_group_size=50)
    return x, y


def spec(dataset: str, **over: Any) -> dict[str, Any]:
    source = {"component": "parquet", "config": {"files": dataset, "features": "x", "labels": "y"}}
    layers = ["story/Shift", {"component": "keras/Dense", "config": {"units": 3}}]
    return {
        "data": {"source": source, "pipeline": [
            {"op": "shuffle", "buffer_size": 200}, {"op": "batch", "batch_size": 16}]},
        "model": {"component": "sequential", "config": {
            "layers": [one if isinstance(one, dict) else {"component": one} for one in layers]}},
        "optimizer": {"component": "keras/Adam", "config": {"learning_rate": 0.05}},
        "loss": {"component": "story/Smooth", "config": {"smoothing": 0.05}},
        "metrics": ["keras/SparseCategoricalAccuracy"],
        "step": "story/Step",
        "training": {"epochs": 20},
        **over,
    }  # fmt: skip


@pytest.mark.slow
def test_data_and_code_go_up_and_a_model_comes_down(house: House, tmp_path: Path) -> None:
    tapeworks = house.served.tapeworks
    x, y = flowers(tmp_path / "flowers.parquet")
    dataset = json.loads(tapeworks("data", "push", str(tmp_path / "flowers.parquet"), "--json").stdout)
    assert (dataset["state"], dataset["content"]["rows"]) == ("ready", 150), dataset
    assert {one["name"]: one["shape"] for one in dataset["content"]["columns"]} == {"x": [4], "y": []}
    package = json.loads(tapeworks("component", "push", str(PACKAGE), "--json").stdout)
    assert package["state"] == "admitted", package
    assert sorted(one["name"] for one in package["components"]) == ["story/Shift", "story/Smooth", "story/Step"]
    assert {one["version"] for one in package["components"]} == {"1.0.0"}
    assert house.client.component("loss", "story/Smooth").package == package["id"]

    file = tmp_path / "job.json"
    file.write_text(json.dumps(spec(dataset["id"])))
    tapeworks("validate", str(file))
    traced = house.client.wait(house.client.validate(file, trace=True).id, 240)
    assert traced.state is State.SUCCEEDED, traced.failure
    watched = tapeworks("submit", str(file), "--watch").stdout
    assert "succeeded" in watched
    job = next(house.client.list(state=State.SUCCEEDED))
    assert job.metrics["sparse_categorical_accuracy"] > 0.9
    assert "size" in job.metrics
    pinned: Any = job.lineage["inputs"]
    assert [one["kind"] for one in pinned] == ["dataset", "package"]

    tapeworks("download", job.id, "--output", str(tmp_path / "bundle.tar.gz"))
    elsewhere = tmp_path / "elsewhere"
    with tarfile.open(tmp_path / "bundle.tar.gz") as archive:
        archive.extractall(elsewhere, filter="data")
    np.save(elsewhere / "x.npy", x)
    np.save(elsewhere / "y.npy", y)
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE], cwd=elsewhere, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["layers"], found["smoothing"]) == (["Shift", "Dense"], 0.05)
    assert found["accuracy"] > 0.9
    assert found["apart"] < 1e-4

    flowers(tmp_path / "more.parquet", shift=0.1)
    more = house.client.datasets.settled(house.client.datasets.push(tmp_path / "more.parquet"), 120)
    bundle = json.loads(tapeworks("bundle", "push", str(tmp_path / "bundle.tar.gz"), "--json").stdout)
    assert bundle["roles"] == ["model"]
    training = {"epochs": 1, "initial_state": {"from": bundle["id"]}}
    on = house.client.wait(house.client.submit(spec(more.id, training=training)).id, 240)
    assert on.state is State.SUCCEEDED, on.failure
    fresh = house.client.wait(house.client.submit(spec(more.id, training={"epochs": 1})).id, 240)
    assert on.metrics["loss"] < 0.7 * fresh.metrics["loss"], "it went on from what was learned"

    frozen = {"component": "pretrained", "config": {"from": bundle["id"], "trainable": False}}
    head = {"component": "keras/Dense", "config": {"units": 3}}
    model = {"component": "sequential", "config": {"layers": [frozen, head]}}
    over = house.client.wait(house.client.submit(spec(more.id, model=model)).id, 240)
    assert over.state is State.SUCCEEDED, over.failure
