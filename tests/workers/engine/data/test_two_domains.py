"""A step of one's own over two unpaired sources: what `zip` gives reaches the step, resumes, and is validated."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
import tensorflow as tf

from tapeworks import TrainingStep, component
from tests.support.trainings import BATCH, SHUFFLE, job, mlp, numbers, trained
from tests.workers.engine.checkpoints.test_resume import assert_same


@component("lab/Translate")
class Translate(TrainingStep):
    """Two models, one from each domain to the other."""

    models = ("there", "back")
    optimizers: ClassVar[dict[str, tuple[str, ...]]] = {"both": ("there", "back")}

    def input_spec(self, role: str, element: Any, models: Any) -> Any:
        return element["a" if role == "there" else "b"][0]

    def train_step(self, batch: Any, run: Any) -> Any:
        (a, _), (b, _) = batch["a"], batch["b"]
        with tf.GradientTape() as tape:
            there, back = run.models["there"](a, training=True), run.models["back"](b, training=True)
            loss = tf.reduce_mean(tf.square(run.models["back"](there) - a))
            loss += tf.reduce_mean(tf.square(run.models["there"](back) - b))
        run.minimize("both", loss, tape)
        return {"cycle": loss}

    def validation_step(self, batch: Any, run: Any) -> Any:
        a = batch["a"][0]
        return {"cycle": tf.reduce_mean(tf.square(run.models["back"](run.models["there"](a)) - a))}


@pytest.mark.slow
@pytest.mark.parametrize("stop", ["shortest", "longest"])
def test_a_step_over_two_unpaired_sources(tmp_path: Path, stop: str) -> None:
    sources = {
        "a": {"source": numbers(60), "pipeline": [SHUFFLE]},
        "b": {"source": numbers(90), "pipeline": [SHUFFLE]},
    }
    spec = job(
        data={
            "source": {"component": "zip", "config": {"sources": sources, "stop": stop}},
            "validation": 0.2,
            "pipeline": [BATCH],
        },
        step="lab/Translate", model=None, optimizer=None, loss=None,
        models={"there": mlp(4), "back": mlp(4)}, optimizers={"both": "keras/Adam"},
        training={"epochs": 4, "checkpoint": {"every_steps": 7, "every_seconds": None, "keep": 99}},
    )  # fmt: skip
    whole = trained(spec, tmp_path / "whole")
    assert whole.training.counters.step == 4 * (5 if stop == "shortest" else 8)
    assert whole.history("val_cycle")[-1] < whole.history("val_cycle")[0]
    assert whole.events("note") == [], "the iterator of every pass can be saved"
    assert {event["count"] for event in whole.events("trace")} == {1}
    assert_same(whole, trained(spec, tmp_path / "resumed", resume=whole.checkpoints()[1]))
