"""Which epoch was the best, and when to stop: Keras' EarlyStopping, as counters that a checkpoint holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tapeworks_workers.engine.checkpoints.counters import Counters
from tapeworks_workers.engine.checkpoints.snapshot import EXTRA
from tapeworks_workers.engine.reporting import Reporter
from tapeworks_workers.engine.step.assembly import Assembly
from tapeworks_workers.engine.training.evaluation import averaged
from tapeworks_workers.engine.training.monitor_direction import Directions, Mode, not_reported


class Monitor:
    """Follows one value over the epochs."""

    def __init__(
        self, monitor: str, *, mode: Mode, min_delta: float = 0.0, patience: int | None = None, place: str
    ) -> None:
        self.monitor = monitor
        self.mode = mode
        self._sign = 1.0 if mode == "max" else -1.0
        self._min_delta = min_delta
        self._patience = patience
        self._place = place
        self.best: float | None = None
        self.best_epoch = 0
        self.wait = 0
        """Epochs since the best."""

    @property
    def exhausted(self) -> bool:
        """Whether there was no better value for longer than the patience lasts; with a patience of 0, at the first."""
        return self._patience is not None and self.wait >= max(self._patience, 1)

    def __str__(self) -> str:
        if self.best is None:
            return f"{self.monitor} was never finite"
        return f"{self.monitor} was best in epoch {self.best_epoch}: {self.best:.6g}"

    def improved(self, epoch: int, logs: Mapping[str, float]) -> bool:
        """Take an epoch's logs. Raises JobFailure `invalid_spec` where the value is not among them."""
        if self.monitor not in logs:
            raise not_reported(self.monitor, list(logs), self._place)
        value = logs[self.monitor]
        better = self.best is None or self._sign * (value - self.best) > self._min_delta
        if better and math.isfinite(value):
            self.best, self.best_epoch, self.wait = value, epoch, 0
            return True
        self.wait += 1
        return False

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"best": self.best, "best_epoch": self.best_epoch, "wait": self.wait}

    def load(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint."""
        self.best, self.best_epoch, self.wait = state["best"], state["best_epoch"], state["wait"]


class EpochJudge:
    """Early stopping and the best checkpoint, after the spec; each epoch is judged once.

    Raises JobFailure `invalid_spec` where a monitored value is not reported, or its direction is not known.
    """

    def __init__(self, assembly: Assembly, reporter: Reporter, directions: Directions) -> None:
        self._assembly, self._reporter, self._directions = assembly, reporter, directions
        training = assembly.spec.training
        self._restores = training.early_stopping is not None and training.early_stopping.restore_best
        self._stopping = self._monitor(training.early_stopping, "training.early_stopping")
        best = training.checkpoint.best if training.checkpoint is not None else None
        self._best = self._monitor(best, "training.checkpoint.best")
        self.best_weights: dict[str, np.ndarray] = {}
        """For a checkpoint: what `restore_best` will put back."""

    def _monitor(self, wanted: Any, place: str) -> Monitor | None:
        if wanted is None:
            return None
        field = f"{place}.monitor"
        direction = self._directions.of(wanted.monitor, wanted.mode, place=field)
        self._reporter.monitors(place, wanted.monitor, direction.mode, by=direction.by)
        return Monitor(
            wanted.monitor,
            mode=direction.mode,
            min_delta=getattr(wanted, "min_delta", 0.0),
            patience=getattr(wanted, "patience", None),
            place=field,
        )

    @property
    def exhausted(self) -> bool:
        """Whether early stopping ended the training, in this attempt or the one that left the state."""
        return self._stopping is not None and self._stopping.exhausted

    def judge(self, counters: Counters) -> None:
        """Early stopping, on the epoch that has ended."""
        if self._stopping is None:
            return
        if self._stopping.improved(counters.epoch, counters.logs):
            if self._best is None:
                self._tell(self._stopping, counters)
            if self._restores:
                with averaged(self._assembly):
                    variables = self._assembly.variables()
                    models = [name for name in variables if name.startswith("models/")]
                    self.best_weights = {EXTRA + name: variables[name].numpy() for name in models}
                counters.best_logs = dict(counters.logs)
        elif self._stopping.exhausted:
            self._reporter.note(f"Early stopping after epoch {counters.epoch}; {self._stopping}.")

    def best(self, counters: Counters) -> bool:
        """Whether the epoch that has ended gave the best checkpoint."""
        if self._best is None or not self._best.improved(counters.epoch, counters.logs):
            return False
        self._tell(self._best, counters)
        return True

    def _tell(self, monitor: Monitor, counters: Counters) -> None:
        best = {
            "monitor": monitor.monitor, "mode": monitor.mode, "value": monitor.best,
            "epoch": monitor.best_epoch, "step": counters.step,
        }  # fmt: skip
        self._reporter.facts(best=best)

    def put_back(self, counters: Counters) -> bool:
        """The best weights and their logs, at the end; False where there are none."""
        if not self.best_weights:
            return False
        variables = self._assembly.variables()
        for name, value in self.best_weights.items():
            variables[name.removeprefix(EXTRA)].assign(value)
        counters.logs = counters.best_logs or counters.logs
        self.best_weights = {}
        return True

    def store(self, counters: Counters) -> None:
        """For a checkpoint, beside the best weights."""
        counters.stopping = None if self._stopping is None else self._stopping.state()
        counters.best = None if self._best is None else self._best.state()

    def resume(self, counters: Counters, values: Mapping[str, np.ndarray]) -> None:
        """From a checkpoint."""
        self.best_weights = {name: value for name, value in values.items() if name.startswith(EXTRA)}
        for monitor, stored in ((self._stopping, counters.stopping), (self._best, counters.best)):
            if monitor is not None and stored is not None:
                monitor.load(stored)
