"""Values that Python gives once, while the step is traced, are reported with the line that asks for them."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapeworks.components.loading import load_components
from tapeworks.components.registry import registry
from tapeworks.schemas.jobs import ComponentEntry, RefusedComponent
from tapeworks.spec.references import Kind
from tapeworks_workers.engine.admission.admission import admit
from tapeworks_workers.engine.diagnostics import python_randomness
from tapeworks_workers.engine.step.checks.python_state import UserCode
from tests.support.paths import LAB
from tests.support.trainings import CROSS_ENTROPY, attempt, job, mlp, prepared

PARTS = LAB / "lab_python_values.py"
SOURCE = PARTS.read_text().splitlines()
load_components([PARTS, LAB / "lab_mistakes.py"])


def with_step(way: str, **changes: Any) -> Any:
    return job(step={"component": "values/Step", "config": {"way": way}}, loss=None, **changes)


def reported(spec: Any, folder: Path) -> list[tuple[str, str, str]]:
    """(code, message, source line) of each diagnostic that the trace gives."""
    found = prepared(spec, folder).events("diagnostic")
    return [(one["code"], one["message"], _line(one["location"])) for one in found]


def test_calls_of_other_threads_are_not_the_components() -> None:
    over, called = threading.Event(), threading.Event()

    def clock() -> None:
        while not over.is_set():
            time.process_time()
            called.set()
            over.wait(0.001)

    other = threading.Thread(target=clock)
    noted: list[str] = []
    with python_randomness.watching(lambda what, hint, location: noted.append(what), eager=True):
        other.start()
        try:
            assert called.wait(10)
            random.random()
        finally:
            over.set()
            other.join()
    assert noted == ["random.random()"]


def _line(location: dict[str, Any]) -> str:
    assert location["file"] == str(PARTS)
    return SOURCE[location["line"] - 1]


@pytest.mark.parametrize(
    "way",
    ["numpy", "numpy_in_a_branch", "python", "clock", "unique", "imported", "date", "generator", "iterator"],
)
def test_a_value_that_becomes_a_constant_is_reported_with_its_line(tmp_path: Path, way: str) -> None:
    found = reported(with_step(way), tmp_path)
    assert {(code, line.endswith("# here")) for code, _, line in found} == {("traced_constant", True)}, found


@pytest.mark.parametrize(
    ("way", "message", "mark"),
    [
        ("curve", "the step ValuesStep: self.curve is changed only while the step is traced", "# list"),
        ("counter", "self.count is changed only while the step is traced: it was 0 before, 1", "# number"),
        ("module_counter", "CALLS of module", "# number"),
        ("module_list", "ROWS of module", "# list"),
    ],
)
def test_python_state_that_no_step_changes_is_reported(tmp_path: Path, way: str, message: str, mark: str) -> None:
    (one,) = (one for one in reported(with_step(way), tmp_path) if one[0] == "python_state")
    assert message in one[1]
    assert one[2].endswith(mark)


def test_a_number_that_decides_what_is_traced(tmp_path: Path) -> None:
    (one,) = prepared(with_step("branch"), tmp_path).events("diagnostic")
    assert one["code"] == "traced_constant"
    assert "are drawn while the step is traced" in one["message"]


@pytest.mark.parametrize("way", ["nothing", "fixed", "remembered", "inner_list"])
def test_what_is_the_same_in_every_trace_is_not_reported(tmp_path: Path, way: str) -> None:
    assert reported(with_step(way), tmp_path) == []


def test_layers_losses_and_functions_of_the_pipeline(tmp_path: Path) -> None:
    layers = [
        {"component": "values/Noisy", "config": {}},
        {"component": "values/Counting", "config": {}},
        {"component": "keras/Dense", "config": {"units": 3}},
    ]
    model = {"component": "sequential", "config": {"layers": layers}}
    pipeline = [{"op": "map", "function": "values/Flip"}, {"op": "batch", "batch_size": 10}]
    spec = job(model=model, loss="values/Loss", data={"pipeline": pipeline})
    result = attempt(spec, tmp_path, kind="validate")[-1]["result"]
    lines = {_line(one["location"]).rpartition("# ")[2] for one in result["warnings"] if one["location"]}
    assert {"layer", "calls", "loss", "map"} <= lines, result["warnings"]


@pytest.mark.parametrize("name", ["layer", "loss"])
def test_admission_names_the_call_that_makes_two_outputs_differ(name: str) -> None:
    refused = admit(registry.get(Kind(name), "values/Noisy" if name == "layer" else "values/Loss"))
    assert isinstance(refused, RefusedComponent)
    line = next(index for index, text in enumerate(SOURCE, start=1) if text.endswith(f"# {name}"))
    assert f"lab_python_values.py, line {line}: use keras.random" in refused.reason


def test_admission_warns_of_a_clock() -> None:
    entry = admit(registry.get(Kind.LAYER, "values/Late"))
    assert isinstance(entry, ComponentEntry), entry
    (warning,) = (one for one in entry.warnings if "runs while the code is traced" in one)
    assert warning.startswith("time.time() at lab_python_values.py, line ")


def test_the_job_is_counted_and_trained_as_if_there_were_one_trace(tmp_path: Path) -> None:
    """A second trace counts as none, draws no numbers, and leaves the graph that is trained as it is."""
    result = prepared(with_step("python"), tmp_path)
    assert [event["count"] for event in result.events("trace")] == [1]
    state = np.random.get_state()[1].copy()
    prepared(with_step("date"), tmp_path)
    np.testing.assert_array_equal(state, np.random.get_state()[1])


def test_only_code_with_something_that_changes_is_traced_twice(tmp_path: Path) -> None:
    own = prepared(job(model=mlp(), loss=CROSS_ENTROPY, metrics=["keras/SparseCategoricalAccuracy"]), tmp_path)
    assert UserCode.of(own.assembly).objects == {}
    trapped = job(step={"component": "lab/Trapped", "config": {"trap": "graph_print"}}, loss=None)
    code = UserCode.of(prepared(trapped, tmp_path).assembly)
    assert (len(code.objects), code.may_differ()) == (1, False)
    assert UserCode.of(prepared(with_step("nothing"), tmp_path).assembly).may_differ()
