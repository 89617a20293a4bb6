"""What a job does not train, although its spec or its models say so, is reported or refused before it trains."""

from pathlib import Path
from typing import Any

import pytest

from tapeworks.components.loading import load_components
from tapeworks.errors import JobFailure
from tests.support.paths import LAB
from tests.support.trainings import CROSS_ENTROPY, attempt, job, mlp, prepared, trained

PARTS = LAB / "lab_untrained.py"
load_components([PARTS])


def dense(units: int, **config: Any) -> dict[str, Any]:
    return {"component": "keras/Dense", "config": {"units": units, **config}}


def stacked(*layers: Any, **keys: Any) -> dict[str, Any]:
    return {"component": "sequential", "config": {"layers": list(layers)}, **keys}


def two(way: str, **changes: Any) -> Any:
    parts = {
        "model": None,
        "models": {"first": mlp(), "second": mlp()},
        "optimizer": None,
        "optimizers": {"first": "keras/SGD", "second": "keras/SGD"},
        "loss": None,
        "losses": {"first": CROSS_ENTROPY},
        "metrics": {"first": ["keras/SparseCategoricalAccuracy"]},
        "step": {"component": "untrained/Two", "config": {"way": way}},
        **changes,
    }
    return job(**parts)


def codes(spec: Any, folder: Path) -> list[tuple[str, str]]:
    return [(one["code"], one["message"]) for one in prepared(spec, folder).events("diagnostic")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layer", "attribute"),
    [("untrained/RawVariable", "self.scale"), ("untrained/HiddenLayer", "self.holder")],
)
def test_a_variable_that_no_optimizer_owns_is_named_with_its_layer(tmp_path: Path, layer: str, attribute: str) -> None:
    found = prepared(job(model=stacked(layer_of(layer, name="own"), dense(3))), tmp_path).events("diagnostic")
    assert {one["code"] for one in found} == {"unowned_variable"}
    assert f"layer 'own' ({layer.partition('/')[2]}) of role 'model', attribute {attribute}" in found[0]["message"]
    assert "add_weight" in found[0]["hint"]
    assert found[0]["location"]["file"] == str(PARTS)


def layer_of(component: str, **config: Any) -> dict[str, Any]:
    return {"component": component, "config": config}


def test_constants_and_variables_that_a_step_assigns_are_not_reported(tmp_path: Path) -> None:
    layers = [layer_of("untrained/RawVariable", trainable_scale=False), layer_of("untrained/Moving"), dense(3)]
    assert codes(job(model=stacked(*layers)), tmp_path) == []
    assert codes(job(model=stacked(dense(8, name="a"), dense(3, name="b"), freeze=["a"])), tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "code", "message"),
    [
        ("temperature", "unowned_variable", "the step 'untrained/Two', attribute self.temperature: the trainable"),
        ("own_gradients", "unowned_variable", "the step 'untrained/Two', attribute self.temperature: the trainable"),
        ("optimizer", "unused_part", "declares the optimizer 'second' and never applies it: what it owns of 'second'"),
        ("loss", "unused_part", "the step never calls the losses first of the spec"),
        ("metrics", "unused_part", "metrics of role 'first' are never fed by train_step"),
        ("validation_metrics", "unused_part", "never fed by validation_step: val_first_sparse_categorical_accuracy"),
    ],
)
def test_what_a_step_leaves_out_is_reported(tmp_path: Path, way: str, code: str, message: str) -> None:
    ((found, said),) = codes(two(way, data={"validation": 0.2}), tmp_path)
    assert found == code
    assert message in said


def test_a_step_that_leaves_nothing_out(tmp_path: Path) -> None:
    assert codes(two("nothing", data={"validation": 0.2}), tmp_path) == []


def test_a_step_that_trains_nothing_is_refused_and_evaluates(tmp_path: Path) -> None:
    with pytest.raises(JobFailure, match="changes no trainable variable of any model: it applies none") as refused:
        prepared(two("all"), tmp_path)
    assert refused.value.code == "no_gradient"
    assert "epochs to 0" in str(refused.value.hint)
    prepared(two("all", training={"epochs": 0}, data={"validation": 0.2}), tmp_path)


def test_a_model_that_is_all_frozen(tmp_path: Path) -> None:
    ((code, message),) = codes(job(model=mlp() | {"freeze": ["*"]}), tmp_path)
    assert (code, "'model'" in message) == ("nothing_trained", True)


# ── the first epoch ──────────────────────────────────────────────────────────────────────────────

DEAD = stacked(
    dense(4, name="dead", activation="relu", bias_initializer=layer_of("keras/Constant", value=-1e4)),
    dense(3, name="out"),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer",
    ["keras/SGD", "keras/Adam", layer_of("keras/AdamW", weight_decay=0.1), layer_of("keras/SGD", momentum=0.9)],
)
def test_gradients_that_are_zero_in_the_whole_first_epoch(tmp_path: Path, optimizer: Any) -> None:
    result = trained(job(model=DEAD, optimizer=optimizer), tmp_path)
    (one,) = result.events("diagnostic")
    assert one["code"] == "zero_gradient"
    assert "3 of 4 variables had a gradient of zero in each of the first 10 steps" in one["message"]
    assert all(name in one["message"] for name in ("dead/kernel", "dead/bias", "out/kernel"))


def test_a_validation_reports_them_too(tmp_path: Path) -> None:
    result = attempt(job(model=DEAD), tmp_path, kind="validate")[-1]["result"]
    assert "zero_gradient" in {one["code"] for one in result["warnings"]}


def test_what_is_trained_and_what_is_meant_to_stand_still_is_not_reported(tmp_path: Path) -> None:
    assert trained(job(), tmp_path).events("diagnostic") == []
    still = layer_of("keras/SGD", learning_rate=0.0)
    assert trained(job(model=DEAD, optimizer=still), tmp_path).events("diagnostic") == []


def test_an_optimizer_that_is_never_applied(tmp_path: Path) -> None:
    result = trained(job(training={"gradient_accumulation": 50}), tmp_path)
    (one,) = result.events("diagnostic")
    assert "optimizer 'model' was not applied once in the first 10 steps" in one["message"]
