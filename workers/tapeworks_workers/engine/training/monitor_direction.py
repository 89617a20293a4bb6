"""Whether more or less of a monitored value is better: as the spec says, else as whoever reports the value declares.

`mode: "auto"` is resolved before training, and never by the name. As in Keras 3, `loss` is minimized and a metric
says for itself (`_direction`); beyond Keras, `@component(..., direction="max")` declares it for a metric of any form,
and `directions` for the values of an evaluator or a step. A value without a declared direction is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tapeworks.components.registry import registry
from tapeworks.errors import FailureCode, JobFailure
from tapeworks.spec.job_spec import OutputLosses
from tapeworks.spec.references import Kind
from tapeworks_workers.engine.step.assembly import Assembly
from tapeworks_workers.engine.step.metrics import RoleMetric, scalars
from tapeworks_workers.engine.training.evaluators import Measure

Mode = Literal["min", "max"]
_OF_KERAS: Mapping[str, Mode] = {"up": "max", "down": "min"}
HINT = 'Add "mode": "max" beside "monitor" if the highest value is the best, "mode": "min" if the lowest is.'


@dataclass(frozen=True)
class Direction:
    """The mode of one monitored value, and who said so."""

    mode: Mode
    by: str | None
    """None: the spec."""


class Directions:
    """Resolves modes for one attempt."""

    def __init__(self, assembly: Assembly, evaluators: Sequence[Measure], reported: Sequence[str] | None) -> None:
        """`reported`: the names in an epoch's logs, without those of evaluators; None where only running shows."""
        self._assembly, self._evaluators, self._reported = assembly, evaluators, reported
        self.asked: dict[str, Direction] = {}
        """What was resolved, by the value's name."""

    def of(self, monitor: str, mode: str = "auto", *, place: str = "monitor") -> Direction:
        """Raises JobFailure `invalid_spec` where the value is not reported, or where nothing says its direction."""
        self._expect(monitor, place)
        if (given := _mode(None if mode == "auto" else mode, "mode")) is not None:
            found: Direction | None = Direction(given, None)
        else:
            found = self._declared(monitor.removeprefix("val_"))
        if found is None:
            raise JobFailure(
                FailureCode.INVALID_SPEC,
                f'{place} is {monitor!r} with mode "auto", and no component declares whether the highest or the lowest '
                "value is the best",
                hint=HINT,
            )
        self.asked[monitor] = found
        return found

    def _expect(self, monitor: str, place: str) -> None:
        """Evaluators add names that only running shows."""
        reported = self._reported
        if reported is None or (self._evaluators and monitor.startswith("val_")):
            return
        prefix = "val_" if monitor.startswith("val_") else ""
        metrics = {f"{prefix}{metric.name}" for metric in self._assembly.all_metrics()} & set(reported)
        if monitor not in reported and not any(monitor.startswith(f"{name}_") for name in metrics):
            raise not_reported(monitor, reported, place)

    def _declared(self, name: str) -> Direction | None:
        if (mode := self._of_step(name)) is not None:
            return mode
        if (metric := self._metric(name)) is not None:
            return _of_metric(metric, name)
        for measure in self._evaluators:
            if (found := _of_part(measure.evaluator, name, measure.component)) is not None:
                return Direction(found, f"the evaluator {measure.component!r}")
        return None

    def _of_step(self, name: str) -> Direction | None:
        step = self._assembly.spec.step.component
        if (found := _of_part(self._assembly.step, name, step)) is not None:
            return Direction(found, f"the step {step!r}")
        losses = self._assembly.spec.losses.values()
        of_outputs = {f"{output}_loss" for loss in losses if isinstance(loss, OutputLosses) for output in loss.outputs}
        if self._assembly.losses:
            of_outputs |= {f"{output}_loss" for model in self._assembly.models.values() for output in _outputs(model)}
        return Direction("min", "the loss") if name == "loss" or name in of_outputs else None

    def _metric(self, name: str) -> RoleMetric | None:
        """The metric that reports `name`: under its own name, or as a part of a vector or dict result."""
        parts = []
        held = (RoleMetric(metric.name, metric, None, False) for metric in self._assembly.held_metrics())
        for metric in (*self._assembly.all_metrics(), *held):
            if metric.name == name:
                return metric
            if name.startswith(f"{metric.name}_"):
                parts.append(metric)
        if len(parts) > 1:  # `recall` and `recall_at` for recall_at_1: only their results tell whose it is
            parts = [metric for metric in parts if name in scalars(metric.name, metric.metric.result())]
        return parts[0] if parts else None


def _outputs(model: Any) -> Sequence[str]:
    return getattr(model, "output_names", None) or ()


def _of_metric(metric: RoleMetric, name: str) -> Direction | None:
    who = f"the metric {metric.component or metric.name!r}"
    component = registry.find(Kind.METRIC, metric.component or "")
    declared: Any = None if component is None else component.direction
    if isinstance(declared, Mapping):
        declared = declared.get(name.removeprefix(metric.name).removeprefix("_"))
    if declared is None:
        declared = _OF_KERAS.get(str(getattr(metric.metric, "_direction", None)))
    return None if declared is None else Direction(declared, who)


def _of_part(part: Any, name: str, component: str) -> Mode | None:
    directions = part.directions
    if not isinstance(directions, Mapping):
        raise JobFailure(
            FailureCode.COMPONENT_ERROR,
            f"{component}: directions must be a dict of names and directions, got {type(directions).__name__}",
            hint='Write directions = {"name": "max"}.',
        )
    return _mode(directions.get(name), f"{component}: directions")


def _mode(declared: Any, where: str) -> Mode | None:
    """Raises JobFailure `component_error` where it is neither None nor a mode."""
    if declared is not None and declared not in ("min", "max"):
        raise JobFailure(
            FailureCode.COMPONENT_ERROR, f'{where} holds {declared!r}; a direction is "min" or "max"', hint=HINT
        )
    return declared


def not_reported(monitor: str, names: Sequence[str], place: str) -> JobFailure:
    """The failure where a monitored value is none of `names`."""
    return JobFailure(
        FailureCode.INVALID_SPEC,
        f"{place} is {monitor!r}, which is not reported; there are: {', '.join(sorted(names))}",
    )
