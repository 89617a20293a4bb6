"""Metrics that Keras cannot call end a job before it trains, and function metrics may be used twice."""

from pathlib import Path

import pytest

from tapeworks.components.loading import load_components
from tests.support.paths import LAB
from tests.support.trainings import attempt, job, numbers, prepared, trained

PARTS = LAB / "metric_parts.py"
load_components([PARTS])
WEIGHTED = {"source": numbers(20, "weighted"), "pipeline": [{"op": "batch", "batch_size": 10}]}


def test_a_metric_without_sample_weight_is_refused_with_its_line_and_the_signature_to_write(tmp_path: Path) -> None:
    failure = attempt(job(data=WEIGHTED, metrics=["signatures/Worst"]), tmp_path)[-1]["failure"]
    assert failure["code"] == "invalid_spec"
    assert failure["phase"] == "compiling"
    assert failure["message"].startswith(
        "/metrics/model/0: the metric signatures/Worst: Worst.update_state(self, y_true"
    )
    assert "takes no sample_weight" in failure["message"]
    assert "def update_state(self, y_true, y_pred, sample_weight=None)" in failure["hint"]
    lines = PARTS.read_text().splitlines()
    line = 1 + lines.index("    def update_state(self, y_true: Any, y_pred: Any) -> None:")
    assert (failure["location"]["file"], failure["location"]["line"]) == (str(PARTS), line)


@pytest.mark.slow
def test_the_signature_of_the_hint_trains(tmp_path: Path) -> None:
    done = trained(job(data=WEIGHTED, metrics=["signatures/Largest"], export=None), tmp_path)
    assert done.history("worst")[0] > 0.0


@pytest.mark.slow
def test_a_function_is_a_metric_twice_under_names_of_its_own(tmp_path: Path) -> None:
    reference = {"component": "signatures/share", "config": {"limit": 0.1}}
    numbered = prepared(job(metrics=["signatures/share", reference]), tmp_path).assembly.metrics["model"]
    assert [one.name for one in numbered] == ["share", "share_1"], "as fit names them"
    reference["config"] |= {"name": "above"}  # type: ignore[operator]
    frames = attempt(job(metrics=["signatures/share", reference], training={"epochs": 1}), tmp_path)
    assert frames[-1]["outcome"] == "succeeded", frames[-1]["failure"]
    assert frames[-1]["metrics"]["above"] < frames[-1]["metrics"]["share"]
