"""The step and the loop: how data is walked through, what is reported, and what goes wrong is told."""

import json
import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tapeworks.errors import JobFailure
from tapeworks_workers.engine.step import assembly as assembling
from tapeworks_workers.engine.training.control import Control, Interrupted
from tapeworks_workers.engine.training.early_stopping import Monitor
from tests.support.trainings import BATCH, CROSS_ENTROPY, SHUFFLE, Trained, job, mlp, numbers, prepared, trained


@pytest.mark.parametrize("plan", ["loop", "steps"])
def test_one_trace_with_a_short_last_batch(tmp_path: Path, plan: str) -> None:
    result = trained(job(data={"source": numbers(95)}, training={"epochs": 3, "execution": {"plan": plan}}), tmp_path)
    assert result.events("trace") == [{"function": "training", "count": 1, "reason": "first trace"}]
    assert result.training.counters.step == 30
    assert int(result.assembly.run.step) == 30


def test_plans_train_the_same(tmp_path: Path) -> None:
    curves = []
    for plan in ("loop", "steps", "eager"):
        execution = {"plan": plan, "steps_per_call": 4}
        spec = job(data={"source": numbers(50), "pipeline": [SHUFFLE, BATCH]}, training={"execution": execution})
        curves.append(trained(spec, tmp_path / plan).history("loss"))
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-6)
    np.testing.assert_allclose(curves[2], curves[0], rtol=1e-6)


@pytest.mark.parametrize("form", ["generator", "unknown"])
def test_data_of_unknown_size_ends_where_it_ends(tmp_path: Path, form: str) -> None:
    model = mlp()
    result = trained(job(data={"source": numbers(45, form), "validation": 0.2}, model=model), tmp_path)
    first, second = result.events("epoch")
    assert second["step"] == 2 * first["step"]
    assert result.training.counters.steps_per_epoch == first["step"]
    assert result.records("facts")[-1]["progress"]["total_steps"] == second["step"]


@pytest.mark.parametrize("plan", ["loop", "steps"])
def test_epochs_cut_across_passes(tmp_path: Path, plan: str) -> None:
    execution = {"plan": plan}
    result = trained(job(training={"epochs": 3, "steps_per_epoch": 7, "execution": execution}), tmp_path)
    assert [event["step"] for event in result.events("epoch")] == [7, 14, 21]
    assert int(result.assembly.run.step) == 21  # what ends a pass is no step
    endless = {"pipeline": [{"op": "repeat"}, BATCH]}
    result = trained(job(data=endless, training={"epochs": None, "max_steps": 25, "steps_per_epoch": 10}), tmp_path)
    assert [event["step"] for event in result.events("epoch")] == [10, 20, 25]


def test_reports_and_progress(tmp_path: Path) -> None:
    result = trained(job(training={"epochs": 2, "report_every_steps": 4}), tmp_path)
    assert [record["step"] for record in result.records("metric")] == [4, 8, 10, 14, 18, 20]
    assert result.events("epoch")[0].keys() == {"epoch", "step", "logs", "seconds"}
    last = result.records("facts")[-1]["progress"]
    assert (last["step"], last["total_steps"], last["epoch"], last["epochs"]) == (20, 20, 2, 2)
    assert last["examples_per_second"] > 0
    assert last["eta_seconds"] == 0


def test_early_stopping_restores_the_best(tmp_path: Path) -> None:
    stopping = {"monitor": "val_loss", "patience": 2}
    sgd = {"component": "keras/SGD", "config": {"learning_rate": 3.0}}  # too fast: it gets worse and better at random
    spec = job(data={"validation": 0.3}, optimizer=sgd, training={"epochs": 50, "early_stopping": stopping})
    result = trained(spec, tmp_path)
    curve = result.history("val_loss")
    best = int(np.argmin(curve))
    assert len(curve) == best + 1 + 2 < 50
    assert result.data.validation is not None
    again = runner_evaluation(result)
    assert math.isclose(again["val_loss"], curve[best], rel_tol=1e-5)
    assert [facts["best"]["epoch"] for facts in result.records("facts") if "best" in facts][-1] == best + 1


def runner_evaluation(result: Trained) -> dict[str, float]:
    from tapeworks_workers.engine.training.evaluation import Evaluation

    assert result.data.validation is not None
    return Evaluation(result.assembly, "loop", Control()).run(result.data.validation, "val_")


