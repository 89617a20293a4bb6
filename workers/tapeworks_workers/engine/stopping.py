"""Which epoch was the best, and when to stop: Keras' EarlyStopping, as counters that a checkpoint holds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from tapeworks.errors import FailureCode, JobFailure
from tapeworks_workers.engine.assembly import Assembly

_RISING = ("accuracy", "auc", "precision", "recall", "f1", "iou", "r2", "similarity", "correlation")


def rises(monitor: str, mode: str, assembly: Assembly) -> bool:
    """Whether more is better: as `mode` says, else as Keras' metric says, else by the name."""
    if mode != "auto":
        return mode == "max"
    name = monitor.removeprefix("val_")
    for metric in assembly.all_metrics():
        direction = getattr(metric.metric, "_direction", None)
        if metric.name == name and direction is not None:
            return bool(direction == "up")
    return any(part in name for part in _RISING)


class Monitor:
    """Follows one value over the epochs."""

    def __init__(
        self, monitor: str, *, rising: bool, min_delta: float = 0.0, patience: int | None = None, place: str
    ) -> None:
        self.monitor = monitor
        self._sign = 1.0 if rising else -1.0
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

    def expect(self, names: Iterable[str]) -> None:
        """Raises JobFailure `invalid_spec` where none of these names, nor a part of one (`name_0`), is the value."""
        if not any(self.monitor == name or self.monitor.startswith(f"{name}_") for name in names):
            raise self._not_reported(names)

    def improved(self, epoch: int, logs: Mapping[str, float]) -> bool:
        """Take an epoch's logs. Raises JobFailure `invalid_spec` where the value is not among them."""
        if self.monitor not in logs:
            raise self._not_reported(logs)
        value = logs[self.monitor]
        better = self.best is None or self._sign * (value - self.best) > self._min_delta
        if better and math.isfinite(value):
            self.best, self.best_epoch, self.wait = value, epoch, 0
            return True
        self.wait += 1
        return False

    def _not_reported(self, names: Iterable[str]) -> JobFailure:
        return JobFailure(
            FailureCode.INVALID_SPEC,
            f"{self._place} is {self.monitor!r}, which is not reported; there are: {', '.join(sorted(names))}",
        )

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"best": self.best, "best_epoch": self.best_epoch, "wait": self.wait}

    def load(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint."""
        self.best, self.best_epoch, self.wait = state["best"], state["best_epoch"], state["wait"]
