"""Precisions: what is computed in which dtype, and loss scaling in mixed_float16."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tapeworks import TrainingStep, component
from tapeworks.errors import JobFailure
from tapeworks.spec.job_spec import JobSpec
from tapeworks_workers.engine.export.model_files import compile_arguments, save_keras
from tapeworks_workers.engine.step import assembly as assembling
from tapeworks_workers.engine.step.assembly import assemble
from tapeworks_workers.engine.step.compiled_step import compile_train_step
from tests.support.trainings import job, prepared, trained
from tests.workers.engine import conftest as exporting

ELEMENT = (tf.TensorSpec([None, 4], tf.float32), tf.TensorSpec([None], tf.int64))
BATCH = (np.random.RandomState(2).normal(size=(10, 4)).astype("float32"), np.arange(10) % 3)
SCALE, GOOD = "run/loss_scale/model/scale", "run/loss_scale/model/good_steps"


@pytest.fixture(autouse=True)
def _float32_again() -> Iterator[None]:
    yield
    assembling.reset(job())


@component("lab/Overflowing")
class Overflowing(TrainingStep):
    """A tiny loss; from step `at` for `steps` steps its gradient, or the loss itself, is infinite."""

    def __init__(self, at: int = 1000, steps: int = 1, what: str = "gradient", factor: float = 1.0) -> None:
        self.at, self.steps, self.what, self.factor = at, steps, what, factor

    def build(self, run: Any) -> None:
        self.seen = tf.Variable(tf.zeros(run.models["model"].trainable_variables[-2].shape), trainable=False)

    def train_step(self, batch: Any, run: Any) -> dict[str, Any]:
        bad = tf.where((run.step + 1 >= self.at) & (run.step + 1 < self.at + self.steps), np.float32("inf"), 0.0)
        with tf.GradientTape() as tape:
            y_pred = run.models["model"](batch[0], training=True)
            loss = self.factor * tf.reduce_mean(tf.cast(y_pred, tf.float32) ** 2)
            if self.what == "loss":
                loss += bad
        gradients = run.gradients("model", loss, tape)
        self.seen.assign(gradients[-2])
        if self.what == "gradient":
            gradients = [one + bad for one in gradients]
        changed = run.apply("model", gradients)
        return {"changed": tf.cast(changed, tf.float32)}


def overflowing(precision: str = "mixed_float16", training: Any = None, **config: Any) -> JobSpec:
    step = {"component": "lab/Overflowing", "config": config}
    sgd = {"component": "keras/SGD", "config": {"learning_rate": 0.01}}
    return job(step=step, loss=None, optimizer=sgd, training={"precision": precision, **(training or {})})


@pytest.mark.slow
def test_scaling_saves_gradients_that_float16_cannot_hold() -> None:
    seen = {}
    for precision in ("float32", "mixed_float16"):
        ours = assemble(overflowing(precision, factor=1e-6), ELEMENT)
        compile_train_step(ours)(BATCH)
        seen[precision] = ours.step.seen.numpy()  # type: ignore[attr-defined]
    assert np.abs(seen["float32"]).max() < 1e-6, "float16 knows 6e-8 and its multiples down there"
    np.testing.assert_allclose(seen["mixed_float16"], seen["float32"], rtol=0.02, atol=1e-9)


@pytest.mark.slow
def test_an_overflow_is_skipped_and_halves_the_scale(tmp_path: Path) -> None:
    result = trained(overflowing(at=4, steps=2), tmp_path)
    first, second = result.events("epoch")
    assert first["logs"] == {"changed": pytest.approx(0.8), "loss_scale": 2.0**13}
    assert second["logs"] == {"changed": 1.0, "loss_scale": 2.0**13}
    values = result.values()
    assert int(values[GOOD]) == 15
    assert int(result.assembly.optimizers["model"].iterations) == 18


@pytest.mark.slow
def test_nothing_changes_in_a_step_that_overflows() -> None:
    ours = assemble(overflowing(at=2, training={"gradient_accumulation": 2}), ELEMENT)
    step = compile_train_step(ours)
    assert [float(step(BATCH)["changed"]) for _ in range(3)] == [0, 0, 1], "a call that was dropped does not count"
    before = ours.models["model"].get_weights()
    ours.run.counter.assign(1)
    step(BATCH)
    for old, new in zip(before, ours.models["model"].get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_two_thousand_good_steps_double_the_scale() -> None:
    ours = assemble(overflowing(), ELEMENT)
    step = compile_train_step(ours)
    ours.variables()[GOOD].assign(1998)
    step(BATCH)
    assert (float(ours.variables()[SCALE]), int(ours.variables()[GOOD])) == (2.0**15, 1999)
    step(BATCH)
    assert (float(ours.variables()[SCALE]), int(ours.variables()[GOOD])) == (2.0**16, 0)


@pytest.mark.slow
@pytest.mark.parametrize(("what", "step"), [("gradient", 5 + 15), ("loss", 5)])
def test_what_scaling_cannot_mend_stops_the_job(tmp_path: Path, what: str, step: int) -> None:
    spec = overflowing(at=5, steps=1000, what=what, training={"epochs": 5})
    with pytest.raises(JobFailure, match=f"not finite at step {step}: a gradient") as caught:
        trained(spec, tmp_path)
    assert caught.value.code == "non_finite"


@pytest.mark.slow
def test_a_job_in_float16_learns_and_reports_its_scale(tmp_path: Path) -> None:
    spec = job(training={"precision": "mixed_float16", "early_stopping": {"monitor": "loss"}}, data={"validation": 0.2})
    ours = prepared(spec, tmp_path)
    assert ours.assembly.models["model"].compute_dtype == "float16"
    ours.training.train()
    assert ours.history("loss")[1] < ours.history("loss")[0]
    assert ours.history("loss_scale") == [2.0**15] * 2
    assert "val_loss_scale" not in ours.events("epoch")[0]["logs"]
    assert {variable.dtype for variable in ours.assembly.models["model"].trainable_variables} == {"float32"}


@component("lab/Momentum")
class Momentum(keras.optimizers.Optimizer):
    """Written as Keras' own page shows: its build does not ask whether it was built."""

    def build(self, variables: Any) -> None:
        super().build(variables)
        self.momentums = [self.add_variable_from_reference(one, name="momentum") for one in variables]

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        momentum = self.momentums[self._get_variable_index(variable)]
        self.assign(momentum, 0.9 * momentum - learning_rate * gradient)
        self.assign_add(variable, momentum)


