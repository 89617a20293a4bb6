"""Which of a monitored value's epochs is the best: what the metric declares, as in Keras; never what it is called."""

import inspect
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import pytest
from keras.src.trainers.compile_utils import MetricsList

from tapeworks import component
from tapeworks.components.loading import load_components
from tapeworks.components.registry import registry
from tapeworks.errors import ComponentError, JobFailure
from tapeworks.spec.references import Kind
from tapeworks_workers.engine.step.assembly import assemble
from tapeworks_workers.engine.training.monitor_direction import Directions
from tests.support.paths import LAB
from tests.support.trainings import BATCH, attempt, job, numbers, prepared, trained
from tests.workers.engine.conftest import ELEMENT

load_components([LAB / "monitor_parts.py", LAB / "epoch_parts.py"])

VALIDATED = {"validation": 0.25, "pipeline": [{**BATCH, "batch_size": 16}]}
ONE_HOT = {"validation": 0.25, "source": numbers(form="onehot"), "pipeline": [{**BATCH, "batch_size": 16}]}
ON_ONE_HOT = {"component": "keras/CategoricalCrossentropy", "config": {"from_logits": True}}
MACRO = {"component": "macro_f_beta", "config": {"classes": 3}}
F_BETA = {"component": "keras/FBetaScore", "config": {"average": None}}
SLOWLY = {"component": "keras/SGD", "config": {"learning_rate": 0.05}}

RISING = {
    "macro_f_beta": {"metrics": [MACRO], "data": VALIDATED},
    "fbeta_score_0": {"metrics": [F_BETA], "data": ONE_HOT, "loss": ON_ONE_HOT},
    "declared_dice": {"metrics": ["monitored/declared_dice"], "data": VALIDATED},
}


@pytest.mark.parametrize("name", RISING)
def test_the_best_epoch_of_a_rising_metric_is_kept(name: str, tmp_path: Path) -> None:
    monitor = f"val_{name}"
    training = {
        "epochs": 5,
        "early_stopping": {"monitor": monitor, "patience": 5},
        "checkpoint": {"best": {"monitor": monitor}},
    }
    result = trained(job(optimizer=SLOWLY, training=training, **RISING[name]), tmp_path)
    curve = result.history(monitor)
    assert len(set(curve)) > 1
    assert result.training.counters.logs[monitor] == max(curve)
    assert [fact["best"]["value"] for fact in result.records("facts") if "best" in fact][-1] == max(curve)
    assert f'training.early_stopping monitors {monitor} with mode "max", declared by the metric' in str(
        result.events("note")
    )
    told = [fact["diagnostics"]["monitors"] for fact in result.records("facts") if "monitors" in str(fact)][-1]
    expected = {"monitor": monitor, "mode": "max"}
    assert told == {"training.early_stopping": expected, "training.checkpoint.best": expected}


def test_without_a_declared_direction_the_job_is_refused_before_it_trains(tmp_path: Path) -> None:
    spec = job(
        data=VALIDATED, metrics=["monitored/dice"], training={"early_stopping": {"monitor": "val_dice", "patience": 5}}
    )
    frames = attempt(spec, tmp_path / "auto")
    failure = frames[-1]["failure"]
    assert failure["code"] == "invalid_spec"
    assert failure["message"].startswith("training.early_stopping.monitor is 'val_dice' with mode \"auto\"")
    assert '"mode": "max"' in failure["hint"]
    assert not [frame for frame in frames if frame.get("record", {}).get("record") == "metric"]
    document = spec.document()
    document["training"]["early_stopping"]["mode"] = "max"  # as the hint says
    assert attempt(document, tmp_path / "max")[-1]["outcome"] == "succeeded"


def test_every_metric_of_keras_means_what_keras_makes_of_it(tmp_path: Path) -> None:
    """Also that Keras refuses where it is refused here."""
    given: dict[str, dict[str, Any]] = {
        "MeanIoU": {"num_classes": 3}, "IoU": {"num_classes": 3, "target_class_ids": [0]},
        "BinaryIoU": {}, "OneHotMeanIoU": {"num_classes": 3},
        "OneHotIoU": {"num_classes": 3, "target_class_ids": [0]}, "MeanRelativeError": {"normalizer": [1.0]},
        **{name: {"specificity": 0.5} for name in ("SensitivityAtSpecificity",)},
        "SpecificityAtSensitivity": {"sensitivity": 0.5}, "PrecisionAtRecall": {"recall": 0.5},
        "RecallAtPrecision": {"precision": 0.5},
    }  # fmt: skip
    names = [
        name for name, cls in vars(keras.metrics).items()
        if inspect.isclass(cls) and name not in ("Metric", "MeanMetricWrapper", "Mean", "Sum")
    ]  # fmt: skip
    names = [name for name in names if name.lower() not in {other.lower() for other in names if other < name}]
    metrics = [{"component": f"keras/{name}", "config": {**given.get(name, {}), "name": name}} for name in names]
    assembly = assemble(job(metrics=metrics), ELEMENT)
    ours = Directions(assembly, (), None)
    assert len(names) > 33
    for item in assembly.all_metrics():
        stopping = keras.callbacks.EarlyStopping(monitor=f"val_{item.name}")
        stopping.set_model(SimpleNamespace(metrics=[MetricsList([item.metric])]))
        try:
            stopping._set_monitor_op()
            theirs: str | None = "max" if "greater" in str(stopping.monitor_op) else "min"
        except ValueError:
            theirs = None
        try:
            mode: str | None = ours.of(f"val_{item.name}").mode
        except JobFailure:
            mode = None
        assert mode == theirs, item.name


