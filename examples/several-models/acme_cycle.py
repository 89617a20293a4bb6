"""Two unpaired domains and four models: Zhu et al., "Unpaired Image-to-Image Translation using Cycle-Consistent
Adversarial Networks" (2017), arXiv:1703.10593, on points of the plane.
"""

from typing import Any, Literal

import numpy as np
import tensorflow as tf

from tapeworks import Run, Source, TrainingStep, component


@component("acme/Points")
class Points(Source):
    """Points along a ring around (0, 0) or along the edges of a square around (3, 3): x float32 `(2,)`, seeded."""

    def __init__(self, shape: Literal["ring", "square"], size: int = 2000, seed: int = 0) -> None:
        self.shape, self.size, self.seed = shape, size, seed

    def dataset(self) -> tf.data.Dataset:
        random = np.random.default_rng(self.seed)
        angle = random.uniform(0, 2 * np.pi, self.size)
        points = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        if self.shape == "square":
            points = 3 + points / np.abs(points).max(axis=-1, keepdims=True)
        points += random.normal(scale=0.05, size=points.shape)
        return tf.data.Dataset.from_tensor_slices(points.astype(np.float32))


@component("acme/Cycle")
class Cycle(TrainingStep):
    """Translators between the domains `a` and `b`, each against a judge of its target, and there and back again.

    The element is `{"a": x, "b": x}`, as the source `zip` gives it: batches of the two need not belong together.
    """

    models = ("to_b", "to_a", "judge_a", "judge_b")
    optimizers = {"translators": ("to_b", "to_a"), "judges": ("judge_a", "judge_b")}  # noqa: RUF012
    losses = ("adversarial",)
    exported = ("to_b", "to_a")

    def __init__(self, cycle_weight: float = 10.0) -> None:
        self.cycle_weight = cycle_weight

    def input_spec(self, role: str, element: Any, models: Any) -> Any:
        return element["a"] if role in ("to_b", "judge_a") else element["b"]

    def train_step(self, batch: Any, run: Run) -> dict[str, Any]:
        with tf.GradientTape() as of_translators, tf.GradientTape() as of_judges:
            losses = self._losses(batch, run, training=True)
        run.minimize("translators", losses["translator_loss"], of_translators)
        run.minimize("judges", losses["judge_loss"], of_judges)
        return losses

    def validation_step(self, batch: Any, run: Run) -> dict[str, Any]:
        return self._losses(batch, run, training=False)

    def _losses(self, batch: Any, run: Run, *, training: bool) -> dict[str, Any]:
        fooling, judging, cycle = 0.0, 0.0, 0.0
        for here, there in (("a", "b"), ("b", "a")):
            x = batch[here]
            translated = run.models[f"to_{there}"](x, training=training)
            returned = run.models[f"to_{here}"](translated, training=training)
            cycle += tf.reduce_mean(tf.abs(returned - x))
            judge, loss = run.models[f"judge_{there}"], run.losses["adversarial"]
            on_real, on_fake = judge(batch[there], training=training), judge(translated, training=training)
            fooling += loss(tf.ones_like(on_fake), on_fake)
            judging += loss(tf.ones_like(on_real), on_real) + loss(tf.zeros_like(on_fake), on_fake)
        return {"translator_loss": fooling + self.cycle_weight * cycle, "judge_loss": judging, "cycle_loss": cycle}