@pytest.mark.slow
def test_fit_goes_on_where_a_float16_job_ended(tmp_path: Path) -> None:
    optimizer = {"component": "lab/Momentum", "config": {"learning_rate": 0.05}}
    ours = assemble(job(optimizer=optimizer, training={"precision": "mixed_float16"}), ELEMENT)
    compile_train_step(ours)(BATCH)
    before = [variable.numpy() for variable in ours.optimizers["model"].variables]
    file = tmp_path / "model.keras"
    save_keras(ours.models["model"], file, compile_arguments(ours, "model"))
    for old, new in zip(before, ours.optimizers["model"].variables, strict=True):
        np.testing.assert_array_equal(old, new.numpy())
    assembling.reset(job())
    again = keras.models.load_model(file)
    assert isinstance(again.optimizer, keras.optimizers.LossScaleOptimizer)
    for old, new in zip(before, again.optimizer.inner_optimizer.variables, strict=True):
        np.testing.assert_array_equal(old, new.numpy())
    losses = again.fit(*BATCH, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert int(again.optimizer.inner_optimizer.iterations) == 6


@pytest.mark.slow
def test_a_mixed_model_reloads_equal(acme: Path, tmp_path: Path, verify: Callable[[str, Path], dict[str, Any]]) -> None:
    for precision in ("mixed_float16", "mixed_bfloat16"):
        assembly = exporting.trained(exporting.job(training={"precision": precision}))
        draft = exporting.exported(assembly, tmp_path / precision)
        assert draft.manifest["models"]["model"]["compute_dtype"] == precision.removeprefix("mixed_")
        report = verify("reload", draft.folder)
        assert report["ok"], report
        report = verify("certify", draft.folder)
        assert report["ok"], report