def test_a_stopped_training_is_told_as_done(tmp_path: Path) -> None:
    stopping = {"monitor": "loss", "mode": "max", "patience": 0}
    result = trained(job(training={"epochs": 50, "early_stopping": stopping}), tmp_path)
    last = [facts["progress"] for facts in result.records("facts") if "progress" in facts][-1]
    assert (last["step"], last["total_steps"], last["epoch"], last["eta_seconds"]) == (20, 20, 2, 0)
    (note,) = result.events("note")
    assert note["message"].startswith("Early stopping after epoch 2; loss was best in epoch 1: 1.")


def test_a_value_that_is_never_finite_is_no_best() -> None:
    monitor = Monitor("val_loss", mode="min", patience=2, place="here")
    assert [monitor.improved(epoch, {"val_loss": math.nan}) for epoch in (1, 2)] == [False, False]
    assert monitor.exhausted
    assert str(monitor) == "val_loss was never finite"


def test_a_monitor_that_is_not_reported(tmp_path: Path) -> None:
    accuracy = ["keras/SparseCategoricalAccuracy"]
    best = {"best": {"monitor": "val_accuracy"}}
    told = r"'val_accuracy', which is not reported; there are: loss, sparse_categorical_accuracy, val_loss, val_sparse"
    with pytest.raises(JobFailure, match=told):  # before anything is trained
        prepared(job(data={"validation": 0.2}, metrics=accuracy, training={"checkpoint": best}), tmp_path)
    with pytest.raises(JobFailure, match=r"'val_loss', which is not reported; there are: loss") as caught:
        prepared(job(training={"early_stopping": {}}), tmp_path)
    assert caught.value.code == "invalid_spec"
    with pytest.raises(JobFailure, match="which is not reported"):
        trained(job(training={"early_stopping": {}, "execution": {"plan": "eager"}}), tmp_path)
    of_one_class = {"monitor": "val_f1_score_1", "mode": "max"}
    f1 = [{"component": "keras/F1Score", "config": {}}]
    data = {"source": numbers(form="onehot"), "validation": 0.2}
    loss = {"component": "keras/CategoricalCrossentropy", "config": {"from_logits": True}}
    prepared(job(data=data, loss=loss, metrics=f1, training={"early_stopping": of_one_class}), tmp_path)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_value_that_is_not_finite_names_its_step(tmp_path: Path, what: str) -> None:
    step = {"component": "lab/Diverging", "config": {"at": 17, "what": what}}
    with pytest.raises(JobFailure, match=r"^not finite at step 17: loss is nan\.") as caught:
        trained(job(step=step, loss=None, training={"epochs": 5}), tmp_path)
    assert caught.value.code == "non_finite"


@pytest.mark.parametrize("label", [7, -1])
def test_a_label_out_of_range(tmp_path: Path, label: int) -> None:
    from tapeworks_workers.engine.diagnostics.classify import classify

    spec = job(data={"source": numbers(100, highest=label)})
    with pytest.raises((JobFailure, tf.errors.InvalidArgumentError)) as caught:
        trained(spec, tmp_path)
    failure = classify(caught.value)
    assert failure.code == "invalid_data"
    assert f"label {label}" in failure.message


def test_ignored_labels_may_lie_outside(tmp_path: Path) -> None:
    loss = {"component": CROSS_ENTROPY["component"], "config": {"from_logits": True, "ignore_class": -1}}
    trained(job(data={"source": numbers(100, highest=-1)}, loss=loss), tmp_path)


def test_a_loss_that_broadcasts(tmp_path: Path) -> None:
    data = {"source": numbers(form="regression")}
    with pytest.raises(JobFailure, match=r"\(n,\) against outputs of shape \(n, 1\)") as caught:
        trained(job(data=data, model=mlp(1), loss="lab/SquaredDifference"), tmp_path)
    assert caught.value.code == "broadcast_loss"
    trained(job(data=data, model=mlp(1), loss="keras/MeanSquaredError"), tmp_path)  # Keras' own squeezes


