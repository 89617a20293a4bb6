"""y, outputs, losses, weights and metrics in every structure that `fit` takes train and report what `fit` does."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tapeworks.components.loading import load_components
from tapeworks.errors import JobFailure
from tapeworks.spec.job_spec import JobSpec
from tapeworks_workers.engine.export.model_files import compile_arguments, save_keras
from tests.support.lab.output_parts import functional
from tests.support.paths import LAB
from tests.support.trainings import Trained, job, prepared, trained

load_components([LAB / "output_parts.py"])

pytestmark = pytest.mark.filterwarnings("ignore:Gradients do not exist")  # of outputs without a loss, in fit

TAIL = {"fraction": 0.2, "split": "tail"}
MSE, MAE = "keras/MeanSquaredError", "keras/MeanAbsoluteError"
mse, mae = keras.losses.MeanSquaredError, keras.losses.MeanAbsoluteError
M_MAE, M_MSE = keras.metrics.MeanAbsoluteError, keras.metrics.MeanSquaredError


@dataclass
class Case:
    """A spec's part and what `compile` is given for the same."""

    form: str
    loss: Any
    fit_loss: Any
    fit_weights: Any = None
    metrics: Any = field(default_factory=list)
    fit_metrics: Any = None
    fit_weighted: Any = None
    y: str | None = None
    weights: str = "none"
    kinds: tuple[str, ...] = ("subclassed", "functional")


def weighted(weight: float, component: str = MSE) -> dict[str, Any]:
    return {"component": component, "weight": weight}


def seeing(component: str) -> dict[str, Any]:
    return {"component": component, "weighted": True}


CASES: dict[str, Case] = {
    "one loss, a tuple": Case("tuple", MSE, mse()),
    "one loss, a weight": Case("tuple", weighted(0.5), mse(), 0.5),
    "one loss, a dict": Case("dict", MSE, mse(), weights="one"),
    "one loss, a nest": Case("nest", MSE, mse(), weights="each"),
    "one output": Case("single", weighted(0.5), mse(), 0.5, [MAE], ["mae"], weights="one"),
    "one output by key": Case("one key", {"outputs": {"d": weighted(0.5)}}, {"d": mse()}, {"d": 0.5}, [MAE], ["mae"]),
    "by position": Case(
        "tuple",
        {"outputs": {"0": MSE, "1": weighted(0.5, MAE)}},
        [mse(), mae()],
        [1.0, 0.5],
        {"outputs": {"0": [MAE, seeing(MAE)], "1": [MAE, MSE]}},
        [["mae"], ["mae", "mse"]],
        [["mae"], None],
        weights="each",
    ),
    "by key": Case(
        "dict",
        {"outputs": {"q": MSE, "p": weighted(0.5, MAE)}},
        {"q": mse(), "p": mae()},
        {"q": 1.0, "p": 0.5},
        {"outputs": {"q": [MAE]}},
        {"q": ["mae"]},
    ),
    "by path": Case(
        "nest",
        {"outputs": {"h/0": MSE, "h/1": MAE, "g": weighted(0.25)}},
        {"h": (mse(), mae()), "g": mse()},
        {"h": (1.0, 1.0), "g": 0.25},
        {"outputs": {"h/0": [MAE], "h/1": [MSE], "g": [MAE]}},
        {"h": (["mae"], ["mse"]), "g": ["mae"]},
    ),
    "no loss for one": Case("list", {"outputs": {"0": MSE, "1": None}}, [mse(), None], y="tuple"),
    "y for those with a loss": Case("tuple", {"outputs": {"1": MSE}}, [None, mse()], y="second"),
    "two losses of one output": Case(
        "dict", {"outputs": {"q": [MSE, weighted(0.5, MAE)], "p": MSE}}, {"q": [mse(), mae()], "p": mse()},
        {"q": [1.0, 0.5], "p": 1.0},
    ),
    "y a tuple for a dict": Case("dict", MSE, mse(), y="tuple"),
    "y by the names of a list": Case("list", MSE, mse(), y="by name", kinds=("functional",)),
    "losses by the names of a list": Case(
        "list", {"outputs": {"a": MSE, "b": weighted(0.5, MAE)}}, {"a": mse(), "b": mae()}, {"a": 1.0, "b": 0.5},
        {"outputs": {"a": [MAE], "b": [seeing(MAE)]}}, {"a": "mae"}, {"b": "mae"}, y="tuple", weights="each",
        kinds=("functional",),
    ),
    "one of a list": Case("one of list", MSE, mse(), None, [MAE], ["mae"], y="single", kinds=("subclassed",)),
    "a nest of dicts": Case("nested dict", MSE, mse()),
    "a list in a list": Case("deep list", MSE, mse(), weights="one"),
}  # fmt: skip


