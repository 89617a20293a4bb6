"""Where training stands: the counters that a checkpoint holds, how many steps the next call may take, the progress."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from tapeworks.spec.job_spec import TrainingSpec
from tapeworks_workers.engine.reporting import Rate, Reporter

CALL_SECONDS = 0.3
"""A call of the compiled loop aims at this: commands are seen between calls."""
REPORT_SECONDS = 1.0
"""Seconds between reports of progress."""
PACE_SECONDS = 60.0
"""The time left comes from the steps of so long."""
LEAST_SECONDS = 3.0
"""No time left is reported before steps were seen for so long."""
SETTLING_SECONDS = 10.0
MOST_READINGS = 1_000


@dataclass
class Counters:
    """JSON-able: restored with a checkpoint, stored in the bundle's training state."""

    step: int = 0
    epoch: int = 0
    """Epochs finished."""
    step_in_epoch: int = 0
    pass_number: int = 0
    position: int = 0
    """Batches of this pass that were trained on."""
    steps_per_epoch: int | None = None
    """Known from the spec, the data's size, or the first epoch."""
    plan: str = "loop"
    complete: bool = False
    """Training is over, the weights are final: only test, export and verification are left."""
    device: dict[str, str] = field(default_factory=dict)
    """Where the state was computed (`environment.fingerprint`)."""
    stopping: dict[str, Any] | None = None
    best: dict[str, Any] | None = None
    callbacks: list[dict[str, Any]] = field(default_factory=list)
    """What callbacks remember."""
    stop_reason: str | None = None
    """Set once a callback has ended the training."""
    logs: dict[str, float] = field(default_factory=dict)
    """The last epoch's; once complete, those of the weights that are exported."""
    best_logs: dict[str, float] = field(default_factory=dict)
    """Of the epoch whose weights `early_stopping.restore_best` will put back."""

    def __post_init__(self) -> None:
        """What is not finite comes as a string from JSON."""
        self.logs = {name: float(value) for name, value in self.logs.items()}
        self.best_logs = {name: float(value) for name, value in self.best_logs.items()}

    def document(self) -> dict[str, Any]:
        """For a checkpoint."""
        return asdict(self)


@dataclass(frozen=True)
class TrainingBounds:
    """How far training goes."""

    epochs: int | None
    max_steps: int | None

    @classmethod
    def of(cls, training: TrainingSpec) -> TrainingBounds:
        """What the spec says."""
        return cls(training.epochs, training.max_steps)

    def reached(self, counters: Counters) -> bool:
        """Whether training is over."""
        by_epochs = self.epochs is not None and counters.epoch >= self.epochs
        return by_epochs or (self.max_steps is not None and counters.step >= self.max_steps)

    def total(self, steps_per_epoch: int | None) -> int | None:
        """Steps of the whole job, where that is known."""
        by_epochs = None if self.epochs is None or steps_per_epoch is None else self.epochs * steps_per_epoch
        known = [bound for bound in (by_epochs, self.max_steps) if bound is not None]
        return min(known) if known else None


class Pace:
    """Chooses n so that a call takes about `CALL_SECONDS`; n grows at most fourfold from call to call."""

    def __init__(self, limit: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._limit = limit
        self._steps = 4
        self._began = 0.0

    def next(self) -> int:
        """Steps of the next call, which begins now."""
        self._began = self._clock()
        return self._steps if self._limit is None else min(self._steps, self._limit)

    def done(self, steps: int) -> None:
        """The call has ended after so many steps."""
        seconds = max(self._clock() - self._began, 1e-6)
        if steps:
            self._steps = max(1, min(4 * self._steps, int(steps * CALL_SECONDS / seconds)))


def until_next(multiple: int, step: int) -> int:
    """Steps from `step` to the next multiple."""
    return multiple - step % multiple


class TimeLeft:
    """Seconds until the last step, from the pace of the last minute.

    The pace counts everything between two readings, so validation and checkpoints are in it. An estimate moves towards
    what the pace says by `READING / SETTLING_SECONDS` at most, and falls with the clock: it does not jump where one
    call was slow or an epoch ended with a validation.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._readings: deque[tuple[float, int]] = deque()
        self._estimate: tuple[float, float] | None = None
        """When it was made, and the seconds."""

    def at(self, step: int, total: int | None) -> float | None:
        """The estimate at this step; None while too little was seen, or no end is known."""
        now, readings = self._clock(), self._readings
        if readings and step < readings[-1][1]:
            readings.clear()  # steps were undone
        readings.append((now, step))
        while len(readings) > MOST_READINGS or now - readings[1 if len(readings) > 1 else 0][0] > PACE_SECONDS:
            readings.popleft()
        if total is not None and step >= total:
            return 0.0
        (began, first), seconds = readings[0], now - readings[0][0]
        if total is None or step == first or seconds < LEAST_SECONDS:
            return None
        by_pace = (total - step) * (now - began) / (step - first)
        if self._estimate is None:
            estimate = by_pace
        else:
            made, before = self._estimate
            counted_down = max(0.0, before - (now - made))
            estimate = counted_down + (by_pace - counted_down) * min(1.0, (now - made) / SETTLING_SECONDS)
        self._estimate = now, estimate
        return estimate


class Progress:
    """How fast training goes, and the job's `progress`. `examples` are those of the epoch so far."""

    def __init__(self, bounds: TrainingBounds, reporter: Reporter, clock: Callable[[], float] = time.monotonic) -> None:
        self._bounds, self._reporter, self._clock = bounds, reporter, clock
        self._rate = Rate(clock)
        self._examples = 0.0
        self._per_second: float | None = None
        self._left = TimeLeft(clock)
        self._reported_at = float("-inf")  # the first step is reported at once

    @property
    def due(self) -> bool:
        """Whether it is time to tell."""
        return self._clock() - self._reported_at >= REPORT_SECONDS

    def begin(self, examples: float) -> None:
        """Training begins, or goes on after something else."""
        self._examples = examples
        self._rate.since(0)

    def measure(self, examples: float) -> None:
        """Examples per second since the last measurement."""
        self._per_second = self._rate.since(examples - self._examples) or self._per_second
        self._examples = examples

    def tell(self, counters: Counters) -> None:
        """Where training stands, and when it will be over."""
        total = counters.step if counters.complete else self._bounds.total(counters.steps_per_epoch)
        self._reporter.facts(
            progress={
                "step": counters.step,
                "total_steps": total,
                "epoch": counters.epoch,
                "epochs": self._bounds.epochs,
                "examples_per_second": self._per_second,
                "eta_seconds": self._left.at(counters.step, total),
            }
        )
        self._reported_at = self._clock()
