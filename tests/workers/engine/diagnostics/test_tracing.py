"""User code under tracing is converted as tf.function converts it, and what happens meanwhile is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.util import _pywrap_determinism

from tapeworks.components.loading import load_components
from tapeworks.errors import JobFailure
from tapeworks_workers.engine.graph.autograph import call_user_code
from tests.support.paths import LAB
from tests.support.trainings import attempt, job, mlp, numbers, prepared, trained

PARTS = LAB / "lab_mistakes.py"
SOURCE = PARTS.read_text().splitlines()
load_components([PARTS])


def trapped(trap: str, **changes: Any) -> Any:
    """A job whose step meets a trap."""
    return job(step={"component": "lab/Trapped", "config": {"trap": trap}}, loss=None, **changes)


def line_of(location: dict[str, Any]) -> str:
    assert location["file"] == str(PARTS)
    return SOURCE[location["line"] - 1]


def collects(x: Any) -> Any:
    out = []
    for index in range(3):
        out.append(x * index)
        out.append(tf.constant(index))
    return out[-2] + tf.cast(out[-1], x.dtype)


def branches(x: Any) -> Any:
    if tf.reduce_sum(x) > 0:
        return x
    return -x


def test_a_python_list_may_hold_tensors_of_any_dtype() -> None:
    traced = tf.function(lambda x: call_user_code(collects, x), autograph=False)
    np.testing.assert_array_equal(traced(tf.ones([2])), [4.0, 4.0])


def test_an_if_on_a_tensor_is_a_branch_of_the_graph() -> None:
    traced = tf.function(lambda x: call_user_code(branches, x), autograph=False, input_signature=[tf.TensorSpec([2])])
    np.testing.assert_array_equal(traced(tf.constant([1.0, 2.0])), [1.0, 2.0])
    np.testing.assert_array_equal(traced(tf.constant([-1.0, -2.0])), [1.0, 2.0])


# ── prints ───────────────────────────────────────────────────────────────────────────────────────


def test_a_python_print_is_noted_once_with_its_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    frames = attempt(trapped("python_print"), tmp_path, kind="validate")
    warnings = frames[-1]["result"]["warnings"]
    (told,) = (told for told in warnings if told["code"] == "python_print")
    assert "tf.print" in told["hint"]
    assert told["location"]["component"] == "lab/Trapped"
    assert 'print("the batch is"' in line_of(told["location"])
    assert "the batch is (None, 4)" in capfd.readouterr().out


def test_a_python_print_in_a_layer(tmp_path: Path) -> None:
    layers = ["lab/Chatty", {"component": "keras/Dense", "config": {"units": 3}}]
    layers = [part if isinstance(part, dict) else {"component": part, "config": {}} for part in layers]
    model = {"component": "sequential", "config": {"layers": layers}}
    result = prepared(job(model=model, data={"validation": 0.2}), tmp_path)
    (told,) = result.events("diagnostic")
    assert 'print("called with"' in line_of(told["location"])


@pytest.mark.parametrize("plan", ["steps", "loop", "eager"])
def test_tf_print_runs_with_every_step(tmp_path: Path, capfd: pytest.CaptureFixture[str], plan: str) -> None:
    result = trained(trapped("graph_print", training={"max_steps": 5, "execution": {"plan": plan}}), tmp_path)
    assert capfd.readouterr().err.split("in step ")[1:] == [f"{step}\n" for step in range(5)]
    assert result.events("diagnostic") == []


def test_an_eager_plan_prints_with_every_step(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    training = {"max_steps": 3, "execution": {"plan": "eager"}}
    result = trained(trapped("python_print", training=training), tmp_path)
    assert capfd.readouterr().out.count("the batch is (10, 4)") == 3
    assert result.events("diagnostic") == []
    assert result.events("trace") == []


# ── traces ───────────────────────────────────────────────────────────────────────────────────────


def test_each_step_is_traced_once_and_the_job_says_so(tmp_path: Path) -> None:
    result = prepared(job(data={"validation": 0.2}), tmp_path)
    (facts,) = (facts["diagnostics"] for facts in result.records("facts") if "diagnostics" in facts)
    assert facts == {"traces": {"training": 1, "validation": 1}, "plan": "loop"}
    result.training.train()
    assert [event["reason"] for event in result.events("trace")] == ["first trace", "first trace"]


@pytest.mark.parametrize(
    ("trap", "count", "says"),
    [
        ("python_values", 3, "factor was the Python value 1 and is the Python value 2"),
        ("shapes", 2, "x was float32 (None, 1) and is float32 (None, 2)"),
    ],
)
def test_a_function_that_is_traced_again(tmp_path: Path, trap: str, count: int, says: str) -> None:
    result = prepared(trapped(trap), tmp_path)
    again = [event for event in result.events("trace") if event["function"] == "Trapped.scaled"]
    assert [event["count"] for event in again] == list(range(2, count + 1))
    assert says in again[0]["reason"]
    (told,) = result.events("diagnostic")
    assert told["code"] == "retracing"
    assert says in told["message"]
    assert "scaled(x" in line_of(told["location"])


def test_more_traces_than_max_traces(tmp_path: Path) -> None:
    finish = attempt(trapped("python_values", training={"max_traces": 2}), tmp_path, kind="validate")[-1]
    failure = finish["failure"]
    assert failure["code"] == "retracing"
    assert "Trapped.scaled was traced 3 times, training.max_traces is 2" in failure["message"]
    assert "is the Python value 3" in failure["message"]
    assert "scaled(x, factor)" in line_of(failure["location"])


def test_a_variable_made_late_is_why_a_step_is_traced_twice(tmp_path: Path) -> None:
    result = prepared(trapped("late_variable"), tmp_path)
    assert [event["count"] for event in result.events("trace")] == [1, 2]
    line = next(index for index, text in enumerate(SOURCE, start=1) if 'name="late"' in text)
    assert f"created late (lab_mistakes.py, line {line})" in result.events("trace")[1]["reason"]
    with pytest.raises(JobFailure, match="training was traced 2 times"):
        prepared(trapped("late_variable", training={"max_traces": 1}), tmp_path)


def test_a_split_of_another_element_is_traced_by_itself_and_says_why(tmp_path: Path) -> None:
    data = {"validation": numbers(form="plain"), "test": numbers(form="weighted")}
    result = prepared(job(data=data), tmp_path)
    last = result.events("trace")[-1]
    assert (last["function"], last["count"]) == ("validation", 2)
    assert last["reason"] == "sample_weight was not given and is float32 (None,)"


# ── control flow, determinism ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("plan", ["loop", "eager"])
def test_control_flow_on_tensors_works(tmp_path: Path, plan: str) -> None:
    training = {"epochs": 1, "steps_per_epoch": 2, "execution": {"plan": plan}}
    result = trained(trapped("control_flow", training=training), tmp_path)
    plain = trained(trapped("graph_print", training=training), tmp_path)
    np.testing.assert_allclose(result.history("loss"), plain.history("loss"), rtol=1e-5)


@pytest.fixture
def indeterminate_afterwards() -> Iterator[None]:
    yield
    _pywrap_determinism.enable(False)


@pytest.mark.slow
@pytest.mark.usefixtures("indeterminate_afterwards")
@pytest.mark.parametrize(
    ("kind", "trap", "names", "line"),
    [
        ("train", "timestamp", "Timestamp", "tf.timestamp()"),
        ("validate", "timestamp", "Timestamp", "tf.timestamp()"),
        ("validate", "unseeded_generator", "get_global_generator", "get_global_generator()"),
        ("validate", "fractional_max_pool", "tf.nn.fractional_max_pool", "tf.nn.fractional_max_pool"),
    ],
)
def test_an_operation_that_is_not_deterministic(tmp_path: Path, kind: str, trap: str, names: str, line: str) -> None:
    failure = attempt(trapped(trap, training={"deterministic": True}), tmp_path, kind=kind)[-1]["failure"]
    assert failure["code"] == "nondeterministic_op", failure
    assert failure["message"].startswith(f"{names} does not work in a deterministic job")
    assert line in line_of(failure["location"])


def test_a_loss_that_broadcasts_is_told_with_its_line(tmp_path: Path) -> None:
    spec = job(data={"source": numbers(form="regression")}, model=mlp(1), loss="lab/SquaredDifference")
    failure = attempt(spec, tmp_path, kind="validate")[-1]["failure"]
    assert failure["code"] == "broadcast_loss"
    lines = PARTS.with_name("lab_parts.py").read_text().splitlines()
    assert "keras.ops.square(y_true - y_pred)" in lines[failure["location"]["line"] - 1]