def test_gradient_transforms_in_the_specs_order(tmp_path: Path) -> None:
    twice = [
        {"component": "lab/Add", "config": {"amount": 1.0}},
        {"component": "lab/Times", "config": {"factor": 0.0}},
        {"component": "lab/Add", "config": {"amount": 2.0}, "optimizer": "model"},
    ]
    sgd = {"component": "keras/SGD", "config": {"learning_rate": 0.5}}
    result = prepared(job(optimizer=sgd, gradients=twice, training={"epochs": 1}), tmp_path)
    before = [variable.numpy() for variable in result.assembly.models["model"].trainable_variables]
    result.training.train()
    after = [variable.numpy() for variable in result.assembly.models["model"].trainable_variables]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_allclose(new, old - 10 * 0.5 * 2.0, rtol=1e-5)
    assert [int(v) for name, v in result.values().items() if name.endswith("/calls")] == [10, 10]


def test_clipping_bounds_the_norm(tmp_path: Path) -> None:
    clip = [{"component": "clip_by_global_norm", "config": {"max_norm": 1e-3}}]
    sgd = {"component": "keras/SGD", "config": {"learning_rate": 1.0}}
    result = prepared(job(optimizer=sgd, gradients=clip, training={"epochs": None, "max_steps": 1}), tmp_path)
    before = [variable.numpy() for variable in result.assembly.models["model"].trainable_variables]
    result.training.train()
    after = [variable.numpy() for variable in result.assembly.models["model"].trainable_variables]
    moved = math.sqrt(sum(float(((new - old) ** 2).sum()) for old, new in zip(before, after, strict=True)))
    assert math.isclose(moved, 1e-3, rel_tol=1e-3)


def gan(**training: Any) -> Any:
    return job(
        model=None, optimizer=None, loss=None, step="lab/Gan",
        models={"discriminator": mlp(1, dropout=0.2), "generator": mlp(4)},
        optimizers={"generator": "keras/Adam", "discriminator": "keras/RMSprop"},
        training={"epochs": 1, **training},
    )  # fmt: skip


def test_two_optimizers_noise_and_when(tmp_path: Path) -> None:
    result = trained(gan(), tmp_path)
    (logs,) = [event["logs"] for event in result.events("epoch")]
    assert logs.keys() == {"d_loss", "g_loss", "changed"}
    assert logs["changed"] == 0.5
    assert list(result.assembly.models) == ["generator", "discriminator"]  # as the step declares, not as JSON has it
    values = result.values()
    assert int(values["optimizers/generator/0/adam/iteration"]) == 5
    assert int(next(v for n, v in values.items() if n.startswith("optimizers/discriminator/0/"))) == 10
    assert "step/average" in values


def test_named_inputs_go_where_they_belong(tmp_path: Path) -> None:
    inputs = {name: keras.Input((1,), name=name) for name in ("height", "age")}
    outputs = keras.layers.Dense(3)(keras.layers.Concatenate()([inputs["height"], inputs["age"]]))
    config = json.loads(keras.Model(inputs, outputs).to_json())["config"]
    spec = job(data={"source": numbers(form="named")}, model={"component": "functional", "config": {"config": config}})
    result = prepared(spec, tmp_path)
    assert set(result.assembly.input_specs["model"]) == {"height", "age"}
    assert set(result.assembly.element_spec[0]) == {"height", "age", "noise"}
    result.training.train()


def test_metrics_with_one_name_get_numbers(tmp_path: Path) -> None:
    """As in `fit`; a weighted one is called so."""
    accuracy = "keras/SparseCategoricalAccuracy"
    spec = job(
        data={"source": numbers(form="weighted")},
        metrics=[accuracy, {"component": accuracy, "weighted": True}, accuracy],
        training={"epochs": 1},
    )
    logs = trained(spec, tmp_path).events("epoch")[0]["logs"]
    name = "sparse_categorical_accuracy"
    assert logs.keys() == {"loss", name, f"{name}_1", f"weighted_{name}"}
    assert logs[name] == logs[f"{name}_1"] != logs[f"weighted_{name}"]


def test_a_metric_that_is_built_by_its_first_update(tmp_path: Path) -> None:
    spec = job(
        data={"source": numbers(form="onehot"), "validation": 0.2},
        loss={"component": "keras/CategoricalCrossentropy", "config": {"from_logits": True}},
        metrics=[{"component": "keras/F1Score", "config": {"average": "macro"}}, "keras/R2Score"],
    )
    result = trained(spec, tmp_path)
    assert 0 < result.history("f1_score")[-1] < 1
    assert result.history("r2_score")[-1] < 1
    assert [event["count"] for event in result.events("trace")] == [1, 1]


