"""Evaluators of the spec: measures over a whole split, beside what the step gives for each batch.

Each is built once and called at every epoch's end on the validation split, in the end on the test split, with the
weights that validation sees. What it returns must be named finite numbers.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tapeworks.components.interfaces import Evaluator
from tapeworks.errors import FailureCode, JobFailure, Location
from tapeworks.spec.references import Kind
from tapeworks_workers.engine.diagnostics.error_text import text
from tapeworks_workers.engine.factory.factory import build
from tapeworks_workers.engine.graph.randomness import philox
from tapeworks_workers.engine.step.assembly import Assembly


@dataclass(frozen=True)
class Measure:
    """One evaluator, and what a failure says of it."""

    evaluator: Evaluator
    component: str
    place: str
    """Where the spec names it: `evaluators/0`."""

    def values(self, dataset: tf.data.Dataset, assembly: Assembly) -> dict[str, float]:
        """Evaluate a split. Raises JobFailure `component_error`, `non_finite`."""
        run: Any = assembly.run
        with philox(), run.streams.using("validation"), naming_place(self.component, self.place):
            returned = self.evaluator.evaluate(dataset, run)
        if not isinstance(returned, Mapping):
            raise self._wrong(f"evaluate must return a dict of named numbers, not {type(returned).__name__}")
        return {name: self._number(name, value) for name, value in returned.items()}

    def _number(self, name: Any, value: Any) -> float:
        array = np.asarray(value)
        if not isinstance(name, str) or array.shape != () or array.dtype.kind not in "fiub":
            raise self._wrong(f"evaluate returned {name!r}: {value!r}; each name must be a string, each value a number")
        if not math.isfinite(number := float(array)):
            raise self._wrong(f"evaluate returned {name!r}: {number}", FailureCode.NON_FINITE)
        return number

    def _wrong(self, message: str, code: FailureCode = FailureCode.COMPONENT_ERROR) -> JobFailure:
        return JobFailure(
            code,
            f"{self.place}, {self.component!r}: {message}",
            hint="An evaluator returns {name: float}; where a value is not defined, leave its name out.",
            location=Location(component=self.component),
        )


def build_evaluators(assembly: Assembly) -> tuple[Measure, ...]:
    """The spec's, in its order. Raises JobFailure."""
    measures = []
    for index, reference in enumerate(assembly.spec.evaluators):
        evaluator = build(reference, Kind.EVALUATOR, pointer=f"/evaluators/{index}", context=assembly.context)
        measures.append(Measure(evaluator, reference.component, f"evaluators/{index}"))
    return tuple(measures)


@contextlib.contextmanager
def naming_place(component: str, place: str) -> Iterator[None]:
    """Names the place in the spec of what an evaluator or a callback raises inside the block."""
    try:
        yield
    except JobFailure:
        raise
    except Exception as error:
        message = f"{place}, {component!r}: {type(error).__name__}: {text(error)}"
        raise JobFailure(FailureCode.COMPONENT_ERROR, message) from error