def spec_of(case: Case, kind: str, **training: Any) -> JobSpec:
    """The job of a case."""
    model = (
        {"component": "outs/Heads", "config": {"form": case.form}} if kind == "subclassed" else functional(case.form)
    )
    source = {"component": "outs/Targets", "config": {"form": case.y or case.form, "weights": case.weights}}
    return job(
        data={"source": source, "validation": TAIL, "pipeline": [{"op": "batch", "batch_size": 8}]},
        model=model, loss=case.loss, metrics=case.metrics, training={"epochs": 3, **training},
        optimizer={"component": "keras/SGD", "config": {"learning_rate": 0.01}},
    )  # fmt: skip


def ready(case: Case, kind: str, folder: Path) -> Trained:
    """Everything up to the first step."""
    return prepared(spec_of(case, kind), folder)


def compare(case: Case, kind: str, folder: Path) -> None:
    """Three epochs of the job and of `fit` from the same weights: logs, their names, and weights."""
    ours = ready(case, kind, folder)
    trained = ours.assembly.models["model"]
    start = [value.numpy() for value in trained.variables]
    ours.training.train()
    found = [value.numpy() for value in trained.variables]
    for variable, value in zip(trained.variables, start, strict=True):
        variable.assign(value)
    trained.compile(
        keras.optimizers.SGD(0.01), case.fit_loss, loss_weights=case.fit_weights,
        metrics=_named(case.fit_metrics), weighted_metrics=_named(case.fit_weighted),
    )  # fmt: skip
    assert ours.data.validation is not None
    history = trained.fit(
        ours.data.training.dataset(0),
        validation_data=ours.data.validation.dataset(0),
        epochs=3,
        shuffle=False,
        verbose=0,
    ).history
    assert set(history) == set(ours.training.counters.logs)
    for name, values in history.items():
        np.testing.assert_allclose(ours.history(name), values, rtol=2e-6, atol=1e-6, err_msg=name)
    for mine, theirs in zip(found, trained.variables, strict=True):
        np.testing.assert_allclose(mine, theirs.numpy(), atol=1e-6, err_msg=theirs.path)


def _named(metrics: Any) -> Any:
    """Instances, whose names are those of the spec's classes."""
    made = {"mae": M_MAE, "mse": M_MSE}
    return keras.tree.map_structure(lambda one: made[one]() if isinstance(one, str) else one, metrics)


EACH = [(name, kind) for name, case in CASES.items() for kind in case.kinds]
QUICK = [("one loss, a tuple", "functional"), ("by position", "subclassed"), ("by path", "functional")]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), QUICK)
def test_outputs_train_as_in_fit(tmp_path: Path, name: str, kind: str) -> None:
    compare(CASES[name], kind, tmp_path)


@pytest.mark.thorough
@pytest.mark.parametrize(("name", "kind"), [one for one in EACH if one not in QUICK])
def test_every_structure_trains_as_in_fit(tmp_path: Path, name: str, kind: str) -> None:
    compare(CASES[name], kind, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), [QUICK[1], QUICK[2], ("one loss, a weight", "functional")])
def test_the_saved_model_goes_on_in_fit(tmp_path: Path, name: str, kind: str) -> None:
    """Its losses, weights and metrics are compiled in the structure of its outputs."""
    ours = ready(CASES[name], kind, tmp_path)
    ours.training.train()
    file = tmp_path / "model.keras"
    save_keras(ours.assembly.models["model"], file, compile_arguments(ours.assembly, "model"))
    assert ours.data.validation is not None
    found = keras.models.load_model(file).evaluate(ours.data.validation.dataset(0), return_dict=True, verbose=0)
    logs = {name.removeprefix("val_"): v for name, v in ours.training.counters.logs.items() if name.startswith("val_")}
    assert found == pytest.approx(logs, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("plan", ["steps", "eager"])
def test_losses_of_outputs_go_on_after_a_pause(tmp_path: Path, plan: str) -> None:
    """From a checkpoint in the middle of an epoch; without a graph they are made by the first step."""
    case = CASES["by position"]
    spec = spec_of(case, "subclassed", checkpoint={"every_steps": 2, "keep": 9}, execution={"plan": plan})
    straight = trained(spec, tmp_path / "straight")
    again = trained(spec, tmp_path / "again", resume=straight.checkpoints()[0])
    assert again.training.counters.logs == straight.training.counters.logs
    assert again.history("mean_squared_error_loss") == straight.history("mean_squared_error_loss")


@pytest.mark.slow
def test_an_output_that_the_model_does_not_have(tmp_path: Path) -> None:
    case = Case("tuple", {"outputs": {"c": MSE}}, None)
    for kind, names in (("functional", "'a', 'b'"), ("subclassed", "'0', '1'")):
        with pytest.raises(JobFailure, match=f"losses name the output 'c'; the model's outputs are {names}"):
            ready(case, kind, tmp_path)
    case = Case("tuple", MSE, None, metrics=[MAE])
    with pytest.raises(JobFailure, match="metric 'mean_absolute_error' is for one output, and the model has several"):
        ready(case, "functional", tmp_path)
    named = [{"component": MAE, "config": {"name": "loss"}}]
    with pytest.raises(JobFailure, match="are both called 'a_loss'"):
        ready(Case("tuple", MSE, None, metrics={"outputs": {"a": named}}), "functional", tmp_path)
