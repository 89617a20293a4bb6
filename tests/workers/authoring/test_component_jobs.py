"""What only a job finds: small ones for each component, and the first epoch of the jobs beside them."""

import json
from pathlib import Path
from typing import Any

import pytest

from tapeworks_workers.authoring.attempts import Attempts
from tapeworks_workers.authoring.component_test import found_in
from tapeworks_workers.engine.admission.component_test import Finding
from tests.support.paths import LAB

FILE = LAB / "acme_jobs.py"
JOB: dict[str, Any] = {
    "data": {"source": "iris", "validation": 0.2, "pipeline": [{"op": "batch", "batch_size": 10}]},
    "model": {"component": "mlp", "config": {"hidden": [4], "outputs": 3}},
    "loss": {"component": "keras/SparseCategoricalCrossentropy", "config": {"from_logits": True}},
    "optimizer": "keras/Adam",
}


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory, attempts: Attempts) -> dict[str, Finding]:
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "acme_small_jobs.py").write_text(FILE.read_text())  # the folder of FILE may be importable
    (folder / "job.json").write_text(json.dumps({**JOB, "callbacks": ["jobs/Missing"]}))
    return {Path(one.name).name: one for one in found_in([folder], attempts=attempts)}


@pytest.mark.slow
def test_what_is_right_is_trained_exported_reloaded_and_resumed(findings: dict[str, Finding]) -> None:
    expected = ("numbered_name", "Keras numbered", "no job of the component was tried")
    for name in ("Scaled", "labels", "Count", "Moved", "Turn", "Plain"):
        assert findings[name].problems == [], name
        notes = findings[name].notes
        assert all(any(words in note for words in expected) for note in notes), notes


def test_a_mistake_in_a_callback_is_found_at_its_line(findings: dict[str, Finding]) -> None:
    (problem,) = findings["Forgets"].problems
    line = 1 + [text.endswith("# the mistake") for text in FILE.read_text().splitlines()].index(True)
    assert "AttributeError: 'Forgets' object has no attribute 'seen'" in problem
    assert f"acme_small_jobs.py, line {line})" in problem


def test_a_step_of_one_model_is_tried(findings: dict[str, Finding]) -> None:
    (problem,) = findings["Misspelt"].problems
    assert "has no attribute 'model'" in problem
    assert findings["Pairs"].problems == []
    assert any(note.startswith("in a small job of iris") for note in findings["Pairs"].notes)


def test_what_a_callback_needs_of_its_own_jobs_is_a_note_and_the_job_beside_it_a_problem(
    findings: dict[str, Finding],
) -> None:
    assert findings["Missing"].problems == []
    assert findings["Missing"].notes[0].startswith("in a small job of iris: component_error: ")
    assert "KeyError: 'val_recall'" in findings["Missing"].notes[0]
    (problem,) = findings["job.json"].problems
    assert "KeyError: 'val_recall'" in problem


@pytest.mark.slow
def test_modules_that_no_worker_would_serve_are_findings_and_the_others_are_tried(
    tmp_path: Path, attempts: Attempts
) -> None:
    (tmp_path / "acme_ends.py").write_text("import os\nos._exit(3)\n")
    (tmp_path / "acme_patches.py").write_text("import keras\nkeras.layers.Dense.call = lambda self, x: x\n")
    (tmp_path / "acme_plain.py").write_text(
        "from tapeworks import component\n\n\n@component('acme/third')\ndef third(x, y):\n    return x / 3.0, y\n"
    )
    found = {Path(one.name).name: one for one in found_in([tmp_path], attempts=attempts)}
    assert set(found) == {"acme_ends.py", "acme_patches.py", "third"}
    assert "ends the process with exit status 3" in found["acme_ends.py"].problems[0]
    assert "Dense.call" in found["acme_patches.py"].problems[0]
    assert found["third"].problems == []
