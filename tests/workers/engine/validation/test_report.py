"""A validation builds, traces and runs a job for two seconds, and tells what it saw; nothing is left of it."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from tapeworks.components.loading import load_components
from tapeworks_workers.engine.graph.flops import flops
from tapeworks_workers.engine.validation.estimate import Measurements, quote
from tests.support.paths import LAB
from tests.support.trainings import BATCH, SHUFFLE, attempt, job, mlp, numbers

load_components([LAB / name for name in ("lab_mistakes.py", "epoch_parts.py")])

Frames = list[dict[str, Any]]
DIGITS = {
    "data": {"source": "digits", "validation": 0.2, "pipeline": [SHUFFLE, {**BATCH, "batch_size": 32}]},
    "model": mlp(10, hidden=[64]),
    "loss": {"component": "focal", "config": {"gamma": 2.0}},
    "training": {"epochs": 5, "checkpoint": None},
}


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Frames, Path]:
    folder = tmp_path_factory.mktemp("validated")
    return attempt(job(**DIGITS), folder, kind="validate"), folder


def result_of(frames: Frames) -> dict[str, Any]:
    assert frames[-1]["outcome"] == "succeeded", frames[-1]["failure"]
    result: dict[str, Any] = frames[-1]["result"]
    return result


def test_what_a_validation_tells(validated: tuple[Frames, Path]) -> None:
    result = result_of(validated[0])
    assert result["element_spec"] == [
        {"field": "x", "kind": "dense", "shape": [None, 64], "dtype": "float32"},
        {"field": "y", "kind": "dense", "shape": [None], "dtype": "int64"},
    ]
    parameters = 64 * 64 + 64 + 64 * 10 + 10
    assert result["models"]["model"] == {
        "inputs": [{"field": "inputs", "kind": "dense", "shape": [None, 64], "dtype": "float32"}],
        "outputs": [{"field": "outputs", "kind": "dense", "shape": [None, 10], "dtype": "float32"}],
        "parameters": parameters,
        "trainable": parameters,
    }
    assert result["parameters"] == parameters
    assert 3 * 4 * parameters < result["state_bytes"] < 5 * 4 * parameters  # weights and Adam's two slots
    assert result["state_bytes"] < result["memory_bytes"]
    products = 2 * 32 * (64 * 64 + 64 * 10)  # forward; as much again for the weights, and for the hidden layer
    assert 2 * products + 2 * 32 * 640 < result["flops_per_step"] < 4 * products
    assert result["plan"]["name"] == "loop"
    assert result["plan"]["steps_per_second"] > 1
    assert result["traces"] == {"training": 1, "validation": 1}
    assert result["warnings"] == []
    quote = result["quote"]
    assert quote["steps"] == 5 * 45
    assert 0 < quote["seconds"][0] < quote["seconds"][1]
    assert quote["device_seconds"] == quote["seconds"]
    assert quote["memory_bytes"][0] == result["memory_bytes"]


def test_nothing_is_left_of_a_validation(validated: tuple[Frames, Path]) -> None:
    frames, folder = validated
    assert frames[-1]["files"] == []
    assert {frame["type"] for frame in frames} == {"record", "certify", "finish"}
    assert [file for file in folder.rglob("*") if file.is_file()] == []
    json.dumps(frames, allow_nan=False)


def test_what_a_job_takes_lies_in_its_quote(validated: tuple[Frames, Path], tmp_path: Path) -> None:
    began = time.monotonic()
    frames = attempt(job(**DIGITS), tmp_path)
    seconds = time.monotonic() - began
    assert frames[-1]["outcome"] == "succeeded"
    low, high = result_of(validated[0])["quote"]["seconds"]
    assert seconds < high
    assert low < 6 * seconds  # the verifiers are answered for here


def test_a_quote_is_a_range_around_what_was_measured() -> None:
    measured = Measurements(4.0, [(1, 2.0), (10, 2.0), (20, 2.0)], [(10, 5, 1.0)], 100)
    told = quote(job(training={"epochs": 3}, export=None), measured, steps_per_epoch=50)
    assert told["steps"] == 150
    low, high = told["seconds"]
    evaluated = 3 * 10 * 1.0 / 5
    assert low == pytest.approx(0.3 + 0.5 * (4.0 + 2.0 + 149 * 2.0 / 20 + evaluated), abs=0.01)
    assert high == pytest.approx(6.0 + 2.5 * (4.0 + 2.0 + 149 * 4.0 / 30 + evaluated), abs=0.01)
    exported_low, exported_high = quote(job(training={"epochs": 3}), measured, steps_per_epoch=50)["seconds"]
    assert (exported_low - low, exported_high - high) == (pytest.approx(1.0 * 4.0), pytest.approx(4.0 * 4.0))
    stopping = {"epochs": 3, "early_stopping": {"monitor": "val_loss", "patience": 1}}
    stopped = quote(job(training=stopping, data={"validation": 0.2}, export=None), measured, steps_per_epoch=50)
    assert stopped["seconds"][0] < low
    assert stopped["seconds"][1] == high
    unknown = quote(job(), measured, steps_per_epoch=None)
    assert (unknown["steps"], unknown["seconds"], unknown["device_seconds"]) == (None, [None, None], [None, None])


def test_evaluate_only(tmp_path: Path) -> None:
    spec = job(data={"validation": 0.2}, training={"epochs": 0}, export=None)
    result = result_of(attempt(spec, tmp_path, kind="validate"))
    assert result["plan"]["steps_per_second"] is None
    assert result["quote"]["steps"] == 0
    assert 0 < result["quote"]["seconds"][0] < result["quote"]["seconds"][1]


def test_splits_of_unknown_size_are_counted(tmp_path: Path) -> None:
    kept = {"op": "filter", "function": {"component": "has_class", "config": {"classes": [0, 1]}}}
    spec = job(data={"pipeline": [kept, BATCH], "validation": 0.2}, training={"epochs": 3})
    result = result_of(attempt(spec, tmp_path, kind="validate"))
    low, high = result["quote"]["seconds"]
    assert 0 < low < high
    assert result["quote"]["steps"] % 3 == 0


@pytest.mark.slow
def test_a_slow_pipeline_is_told_with_the_operation_to_change(tmp_path: Path) -> None:
    slow = {"op": "map", "function": "lab/Slowly"}
    pipeline = [slow, {**BATCH, "batch_size": 100}]
    spec = job(data={"source": numbers(2000), "pipeline": pipeline}, training={"epochs": 1000})
    result = result_of(attempt(spec, tmp_path, kind="validate"))
    assert 0.2 < result["input_wait"] <= 1
    (told,) = result["warnings"]
    assert told["code"] == "input_wait"
    assert "data.pipeline/0 (map)" in told["hint"]


def test_flops_are_null_where_they_cannot_be_known(tmp_path: Path) -> None:
    layers = [
        {"component": "keras/Reshape", "config": {"target_shape": [2, 2]}},
        {"component": "keras/LSTM", "config": {"units": 3, "unroll": False}},
    ]
    spec = job(model={"component": "sequential", "config": {"layers": layers}}, training={"max_steps": 1})
    assert result_of(attempt(spec, tmp_path, kind="validate"))["flops_per_step"] is None


def test_a_source_of_unknown_size(tmp_path: Path) -> None:
    model = mlp(3)
    spec = job(data={"source": numbers(form="unknown"), "validation": numbers(form="index")}, model=model)
    result = result_of(attempt(spec, tmp_path, kind="validate"))
    assert result["quote"]["steps"] == 20
    assert [leaf["shape"] for leaf in result["element_spec"]] == [[None, 1], [None]]


def test_a_mistake_ends_a_validation_as_it_ends_a_training(tmp_path: Path) -> None:
    finish = attempt(job(model=mlp(2)), tmp_path, kind="validate")[-1]
    assert finish["outcome"] == "failed"
    assert finish["failure"]["code"] == "invalid_data"
    assert finish["failure"]["location"]["component"] == "keras/SparseCategoricalCrossentropy"
    assert finish["result"] is None


def test_a_step_that_turns_nan_is_told_with_its_number(tmp_path: Path) -> None:
    step = {"component": "lab/Diverging", "config": {"at": 13}}
    finish = attempt(job(step=step, loss=None), tmp_path, kind="validate")[-1]
    assert finish["failure"]["code"] == "non_finite"
    assert "not finite at step 13" in finish["failure"]["message"]


def test_flops_of_a_graph() -> None:
    @tf.function
    def inner(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
        return tf.einsum("bij,bjk->bik", a, b)

    def outer(a: tf.Tensor, b: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        product = tf.cond(a[0, 0, 0] > 0, lambda: inner(a, b), lambda: tf.zeros([2, 3, 5]))
        return tf.reduce_max(product), tf.nn.conv2d(images, tf.zeros([3, 3, 2, 4]), 1, "SAME")

    specs = [tf.TensorSpec(shape) for shape in ([2, 3, 7], [2, 7, 5], [1, 8, 8, 2])]
    known = tf.function(outer, input_signature=specs).get_concrete_function().graph
    assert 0 <= flops(known) - (2 * 2 * 3 * 7 * 5 + 2 * 8 * 8 * 3 * 3 * 2 * 4) < 10
    specs[2] = tf.TensorSpec([None, 8, 8, 2])
    assert flops(tf.function(outer, input_signature=specs).get_concrete_function().graph) is None


def test_a_split_that_only_evaluators_measure_is_no_obstacle(tmp_path: Path) -> None:
    spec = job(
        data={"source": numbers(), "validation": 0.2}, step="lab/NoValidation", loss=None, evaluators=["lab/Returns"]
    )
    assert result_of(attempt(spec, tmp_path, kind="validate"))["traces"] == {"training": 1}
