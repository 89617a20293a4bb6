"""Evaluators in jobs: when they run, on what, and what becomes of their values."""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tapeworks.components.loading import load_components
from tapeworks.errors import JobFailure
from tapeworks_workers.engine.diagnostics.classify import classify
from tests.support.paths import LAB
from tests.support.trainings import BATCH, attempt, job, numbers, prepared, trained

load_components([LAB / "epoch_parts.py"])

VALIDATED = {"validation": 0.2, "pipeline": [{**BATCH, "batch_size": 16}]}


def returns(what: str, **config: Any) -> dict[str, Any]:
    return {"component": "lab/Returns", "config": {"what": what, **config}}


def test_values_stand_beside_those_of_the_step(tmp_path: Path) -> None:
    evaluators = [returns("count", name="asked"), returns("size", name="examples"), returns("tensor")]
    result = trained(job(data=VALIDATED, evaluators=evaluators, training={"epochs": 3}), tmp_path)
    assert result.history("val_asked") == [1.0, 2.0, 3.0]  # built once
    assert result.history("val_examples") == [20.0] * 3  # a short last batch included
    assert result.history("val_answer") == [2.5] * 3
    assert all(np.isfinite(result.history("val_loss")))


def test_a_split_comes_in_the_same_order_at_every_evaluation(tmp_path: Path) -> None:
    pipeline = [{"op": "apply", "function": "lab/Shuffled"}, {**BATCH, "batch_size": 4}]
    data = {"validation": 0.3, "pipeline": pipeline}
    training = {"epochs": 3, "deterministic": True}
    result = trained(job(data=data, evaluators=[returns("order")], training=training), tmp_path)
    first, *others = result.history("val_answer")
    assert others == [first, first]


def test_the_test_split_and_the_exported_job(tmp_path: Path) -> None:
    data = {"test": 0.1, "pipeline": [BATCH]}
    finish = attempt(job(data=data, evaluators=[returns("size")], export=None), tmp_path)[-1]
    assert finish["outcome"] == "succeeded", finish["failure"]
    assert finish["metrics"]["test_answer"] == 10.0
    assert "val_answer" not in finish["metrics"]


@pytest.mark.slow
def test_they_may_be_monitored(tmp_path: Path) -> None:
    stopping = {"monitor": "val_asked", "mode": "min", "patience": 2}
    training = {
        "epochs": 9,
        "early_stopping": stopping,
        "checkpoint": {"best": {"monitor": "val_asked", "mode": "max"}},
    }
    result = trained(job(data=VALIDATED, evaluators=[returns("count", name="asked")], training=training), tmp_path)
    assert result.history("val_asked") == [1.0, 2.0, 3.0]
    assert [facts["best"]["epoch"] for facts in result.records("facts") if "best" in facts] == [1, 2, 3]
    # Names that an evaluator may add are known once it ran; others before anything is trained.
    for monitor, when in (("val_missing", trained), ("accuracy", prepared)):
        spec = job(
            data=VALIDATED,
            evaluators=[returns("count")],
            training={"early_stopping": {"monitor": monitor, "mode": "max"}},
        )
        with pytest.raises(JobFailure, match=f"'{monitor}', which is not reported"):
            when(spec, tmp_path / monitor)


def test_they_see_the_averaged_weights(tmp_path: Path) -> None:
    optimizer = {"component": "keras/SGD", "config": {"learning_rate": 0.5, "use_ema": True, "ema_momentum": 0.9}}
    evaluators = [returns("weight", name="weight")]
    result = trained(job(data=VALIDATED, optimizer=optimizer, evaluators=evaluators), tmp_path)
    exported = float(result.assembly.models["model"].weights[0].numpy().sum())
    assert result.history("val_weight")[-1] == pytest.approx(exported, rel=1e-5)


@pytest.mark.slow
def test_a_step_without_a_validation_step(tmp_path: Path) -> None:
    spec = job(data=VALIDATED, step="lab/NoValidation", loss=None, evaluators=[returns("step")])
    assert trained(spec, tmp_path).history("val_answer") == [7.0, 7.0]  # reached through run.training_step
    with pytest.raises(JobFailure, match=r"has no validation_step, so data.validation cannot") as caught:
        prepared(job(data=VALIDATED, step="lab/NoValidation", loss=None), tmp_path)
    assert caught.value.code == "invalid_spec"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "code", "says"),
    [
        ("nan", "non_finite", "evaluators/0, 'lab/Returns': evaluate returned 'answer': nan"),
        ("text", "component_error", "'answer': 'three'"),
        ("vector", "component_error", r"'answer': \[1.0, 2.0\]"),
        ("number", "component_error", "must return a dict of named numbers, not float"),
        ("raise", "component_error", "evaluators/0, 'lab/Returns': KeyError: 'raise'"),
    ],
)
def test_what_is_no_value(tmp_path: Path, what: str, code: str, says: str) -> None:
    with pytest.raises(JobFailure, match=says) as caught:
        trained(job(data=VALIDATED, evaluators=[returns(what)], training={"epochs": 1}), tmp_path)
    failure = classify(caught.value)
    assert failure.code == code
    assert failure.location is not None
    assert failure.location.component == "lab/Returns"


@pytest.mark.slow
def test_a_name_that_is_taken(tmp_path: Path) -> None:
    for evaluators in ([returns("count", name="loss")], [returns("count"), returns("size")]):
        with pytest.raises(
            JobFailure, match=r"evaluators/\d, 'lab/Returns': '\w+' is already the name of another value"
        ):
            trained(job(data=VALIDATED, evaluators=evaluators, training={"epochs": 1}), tmp_path)


def test_built_in_ones_in_a_job(tmp_path: Path) -> None:
    recall = {"component": "gallery_recall", "config": {"k": [1, 5]}}
    logs = trained(job(data=VALIDATED, evaluators=[recall, "linear_probe"]), tmp_path).events("epoch")[-1]["logs"]
    assert {"val_gallery_recall_1", "val_gallery_recall_5", "val_linear_probe_accuracy"} < logs.keys()
    assert 0 <= logs["val_gallery_recall_1"] <= logs["val_gallery_recall_5"] <= 1


def test_they_get_the_inputs_that_the_models_take(tmp_path: Path) -> None:
    inputs = {name: keras.Input((1,), name=name) for name in ("height", "age")}
    outputs = keras.layers.Dense(3)(keras.layers.Concatenate()([inputs["height"], inputs["age"]]))
    config = json.loads(keras.Model(inputs, outputs).to_json())["config"]
    model = {"component": "functional", "config": {"config": config}}
    data = {**VALIDATED, "source": numbers(form="named")}
    result = trained(job(data=data, model=model, evaluators=["linear_probe", returns("inputs")]), tmp_path)
    assert result.history("val_answer") == [2.0, 2.0]  # the third, noise, is dropped as for the step
    assert len(result.history("val_linear_probe_accuracy")) == 2
