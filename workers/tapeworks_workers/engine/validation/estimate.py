"""From what was measured in two seconds to what a whole job will take: ranges, not promises.

A range's low end is the job on this machine were it half as busy as it was just now, its high end the same on one two
and a half times as busy. What is not measured (export, verification in fresh processes, seals and uploads) is derived
from the time that building and tracing took: it is the same kind of work, and grows alike with the model and the
machine's load. `make examples` shows what was quoted beside what it took: export and verification took 1.9 to 3 times
as long as building. Evaluators, callbacks and waiting in the queue are not in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tapeworks.spec.job_spec import JobSpec

BUSY = 2.5
"""How much longer a step may take than it did here."""
QUIET = 0.5
"""How much shorter: a machine may be busy while it is measured, too."""
EXPORT_OF_BUILD = (1.0, 4.0)
"""Export and verification, in times of build and trace."""
START_SECONDS = (0.3, 6.0)
"""A fork, the seal, the upload, and the service's part."""
MEMORY_GROWTH = 1.5


@dataclass(frozen=True)
class Measurements:
    """What a rehearsal showed."""

    build_seconds: float
    """From the spec to traced functions."""
    calls: Sequence[tuple[int, float]]
    """(steps, seconds) of each call of the plan; the first is one step and its compilation."""
    evaluations: Sequence[tuple[int | None, int, float]]
    """Of the validation split, then of the test split: (steps of it, steps timed, their seconds)."""
    memory_bytes: int

    @property
    def steps_per_second(self) -> float | None:
        """Steps per second of the calls after the first; None if there was no such call."""
        steps, seconds = (sum(column) for column in zip(*self.calls[1:], strict=True)) if self.calls[1:] else (0, 0.0)
        return steps / seconds if steps else None


def quote(spec: JobSpec, measured: Measurements, *, steps_per_epoch: int | None) -> dict[str, Any]:
    """`seconds`, `device_seconds` and `memory_bytes` as [low, high], and `steps`; null is what the data does not tell.

    Early stopping may end the job after its patience: the low end assumes it.
    """
    training = spec.training
    bounds = [training.max_steps]
    if training.epochs is not None and steps_per_epoch is not None:
        bounds.append(training.epochs * steps_per_epoch)
    steps = min((bound for bound in bounds if bound is not None), default=None)
    epochs = None if steps is None or not steps_per_epoch else -(-steps // steps_per_epoch)
    fewest, fewest_epochs = steps, epochs
    if training.early_stopping is not None and steps_per_epoch is not None and steps is not None:
        fewest_epochs = min(training.early_stopping.patience + 1, epochs or 1)
        fewest = min(steps, fewest_epochs * steps_per_epoch)
    low = _seconds(measured, fewest, fewest_epochs, end=0, exported=spec.export is not None)
    high = _seconds(measured, steps, epochs, end=1, exported=spec.export is not None)
    seconds = [low, high]
    devices = max(1, spec.resources.gpus or 1)
    return {
        "seconds": seconds,
        "device_seconds": [None if value is None else round(value * devices, 2) for value in seconds],
        "memory_bytes": [measured.memory_bytes, int(measured.memory_bytes * MEMORY_GROWTH)],
        "steps": steps,
    }


def _seconds(
    measured: Measurements, steps: int | None, epochs: int | None, *, end: int, exported: bool
) -> float | None:
    """One end of the range: 0 is the low one, 1 the high one."""
    if steps is None:
        return None
    pace = (QUIET, BUSY)[end]
    total = START_SECONDS[end] + pace * measured.build_seconds
    if exported:
        total += EXPORT_OF_BUILD[end] * measured.build_seconds
    if steps and measured.calls:
        total += pace * (measured.calls[0][1] + (steps - 1) * _step(measured, end))
    for index, (size, timed, seconds) in enumerate(measured.evaluations):
        if not timed:
            continue
        if size is None:
            return None if end else round(total, 2)
        times = max(1, epochs or 1) if index == 0 else 1
        total += pace * times * size * seconds / timed
    return round(total, 2)


def _step(measured: Measurements, end: int) -> float:
    """Seconds of a step after the first: in the fastest call, or on average. Longer calls than these are faster yet."""
    rate = measured.steps_per_second
    if rate is None:
        return measured.calls[0][1]
    return 1 / rate if end else min(seconds / steps for steps, seconds in measured.calls[1:] if steps)