PARTS: dict[str, tuple[dict[str, Any], str | None]] = {
    "val_loss": ({}, "min"),
    "val_as_keras": ({"metrics": ["monitored/AsKeras"]}, "max"),
    "val_mine": ({"metrics": [{"component": "monitored/Psnr", "config": {"name": "mine"}}]}, "max"),
    "confidence_high": ({"metrics": ["monitored/Both"]}, "max"),
    "confidence_low": ({"metrics": ["monitored/Both"]}, "min"),
    "confidence_other": ({"metrics": ["monitored/Both"]}, None),
    "as_keras_at_1": ({"metrics": ["monitored/AsKeras", "monitored/Psnr", "monitored/At"]}, "min"),
    "val_area": ({"evaluators": ["monitored/Values"]}, "max"),
    "val_volume": ({"evaluators": ["monitored/Values"]}, None),
    "share": ({"step": "monitored/Step"}, "max"),
    "size": ({"step": "monitored/Step"}, None),
    "gradient_norm": ({"gradients": ["gradient_norm"]}, None),
}


@pytest.mark.slow
@pytest.mark.parametrize("monitor", PARTS)
def test_where_a_direction_comes_from(monitor: str, tmp_path: Path) -> None:
    parts, mode = PARTS[monitor]
    spec = job(data=VALIDATED, **parts)
    if mode is None:
        with pytest.raises(JobFailure, match="no component declares"):
            prepared(spec, tmp_path).assembly.run.direction(monitor)
    else:
        assert prepared(spec, tmp_path).assembly.run.direction(monitor) == mode


def test_each_output_has_its_loss_and_its_metrics(tmp_path: Path) -> None:
    losses = {"kind": "keras/SparseCategoricalCrossentropy", "sum": "keras/MeanSquaredError"}
    x = keras.Input((4,))
    model = keras.Model(x, {"kind": keras.layers.Dense(3)(x), "sum": keras.layers.Dense(1)(x)})
    config = json.loads(model.to_json())["config"]
    spec = job(
        data={**VALIDATED, "source": numbers(form="two outputs")},
        model={"component": "functional", "config": {"config": config}},
        loss={"outputs": losses},
        metrics={"model": {"outputs": {"kind": ["keras/SparseCategoricalAccuracy"], "sum": ["keras/R2Score"]}}},
    )
    directions = Directions(prepared(spec, tmp_path).assembly, (), None)
    assert directions.of("val_kind_loss").mode == "min"
    assert directions.of("val_kind_sparse_categorical_accuracy").mode == "max"
    assert directions.of("val_sum_r2_score").mode == "max"


@pytest.mark.slow
def test_callbacks_resolve_it_too_and_before_training(tmp_path: Path) -> None:
    reducing = {"component": "reduce_learning_rate", "config": {"monitor": "val_macro_f_beta", "patience": 1}}
    asking = {"component": "monitored/Asks", "config": {"monitor": "val_macro_f_beta"}}
    result = trained(
        job(data=VALIDATED, metrics=[MACRO], callbacks=[reducing, asking], optimizer=SLOWLY, training={"epochs": 4}),
        tmp_path / "known",
    )
    curve = result.history("val_macro_f_beta")
    rises = sum(after <= max(curve[:at]) + 1e-4 for at, after in enumerate(curve) if at)
    assert str(result.events("note")).count("set the learning rate") == rises  # patience 1: one at each that is no rise
    assert 'callbacks/0 monitors val_macro_f_beta with mode "max"' in str(result.events("note"))
    assert (tmp_path / "known" / "artifacts" / "asked-1.txt").read_text() == "True"
    for component_name in ("reduce_learning_rate", "monitored/Asks"):
        unknown = {"component": component_name, "config": {"monitor": "val_dice"}}
        spec = job(data=VALIDATED, metrics=["monitored/dice"], callbacks=[unknown])
        with pytest.raises(
            JobFailure, match=rf"callbacks/0, '{component_name}': monitor is 'val_dice'.*no component declares"
        ) as no:
            prepared(spec, tmp_path / "unknown")
        assert '"mode": "max"' in no.value.hint
        unknown["config"]["mode"] = "max"
        prepared(job(data=VALIDATED, metrics=["monitored/dice"], callbacks=[unknown]), tmp_path / "known")


def test_only_a_metric_has_parts(tmp_path: Path) -> None:
    stopping = {"early_stopping": {"monitor": "val_loss_0", "mode": "max"}}
    with pytest.raises(JobFailure, match="'val_loss_0', which is not reported"):
        prepared(job(data=VALIDATED, training=stopping), tmp_path)


def test_the_catalogue_knows_which_function_metrics_declare_none() -> None:
    for name, undirected in (("dice", "dice"), ("declared_dice", None), ("AsKeras", None)):
        assert registry.get(Kind.METRIC, f"monitored/{name}").entry().undirected == undirected


def test_a_wrong_declaration_is_refused(tmp_path: Path) -> None:
    stopping = {"early_stopping": {"monitor": "val_area"}}
    with pytest.raises(JobFailure, match=r"monitored/Wrong: directions holds 'up'; a direction is .min. or .max."):
        prepared(job(data=VALIDATED, evaluators=["monitored/Wrong"], training=stopping), tmp_path)
    for direction, kind in (("up", "metric"), ("max", "loss"), ({}, "metric"), ({"a": 3}, "metric")):
        with pytest.raises(ComponentError, match="direction"):
            component("monitored/never", kind=kind, direction=direction)(lambda y_true, y_pred: y_pred)  # type: ignore[arg-type]
