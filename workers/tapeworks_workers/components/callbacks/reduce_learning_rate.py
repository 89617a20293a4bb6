"""`reduce_learning_rate`: a smaller learning rate where a value has stopped improving, as Keras' ReduceLROnPlateau."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from tapeworks import Callback, component


@component("reduce_learning_rate")
class ReduceLearningRate(Callback):
    """Multiplies the learning rate by `factor` after `patience` epochs without an improvement.

    What it counts is part of the job's checkpoints, and so is the learning rate. An optimizer whose spec has a schedule
    is refused when its rate is first to be reduced. A monitored value that is not finite is no improvement.

    Args:
        monitor: the value followed, as in an epoch's logs.
        factor: above 0 and below 1.
        patience: epochs without an improvement, at least 1 counts.
        mode: "min", "max", or "auto": as the monitored metric or evaluator declares it.
        min_delta: how much better is better.
        cooldown: epochs after a reduction in which nothing is counted.
        min_lr: no rate goes below it.
        optimizer: the name of one optimizer; null: all of the step's.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        mode: Literal["auto", "min", "max"] = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
        optimizer: str | None = None,
    ) -> None:
        if not 0 < factor < 1:
            raise ValueError(f"factor must be above 0 and below 1, not {factor}")
        if min(patience, cooldown, min_lr, min_delta) < 0:
            raise ValueError("patience, cooldown, min_lr and min_delta must not be negative")
        self.monitor, self.factor, self.patience, self.min_delta = monitor, factor, patience, min_delta
        self.cooldown, self.min_lr, self.optimizer = cooldown, min_lr, optimizer
        self.mode = mode
        self._sign: float
        self.best: float | None = None
        self.wait = self.cooling = 0

    def build(self, run: Any) -> None:
        self._sign = 1.0 if run.direction(self.monitor, self.mode) == "max" else -1.0

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float], run: Any) -> None:
        if self.monitor not in logs:
            known = ", ".join(sorted(logs))
            raise ValueError(f"monitor is {self.monitor!r}, which is not reported; there are: {known}")
        value = logs[self.monitor]
        if self.cooling > 0:
            self.cooling -= 1
            self.wait = 0
        if math.isfinite(value) and (self.best is None or self._sign * (value - self.best) > self.min_delta):
            self.best, self.wait = value, 0
        elif self.cooling == 0:
            self.wait += 1
            if self.wait >= self.patience and self._reduced(run):
                self.cooling, self.wait = self.cooldown, 0

    def _reduced(self, run: Any) -> bool:
        """Whether any rate was still above `min_lr`."""
        names = list(run.optimizers) if self.optimizer is None else [self.optimizer]
        higher = [name for name in names if run.learning_rate(name) > np.float32(self.min_lr)]
        for name in higher:
            run.learning_rate(name, max(run.learning_rate(name) * self.factor, self.min_lr))
        return bool(higher)

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "wait": self.wait, "cooling": self.cooling}

    def load(self, state: Mapping[str, Any]) -> None:
        self.best, self.wait, self.cooling = state["best"], state["wait"], state["cooling"]
