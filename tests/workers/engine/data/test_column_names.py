"""Columns whose names no program would give: from the source through the pipeline to the exported signature."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tapeworks.components.loading import load_components
from tapeworks_workers.engine.data.fields import pick
from tests.support.paths import LAB
from tests.support.trainings import job, trained
from tests.workers.engine.models.test_stateful_rnn import certified

PARTS = LAB / "column_parts.py"
load_components([PARTS])


def spec() -> Any:
    from column_parts import NAMES as COLUMNS  # type: ignore[import-not-found]  # loaded as a user's file is

    columns = list(COLUMNS)
    reshape = {"component": "keras/Reshape", "config": {"target_shape": [1]}}
    nodes = [{"name": f"column{index}", "layer": reshape, "from": name} for index, name in enumerate(columns)]
    joined = {"name": "joined", "layer": {"component": "keras/Concatenate"}, "from": [node["name"] for node in nodes]}
    ones = {"component": "keras/Dense", "config": {"units": 1, "kernel_initializer": "ones"}}
    nodes += [joined, {"name": "out", "layer": ones, "from": "joined"}]
    casts = [{"op": "cast", "dtype": "float32", "field": f"x.{name}"} for name in ("Sepal.Length", "fixed acidity")]
    return job(
        data={"source": "columns/Named", "pipeline": [*casts, {"op": "batch", "batch_size": 10}]},
        model={"component": "graph", "config": {"nodes": nodes, "outputs": "out"}},
        loss="keras/MeanSquaredError",
        optimizer={"component": "keras/SGD", "config": {"learning_rate": 0.0}},
        training={"epochs": 1},
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict")  # Keras, when it reloads the model
def test_every_name_is_usable_up_to_the_exported_signature(tmp_path: Path, verify: Any) -> None:
    from column_parts import NAMES as COLUMNS

    done = trained(spec(), tmp_path / "job")
    assert done.history("loss")[-1] < 1e-9, "the weights are ones and y is the sum"
    certified(done, tmp_path / "bundle", verify)
    (x, y) = done.data.training.first(1)[0]
    loaded = keras.models.load_model(next((tmp_path / "bundle").rglob("*.keras")))
    np.testing.assert_allclose(loaded(x), y, rtol=1e-5, atol=1e-5)
    folder = next((tmp_path / "bundle").rglob("saved_model.pb")).parent
    signature = tf.saved_model.load(str(folder)).signatures["serving_default"]
    names = sorted(signature.structured_input_signature[1])
    assert len(names) == len(COLUMNS)
    assert {"x_class", "x_self", "Sepal_Length", "fixed_acidity"} <= set(names)


@pytest.mark.parametrize(
    ("path", "expected"), [("x.a.b", 1), ("x.a", {"b": 2}), ("x.a.b.c", 3), ("x.d e", 4), ("y", 5)]
)
def test_a_path_takes_the_longest_name_that_fits(path: str, expected: Any) -> None:
    element = ({"a": {"b": 2}, "a.b": 1, "a.b.c": 3, "d e": 4}, 5)
    assert pick(element, path) == expected
