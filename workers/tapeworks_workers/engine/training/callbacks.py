"""Callbacks of the spec: actions between epochs and reports, in the spec's order; what they change is reported.

What a callback keeps in `state()` is part of every checkpoint; a resumed attempt gives it back by `load`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tapeworks.components.interfaces import Callback
from tapeworks.errors import FailureCode, JobFailure, Location
from tapeworks.spec.references import Kind
from tapeworks_workers.engine.artifacts import Artifacts
from tapeworks_workers.engine.diagnostics.attribute_state import Watched
from tapeworks_workers.engine.factory.factory import build
from tapeworks_workers.engine.reporting import Reporter
from tapeworks_workers.engine.step.assembly import Assembly
from tapeworks_workers.engine.training.evaluators import naming_place


@dataclass(frozen=True)
class _Named:
    callback: Callback
    component: str
    place: str


class Callbacks:
    """All callbacks of a job."""

    def __init__(self, assembly: Assembly, artifacts: Artifacts, reporter: Reporter) -> None:
        self._run: Any = assembly.run
        self._artifacts = artifacts
        self._reporter = reporter
        self._callbacks = [
            _Named(
                build(reference, Kind.CALLBACK, pointer=f"/callbacks/{index}", context=assembly.context),
                reference.component,
                f"callbacks/{index}",
            )
            for index, reference in enumerate(assembly.spec.callbacks)
        ]

    def build(self) -> None:
        """Before training, once everything is traced. Raises JobFailure."""
        for item in self._callbacks:
            self._run.directions.asked.clear()
            try:
                with naming_place(item.component, item.place):
                    item.callback.build(self._run)
            except JobFailure as failure:
                if failure.code is not FailureCode.INVALID_SPEC:
                    raise
                message = f"{item.place}, {item.component!r}: {failure.message}"
                where = Location(component=item.component)
                raise JobFailure(failure.code, message, hint=failure.hint, location=where) from failure
            for monitor, direction in self._run.directions.asked.items():
                self._reporter.monitors(item.place, monitor, direction.mode, by=direction.by)

    def without_state(self) -> list[Watched]:
        """Callbacks that tell checkpoints nothing of themselves."""
        silent = [item for item in self._callbacks if type(item.callback).state is Callback.state]
        return [Watched.of(item.place, item.component, item.callback) for item in silent]

    def epoch_ended(self, epoch: int, logs: Mapping[str, float]) -> None:
        """After the validation of an epoch. Raises JobFailure."""
        for item in self._callbacks:
            rates, stopped = self._rates(), self._run.stop_reason is not None
            with naming_place(item.component, item.place):
                item.callback.on_epoch_end(epoch, dict(logs), self._run)
            for name, rate in self._rates().items():
                if rate != rates[name]:
                    message = f"learning rate of optimizer {name!r} from {rates[name]:.6g} to {rate:.6g}"
                    self._reporter.note(f"{item.component} set the {message} after epoch {epoch}.")
            if self._run.stop_reason is not None and not stopped:
                self._reporter.note(f"A callback ended the training after epoch {epoch}: {self._run.stop_reason}")
        self._artifacts.check()

    def _rates(self) -> dict[str, float]:
        return {name: self._run.learning_rate(name) for name in self._run.optimizers}

    def reported(self, step: int, logs: Mapping[str, float]) -> None:
        """After metrics were read at a step. Raises JobFailure."""
        for item in self._callbacks:
            with naming_place(item.component, item.place):
                item.callback.on_report(step, dict(logs), self._run)

    def state(self) -> list[dict[str, Any]]:
        """For a checkpoint. Raises JobFailure `component_error` where a state is no JSON."""
        states = []
        for item in self._callbacks:
            with naming_place(item.component, item.place):
                state = item.callback.state()
            try:
                states.append(json.loads(json.dumps(state, allow_nan=False)))
            except (TypeError, ValueError) as error:
                raise JobFailure(
                    FailureCode.COMPONENT_ERROR,
                    f"{item.place}, {item.component!r}: state() must give a dict that JSON can hold: {error}",
                    hint="Numbers, strings, lists and dicts with string keys; finite numbers only.",
                    location=Location(component=item.component),
                ) from error
        return states

    def load(self, states: Iterable[dict[str, Any]]) -> None:
        """From a checkpoint, of the same spec."""
        for item, state in zip(self._callbacks, states, strict=True):
            with naming_place(item.component, item.place):
                item.callback.load(state)
