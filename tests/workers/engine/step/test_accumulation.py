"""`training.gradient_accumulation`: as good as the large batch, counted by calls, kept in checkpoints."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tapeworks import TrainingStep, component
from tapeworks.errors import JobFailure
from tapeworks.spec.job_spec import JobSpec
from tapeworks.spec.references import Kind
from tapeworks_workers.engine.checkpoints.snapshot import read_values, write_values
from tapeworks_workers.engine.factory.factory import build
from tapeworks_workers.engine.step import assembly as assembling
from tapeworks_workers.engine.step.assembly import Assembly, assemble
from tapeworks_workers.engine.step.compiled_step import compile_train_step
from tapeworks_workers.engine.step.state import restore, snapshot
from tests.support.trainings import job, mlp, numbers, prepared, trained

ELEMENT = (tf.TensorSpec([None, 4], tf.float32), tf.TensorSpec([None], tf.int64))
ACCURACY = ["keras/SparseCategoricalAccuracy"]
RANDOM = np.random.RandomState(1)
BATCHES = [(RANDOM.normal(size=(10, 4)).astype("float32"), RANDOM.randint(0, 3, 10)) for _ in range(6)]


def embedded(optimizers: bool) -> dict[str, Any]:
    """A table, so that one gradient is tf.IndexedSlices with repeated rows; one optimizer, or one for each layer."""
    layers = [
        {"component": "keras/Embedding", "config": {"input_dim": 30, "output_dim": 4, "name": "table"}},
        {"component": "keras/Flatten", "config": {"name": "flat"}},
        {"component": "keras/Dense", "config": {"units": 3, "name": "head"}},
    ]
    adam: dict[str, Any] = {"component": "keras/Adam", "config": {"learning_rate": 0.05}}
    sgd: dict[str, Any] = {"component": "keras/SGD", "config": {"learning_rate": 0.5, "momentum": 0.9}}
    parts = {
        "table": {**adam, "variables": [{"model": "model", "layers": ["table"]}]},
        "head": {**sgd, "variables": [{"model": "model", "layers": ["head"]}]},
    }
    model = {"component": "sequential", "config": {"layers": layers}}
    if optimizers:
        return {"model": model, "optimizer": None, "optimizers": parts}
    return {"model": model, "optimizer": adam}


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "several"), [("float32", False), ("float32", True), ("float64", True)])
def test_it_equals_the_large_batch(tmp_path: Path, precision: str, several: bool) -> None:
    clip = [{"component": "clip_by_global_norm", "config": {"max_norm": 0.3}}]

    def result(batch: int, calls: int) -> Any:
        data = {"source": numbers(60, "ids"), "pipeline": [{"op": "batch", "batch_size": batch}]}
        training = {"gradient_accumulation": calls, "precision": precision, "epochs": 3}
        spec = job(data=data, metrics=ACCURACY, gradients=clip, training=training, **embedded(several))
        return trained(spec, tmp_path / f"{batch}")

    try:
        small, large = result(10, 3), result(30, 1)
    finally:
        assembling.reset(job())
    assert [int(one.iterations) for one in small.assembly.optimizers.values()] == [6] * (1 + several)
    for name in ("loss", "sparse_categorical_accuracy"):
        np.testing.assert_allclose(small.history(name), large.history(name), atol=1e-6)
    for mine, theirs in zip(
        small.assembly.models["model"].variables, large.assembly.models["model"].variables, strict=True
    ):
        assert mine.dtype == precision
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), atol=1e-6)


def stepped(assembly: Assembly, batches: Any) -> list[float]:
    """`changed` of each step."""
    step = compile_train_step(assembly)
    return [float(step(batch).get("changed", 0.0)) for batch in batches]


@pytest.mark.slow
def test_a_checkpoint_in_the_middle_holds_the_sums(tmp_path: Path) -> None:
    spec = job(training={"gradient_accumulation": 3})
    first = assemble(spec, ELEMENT)
    stepped(first, BATCHES[:4])
    write_values(snapshot(first, {}), tmp_path)
    stepped(first, BATCHES[4:])
    second = assemble(spec, ELEMENT)
    restore(second, read_values(tmp_path))
    assert int(second.variables()["run/accumulated/model/calls"]) == 1
    stepped(second, BATCHES[4:])
    for mine, theirs in zip(second.models["model"].get_weights(), first.models["model"].get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@component("lab/Skipping")
class Skipping(TrainingStep):
    """Every other step says `when=False`."""

    def train_step(self, batch: Any, run: Any) -> dict[str, Any]:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(run.models["model"](batch[0], training=True) ** 2)
        changed = run.minimize("model", loss, tape, when=run.step % 2 == 0)
        return {"loss": loss, "changed": tf.cast(changed, tf.float32)}


@component("lab/UnevenLosses")
class UnevenLosses(TrainingStep):
    """Two losses for one optimizer that reach different variables."""

    def train_step(self, batch: Any, run: Any) -> dict[str, Any]:
        model = run.models["model"]
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model(batch[0], training=True) ** 2)
        run.minimize("model", loss, tape)
        with tf.GradientTape() as tape:
            only = tf.reduce_sum(model.trainable_variables[0].value ** 2)
        run.minimize("model", only, tape)
        return {"loss": loss}


def lab(step: str, **training: Any) -> JobSpec:
    return job(step=step, loss=None, model=mlp(), training=training)


@pytest.mark.slow
def test_a_call_that_is_held_back_does_not_count() -> None:
    ours = assemble(lab("lab/Skipping", gradient_accumulation=2), ELEMENT)
    assert stepped(ours, BATCHES) == [0, 0, 1, 0, 0, 0]
    assert int(ours.optimizers["model"].iterations) == 1
    assert int(ours.variables()["run/accumulated/model/calls"]) == 1
    plain = assemble(lab("lab/Skipping"), ELEMENT)
    assert stepped(plain, BATCHES) == [1, 0, 1, 0, 1, 0]


def test_losses_that_reach_different_variables_are_told() -> None:
    with pytest.raises(JobFailure, match=r"one loss given to optimizer 'model' reaches .*, another does not"):
        compile_train_step(assemble(lab("lab/UnevenLosses", gradient_accumulation=2), ELEMENT))
    compile_train_step(assemble(lab("lab/UnevenLosses"), ELEMENT))


@pytest.mark.slow
def test_keras_own_accumulation_is_what_fit_does(tmp_path: Path) -> None:
    """Its schedule counts batches, averages and constraints follow each batch: none is so with the job's own."""
    schedule = {"component": "keras/ExponentialDecay"}
    schedule |= {"config": {"initial_learning_rate": 0.1, "decay_steps": 2, "decay_rate": 0.5}}
    config = {"learning_rate": schedule, "gradient_accumulation_steps": 3, "use_ema": True, "ema_momentum": 0.8}
    optimizer = {"component": "keras/Adam", "config": config}
    unit_norm = {"component": "keras/UnitNorm", "config": {"axis": 0}}
    dense = {"component": "keras/Dense", "config": {"units": 3, "kernel_constraint": unit_norm}}
    model = {"component": "sequential", "config": {"layers": [dense]}}
    ours = prepared(job(model=model, optimizer=optimizer, training={"epochs": 2}), tmp_path)
    theirs = keras.models.clone_model(ours.assembly.models["model"])
    theirs.set_weights(ours.assembly.models["model"].get_weights())
    theirs.compile(build(optimizer, Kind.OPTIMIZER), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    fitted = theirs.fit(ours.data.training.dataset(0), epochs=2, shuffle=False, verbose=0)
    ours.training.train()
    np.testing.assert_allclose(ours.history("loss"), fitted.history["loss"], atol=1e-6)
    for mine, other in zip(ours.assembly.models["model"].variables, theirs.variables, strict=True):
        np.testing.assert_allclose(mine.numpy(), other.numpy(), atol=1e-6)
