"""State outside of Keras' own variables: a resumed deterministic job is exact, or the job says that it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tapeworks.components.loading import load_components
from tapeworks.errors import FailureCode, JobFailure
from tests.support.paths import LAB
from tests.support.tiers import some
from tests.support.trainings import job, prepared, trained
from tests.workers.engine.checkpoints.test_resume import assert_same, deterministic, noisy  # noqa: F401
from tests.workers.engine.training.test_training import gan

PARTS = LAB / "lab_hidden_state.py"
load_components([PARTS])

EVERY = {"every_steps": 7, "every_seconds": None, "keep": 99}
IN_LAYERS = (
    "generator", "generator_in_dict", "variable", "variables_in_containers", "plain_object", "namespace", "closure",
    "module_variable", "module_generator", "keras_random", "seed_generator_in_list",
)  # fmt: skip


def _layer(way: str) -> dict[str, Any]:
    layers = [
        {"component": "hidden/Layer", "config": {"way": way}},
        {"component": "keras/Dense", "config": {"units": 3}},
    ]
    return {"model": {"component": "sequential", "config": {"layers": layers}}}


HIDDEN: dict[str, dict[str, Any]] = {
    **{f"layer-{way}": _layer(way) for way in IN_LAYERS},
    **{
        f"loss-{way}": {"loss": {"component": "hidden/Loss", "config": {"way": way}}}
        for way in ("variable", "keras_variable", "variables_in_containers")
    },
    "metric": {"metrics": ["hidden/Metric"]},
    "optimizer": {"optimizer": "hidden/Optimizer"},
    "gradients": {"gradients": ["hidden/Gradients"]},
    "step": {"step": "hidden/Step"},
}
ALWAYS = {
    "layer-generator",
    "layer-variables_in_containers",
    "layer-closure",
    "loss-keras_variable",
    "optimizer",
    "step",
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "operation": (_layer("operation"), "RandomUniform"),
    "seeded_operation": (_layer("seeded_operation"), "RandomStandardNormal"),
    "table": (_layer("table"), "LookupTableInsertV2"),
    "loss": ({"loss": {"component": "hidden/Loss", "config": {"way": "operation"}}}, "RandomUniform"),
    "branch": (_layer("operation_in_branch"), "RandomUniform"),
}


@pytest.mark.slow
@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("name", some(HIDDEN, ALWAYS.__contains__))
def test_hidden_state_is_in_the_checkpoint(name: str, tmp_path: Path) -> None:
    spec = job(training={"deterministic": True, "epochs": 2, "checkpoint": EVERY}, **HIDDEN[name])
    whole = trained(spec, tmp_path / "whole")
    resumed = trained(spec, tmp_path / "resumed", resume=whole.checkpoints()[0])
    assert resumed.history("loss")[-1] == whole.history("loss")[-1]
    assert_same(whole, resumed)


@pytest.mark.slow
@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("name", REFUSED)
def test_state_that_no_checkpoint_can_hold_is_refused(name: str, tmp_path: Path) -> None:
    parts, operation = REFUSED[name]
    with pytest.raises(JobFailure) as caught:
        prepared(job(training={"deterministic": True}, **parts), tmp_path)
    failure = caught.value
    assert failure.code is FailureCode.NONDETERMINISTIC_OP
    assert operation in failure.message
    assert failure.location is not None
    line = PARTS.read_text().splitlines()[(failure.location.line or 0) - 1]
    assert "tf.random." in line or "self.table.insert" in line
    prepared(job(training={"deterministic": False}, **parts), tmp_path)


@pytest.mark.usefixtures("deterministic")
def test_python_code_in_a_step_is_warned_of(tmp_path: Path) -> None:
    (note,) = prepared(job(training={"deterministic": True}, **_layer("python")), tmp_path).events("diagnostic")
    assert note["code"] == "inexact_resume"
    assert "tf.numpy_function" in note["message"]


@pytest.mark.slow
def test_jobs_of_built_in_parts_hide_nothing(tmp_path: Path) -> None:
    precise = {"precision": "mixed_float16", "gradient_accumulation": 2}
    for number, spec in enumerate([noisy(), gan(epochs=1), job(training=precise)]):
        assert prepared(spec, tmp_path / str(number)).assembly.captured == {}
