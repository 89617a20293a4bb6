"""What `tapeworks component test` finds, for each mistake an author can make."""

import json
from pathlib import Path
from typing import Any

import pytest

from tapeworks_workers.authoring.attempts import Attempts
from tapeworks_workers.authoring.component_test import rehearse_job
from tapeworks_workers.engine.admission.component_test import Finding, try_components
from tests.support.paths import LAB

MISTAKES = LAB / "acme_mistakes.py"
JOB: dict[str, Any] = {
    "data": {"source": "iris", "pipeline": [{"op": "batch", "batch_size": 10}]},
    "model": {"component": "mlp", "config": {"hidden": [4], "outputs": 3}},
    "loss": {"component": "keras/SparseCategoricalCrossentropy", "config": {"from_logits": True}},
    "optimizer": "keras/Adam",
}


@pytest.fixture(scope="module")
def findings() -> dict[str, Finding]:
    return {one.name.removeprefix("mistakes/"): one for one in try_components([MISTAKES])}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Unwritable", "it cannot be written and rebuilt"),
        ("Forgetful", "its config loses the argument 'factor': with factor=1.5 it comes back with 1.0"),
        ("OfThisProcess", "it returns other values in another process"),
        ("Flat", "its gradient with respect to y_pred is zero everywhere"),
        ("Stopped", "its gradient differs from numeric differences by 1 of"),
        ("Rounded", "its gradient differs from numeric differences by 1"),
        ("Outside", "NotImplementedError: Cannot convert a symbolic"),
    ],
)
def test_a_mistake_is_found(findings: dict[str, Finding], name: str, told: str) -> None:
    (problem,) = findings[name].problems
    assert told in problem


def test_a_mistake_outside_of_the_graph_is_found_at_its_line(findings: dict[str, Finding]) -> None:
    line = 1 + MISTAKES.read_text().splitlines().index(
        "        return tf.reduce_mean(tf.square(y_pred - np.median(y_true)), axis=-1)"
    )
    assert f"({MISTAKES}, line {line})" in findings["Outside"].problems[0]


def test_what_is_right_is_left_alone(findings: dict[str, Finding]) -> None:
    assert findings["Right"] == Finding("mistakes/Right", "loss")
    assert findings["RightPairs"] == Finding("mistakes/RightPairs", "loss")
    assert findings["RightLayer"] == Finding("mistakes/RightLayer", "layer")
    assert findings["Insensitive"].problems == []
    assert findings["Insensitive"].notes[0].startswith("on invented values: its gradient with respect to y_pred")
    assert findings["Strict"].problems == []
    assert "beyond one" in findings["Strict"].notes[0]
    assert findings["Step"] == Finding("mistakes/Step", "step"), "steps are tried by their jobs"


# ── jobs ─────────────────────────────────────────────────────────────────────────────────────────


def rehearsed(folder: Path, document: Any, attempts: Attempts | None = None) -> Finding:
    file = folder / "job.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    finding = rehearse_job(file, attempts=attempts)
    assert (finding.name, finding.kind) == (str(file), "job")
    return finding


def test_a_job_that_would_fail_is_told_with_its_code_and_line(findings: dict[str, Finding], tmp_path: Path) -> None:
    (problem,) = rehearsed(tmp_path, {**JOB, "step": "mistakes/Step"}).problems
    line = 1 + [text.endswith("# the mistake") for text in MISTAKES.read_text().splitlines()].index(True)
    assert problem.startswith("numpy_in_graph: ")
    assert f"({MISTAKES}, line {line})" in problem


def test_a_job_that_is_no_spec_is_told_where(tmp_path: Path) -> None:
    assert [p.partition(":")[0] for p in rehearsed(tmp_path, {**JOB, "optimiser": "keras/Adam"}).problems] == [
        "/optimiser"
    ]
    assert rehearsed(tmp_path, "{").problems != []


def test_a_job_that_goes_on_from_another_is_tried_as_far_as_that(tmp_path: Path) -> None:
    earlier = {**JOB, "training": {"initial_state": {"from": "job_earlier"}}}
    finding = rehearsed(tmp_path, earlier)
    assert finding.problems == []
    assert "'job_earlier' is not an input" in finding.notes[0]


def test_a_job_that_trains_is_right(tmp_path: Path, attempts: Attempts) -> None:
    assert rehearsed(tmp_path, JOB, attempts).problems == []
