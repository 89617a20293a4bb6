"""What several devices cannot train as one does is refused at the start, by comparing the first batch."""

from typing import Any

import pytest

from tests.support.trainings import job, mlp, numbers
from tests.support.two_devices import TwoDevices

SUMMED = {"component": "keras/SparseCategoricalCrossentropy", "config": {"from_logits": True, "reduction": "sum"}}
TRIPLET = {"component": "triplet", "config": {"margin": 1.0}}
SHORT = {"epochs": 1}


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (job(loss=SUMMED, training=SHORT), "'loss'"),
        (job(model=mlp(4), loss=TRIPLET, training=SHORT), "on the first batch"),
    ],
    ids=["a sum", "in-batch pairs"],
)
@pytest.mark.slow
def test_what_does_not_separate_by_rows_is_refused(two_devices: TwoDevices, spec: Any, said: str) -> None:
    failure = two_devices.ask("refused", spec.document())
    assert failure["code"] == "not_supported"
    assert "on 2 devices than on one" in failure["message"]
    assert said in failure["message"]
    assert "resources.gpus to 1" in failure["hint"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "said"),
    [("lab/Counting", "the variable 'step/"), ("lab/Branching", "run.apply is called inside a branch")],
)
def test_what_a_step_does_by_itself_is_refused(two_devices: TwoDevices, step: str, said: str) -> None:
    failure = two_devices.ask("refused", job(step={"component": step}, training=SHORT).document())
    assert failure["code"] == "not_supported"
    assert said in failure["message"]
    assert "resources.gpus to 1" in failure["hint"]


@pytest.mark.slow
def test_a_deterministic_job_on_two_devices_resumes_exactly_and_goes_on_on_one(two_devices: TwoDevices) -> None:
    spec = job(
        data={
            "source": numbers(91),
            "pipeline": [{"op": "shuffle", "buffer_size": 1000}, {"op": "batch", "batch_size": 10}],
        },
        training={"epochs": 4, "checkpoint": {"every_steps": 13, "keep": 9}},
    )
    told = two_devices.ask("resumed", spec.document())
    assert told["same"]
    assert told["alone"][0] < 1e-5, told["alone"]