def test_a_metric_with_a_value_for_each_class(tmp_path: Path) -> None:
    loss = {"component": "keras/CategoricalCrossentropy", "config": {"from_logits": True}}
    result = trained(job(data={"source": numbers(form="onehot")}, loss=loss, metrics=["keras/F1Score"]), tmp_path)
    assert result.events("epoch")[0]["logs"].keys() == {"loss", "f1_score_0", "f1_score_1", "f1_score_2"}


def test_a_metric_that_computes_its_result_in_numpy(tmp_path: Path) -> None:
    assert trained(job(metrics=["lab/Largest"]), tmp_path).history("largest")[-1] > 0


def test_losses_and_metrics_by_output(tmp_path: Path) -> None:
    x = keras.Input((4,), name="x")
    outputs = {"kind": keras.layers.Dense(3, name="kind")(x), "sum": keras.layers.Dense(1, name="sum")(x)}
    config = json.loads(keras.Model(x, outputs).to_json())["config"]
    mse = {"component": "keras/MeanSquaredError", "weight": 0.5}
    spec = job(
        data={"source": numbers(form="two outputs")},
        model={"component": "functional", "config": {"config": config}},
        loss={"outputs": {"kind": CROSS_ENTROPY, "sum": mse}},
        metrics={"outputs": {"kind": ["keras/SparseCategoricalAccuracy"], "sum": ["keras/MeanSquaredError"]}},
        optimizer={"component": "keras/SGD", "config": {"learning_rate": 0.0}},
    )
    result = trained(spec, tmp_path)
    logs = result.events("epoch")[0]["logs"]
    names = {"kind_loss", "sum_loss", "kind_sparse_categorical_accuracy", "sum_mean_squared_error"}
    assert logs.keys() == {"loss", *names}
    x_all, y_all = next(iter(result.data.training.dataset(0).unbatch().batch(1000)))
    found = result.assembly.models["model"](x_all)
    expected = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(y_all["kind"], found["kind"])
    expected += 0.5 * keras.losses.MeanSquaredError()(y_all["sum"], found["sum"])
    assert math.isclose(logs["loss"], float(expected), rel_tol=1e-5)


@pytest.mark.parametrize(("command", "outcome"), [("cancel", "cancelled"), ("pause", "paused"), ("drain", "released")])
def test_commands_are_taken_between_calls(tmp_path: Path, command: str, outcome: str) -> None:
    control = Control()
    result = prepared(job(training={"epochs": 1000}), tmp_path, control=control)
    control.on_message({"type": "command", "command": "checkpoint"})
    control.on_message({"type": "command", "command": command})
    with pytest.raises(Interrupted) as caught:
        result.training.train()
    assert caught.value.outcome == outcome
    assert len(result.checkpoints()) == 2
    assert result.training.counters.step < 20
    assert result.records("facts")[-1]["progress"]["step"] == result.training.counters.step


def test_a_job_that_takes_too_long(tmp_path: Path) -> None:
    with pytest.raises(JobFailure, match="timeout_seconds") as caught:
        trained(job(training={"epochs": 100_000}), tmp_path, control=Control(0.5))
    assert caught.value.code == "timeout"


def test_moving_averages_are_what_is_validated_and_exported(tmp_path: Path) -> None:
    ema = {"component": "keras/SGD", "config": {"learning_rate": 0.1, "use_ema": True, "ema_momentum": 0.5}}
    result = trained(job(data={"validation": 0.3}, optimizer=ema), tmp_path)
    averages = result.assembly.optimizers["model"]._model_variables_moving_average
    for variable, average in zip(result.assembly.models["model"].trainable_variables, averages, strict=True):
        np.testing.assert_array_equal(variable.numpy(), average.numpy())
    assert math.isclose(runner_evaluation(result)["val_loss"], result.history("val_loss")[-1], rel_tol=1e-6)
    (note,) = result.events("note")
    assert "val_ values are measured on the moving averages" in note["message"]


@pytest.mark.parametrize("precision", ["float64", "mixed_bfloat16"])
def test_precisions(tmp_path: Path, precision: str) -> None:
    cast = [{"op": "cast", "dtype": "float64"}] if precision == "float64" else []
    spec = job(data={"pipeline": [*cast, BATCH]}, training={"precision": precision})
    try:
        result = trained(spec, tmp_path)
    finally:
        assembling.reset(job())
    dtypes = {variable.dtype for variable in result.assembly.models["model"].trainable_variables}
    assert dtypes == {"float64" if precision == "float64" else "float32"}
    assert result.history("loss")[-1] < 2
