"""The hint of a failure works: each that is a change of the spec is applied, and the job runs."""

import copy
from pathlib import Path
from typing import Any

import pytest

from tapeworks.components.loading import load_components
from tapeworks.errors import FAILURES, FailureCode
from tests.support.paths import LAB
from tests.support.tiers import some
from tests.support.trainings import BATCH, attempt, job, mlp, numbers

load_components([LAB / name for name in ("lab_mistakes.py", "message_parts.py")])

VALIDATED = {"validation": 0.2}
FAST = {"component": "keras/SGD", "config": {"learning_rate": 1e30}}
DEEP = {"component": "sequential", "config": {"layers": [{"component": "keras/Dense", "config": {"units": -3}}]}}


def trapped(trap: str, **training: Any) -> dict[str, Any]:
    step = {"component": "lab/Trapped", "config": {"trap": trap}}
    return {"step": step, "loss": None, "training": {"epochs": 1, **training}}


# code → the job that fails, what of its hint is applied, the changes that it asks for
CHANGES_OF_THE_SPEC: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "invalid_spec": (
        {"training": {"early_stopping": {"monitor": "val_los"}}, "data": VALIDATED},
        "Change the field of the spec that the message names",
        {"training": {"early_stopping": {"monitor": "val_loss"}}},
    ),
    "invalid_data": (
        {"data": {"source": numbers(highest=7)}}, "Give the model 8 outputs", {"model": mlp(8)},
    ),
    "dtype_mismatch": (
        {"data": {"source": numbers(form="ids")}, "model": {"component": "sequential", "config": {
            "layers": [{"component": "mistaken/Wide4"}]}}},
        'a {"op": "cast"} to the pipeline',
        {"data": {"pipeline": [{"op": "cast", "dtype": "float32"}, BATCH]}},
    ),
    "float64_input": (
        {"data": {"source": numbers(form="float64")}, "step": "mistaken/Mixing", "loss": None},
        'add {"op": "cast", "dtype": "float32", "field": "x"} to the pipeline',
        {"data": {"pipeline": [{"op": "cast", "dtype": "float32", "field": "x"}, BATCH]}},
    ),
    "non_finite": (
        {"optimizer": FAST}, "Lower the learning rate",
        {"optimizer": {"component": "keras/SGD", "config": {"learning_rate": 0.01}}},
    ),
    "out_of_memory": (
        {"model": mlp(hidden=[10**15])}, "a smaller model", {"model": mlp(hidden=[8])},
    ),
    "component_error": (
        {"model": DEEP}, "the error is in the component's own code or its config",
        {"model": {"component": "sequential", "config": {"layers": [
            {"component": "keras/Dense", "config": {"units": 3}}]}}},
    ),
    "retracing": (trapped("python_values", max_traces=1), "raise training.max_traces", {"training": {"max_traces": 8}}),
    "nondeterministic_op": (
        trapped("timestamp", deterministic=True), "set training.deterministic to false",
        {"training": {"deterministic": False}},
    ),
    "not_supported": (
        {"data": {"source": numbers(40, "unknown"), "pipeline": [{"op": "ragged_batch", "batch_size": 10}]},
         "training": {"execution": {"plan": "fused"}}},
        "",
        {"training": {"execution": {"plan": "auto"}}},
    ),
    "timeout": ({"training": {"epochs": 1_000_000}}, "train fewer steps", {"training": {"epochs": 1}}),
}  # fmt: skip

CHANGES_OF_CODE = {
    "numpy_in_graph", "variable_creation_in_graph", "python_control_flow", "graph_tensor_leaked", "broadcast_loss",
    "no_gradient", "not_serializable", "reload_mismatch", "component_timeout", "quota_exceeded",
}  # fmt: skip
OF_THE_INSTALLATION = {
    "worker_lost", "storage_full", "storage_unavailable", "checkpoint_corrupt", "dependency_failed", "internal",
}  # fmt: skip


def test_every_code_is_here_once() -> None:
    parts = [set(CHANGES_OF_THE_SPEC), CHANGES_OF_CODE, OF_THE_INSTALLATION]
    assert set.union(*parts) == {code.value for code in FailureCode}
    assert sum(map(len, parts)) == len(FailureCode)


ALWAYS = {"invalid_data", "float64_input", "non_finite", "timeout"}


@pytest.mark.slow
@pytest.mark.parametrize("code", some(CHANGES_OF_THE_SPEC, ALWAYS.__contains__))
def test_the_hint_works(code: str, tmp_path: Path) -> None:
    broken, hint, changes = CHANGES_OF_THE_SPEC[code]
    limit = 1.0 if code == "timeout" else None
    failure = attempt(job(**copy.deepcopy(broken)), tmp_path / "broken", timeout_seconds=limit)[-1]["failure"]
    assert failure["code"] == code, failure
    said = f"{failure['hint']} {FAILURES[FailureCode(code)].hint}"
    assert hint in said
    fixed = copy.deepcopy(broken)
    for part, change in changes.items():
        both = isinstance(fixed.get(part), dict) and part in ("data", "training")
        fixed[part] = {**fixed[part], **change} if both else change
    assert attempt(job(**fixed), tmp_path / "fixed")[-1]["outcome"] == "succeeded"
