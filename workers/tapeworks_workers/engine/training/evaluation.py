"""A split evaluated once: the step's validation scalars, the metrics and the evaluators, under `val_` or `test_`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from tapeworks.errors import FailureCode, JobFailure
from tapeworks_workers.engine import plans
from tapeworks_workers.engine.data.batch_iterator import Cursor
from tapeworks_workers.engine.data.pipeline import Split, empty
from tapeworks_workers.engine.diagnostics.attribute_state import Watched
from tapeworks_workers.engine.diagnostics.retracing import Traces
from tapeworks_workers.engine.graph import dataset_state
from tapeworks_workers.engine.runtime import as_traced
from tapeworks_workers.engine.step.assembly import Assembly
from tapeworks_workers.engine.step.compiled_step import CompiledStep, compile_validation_step
from tapeworks_workers.engine.step.step_metrics import StepMetrics
from tapeworks_workers.engine.training.control import OUTCOMES, Control, Interrupted
from tapeworks_workers.engine.training.evaluators import Measure
from tapeworks_workers.engine.training.non_finite_data import fills, non_finite_note

_FEW_STEPS = 200
"""So many do not pay for optimising their graph, which takes a twentieth of a second and more."""


class Evaluation:
    """Evaluates splits with one traced validation step for each element spec, and with the evaluators."""

    def __init__(
        self,
        assembly: Assembly,
        plan: str,
        control: Control,
        traces: Traces | None = None,
        *,
        evaluators: Sequence[Measure] = (),
    ) -> None:
        self._assembly = assembly
        self._plan = plans.for_evaluation(plan)
        self._control = control
        self._traces = traces
        self._evaluators = evaluators
        self._datasets: dict[str, tuple[tf.data.Dataset, tf.data.Dataset]] = {}
        self.by_step = type(assembly.step).can_validate()
        """Whether the step says something of a batch; else the evaluators alone do."""
        self._warned: set[str] = set()
        """Splits whose values were not finite."""
        self._traced: list[tuple[Any, CompiledStep, StepMetrics, plans.Plan]] = []

    def trace(self, split: Split) -> tuple[StepMetrics, plans.Plan]:
        """The means and the plan for a split; traced at the first split of its element spec."""
        for spec, _, means, plan in self._traced:
            if spec == split.element_spec:
                return means, plan
        step = compile_validation_step(
            self._assembly, element_spec=split.element_spec, traces=self._traces, eager=self._plan == "eager"
        )
        means = StepMetrics(step)
        plan = plans.make(self._plan, step, split, means)
        self._traced.append((split.element_spec, step, means, plan))
        return means, plan

    def prepare(self, split: Split) -> None:
        """Trace what evaluating the split needs. Raises JobFailure `invalid_spec` where nothing can evaluate it."""
        if self.by_step:
            self.trace(split)
        elif not self._evaluators:
            raise JobFailure(
                FailureCode.INVALID_SPEC,
                f"the step {self._assembly.spec.step.component!r} has no validation_step, so data.{split.name} cannot "
                "be evaluated",
                hint=f"Set data.{split.name} to null, give the step a validation_step, or name evaluators.",
            )

    def steps(self) -> list[CompiledStep]:
        """The validation steps that were traced."""
        return [step for _, step, _, _ in self._traced]

    def watched(self) -> list[Watched]:
        """The evaluators, with their attributes as they are now."""
        return [Watched.of(one.place, one.component, one.evaluator) for one in self._evaluators]

    def names(self, split: Split) -> list[str]:
        """The names of what the step gives for a split, and of the metrics, without a prefix."""
        if not self.by_step:
            return []
        return [*self.trace(split)[0].names, *(metric.name for metric in self._assembly.all_metrics("validation"))]

    def run(self, split: Split, prefix: str, *, calls_of: int = 64) -> dict[str, float]:
        """Evaluate the whole split. Raises JobFailure, and Interrupted where the user cancels meanwhile.

        Pause and drain wait for the end of it: an evaluation is not resumed in its middle.
        """
        with averaged(self._assembly):
            values = self._validated(split, calls_of) if self.by_step else {}
            for measure in self._evaluators:
                found = measure.values(self._batches(split)[1], self._assembly)
                if taken := sorted(found.keys() & values.keys()):
                    raise JobFailure(
                        FailureCode.INVALID_SPEC,
                        f"{measure.place}, {measure.component!r}: {taken[0]!r} is already the name of another value",
                    )
                values |= found
                self._heed()
        self._warn(split, values)
        return {prefix + name: value for name, value in values.items()}

    def _warn(self, split: Split, values: dict[str, float]) -> None:
        """Report, once for each split, that values are not finite."""
        if self._traces is None or split.name in self._warned:
            return
        filled = fills(self._assembly.models, self._assembly.input_specs)
        note = non_finite_note(split.name, values, self._batches(split)[0], filled)
        if note is not None:
            self._warned.add(split.name)
            self._traces.note(note)

    def _validated(self, split: Split, calls_of: int) -> dict[str, float]:
        """What the step's validation gives for the split."""
        means, plan = self.trace(split)
        means.reset()
        rows = split.rows if plan.gathers else None
        batches: Any = iter(self._batches(split)[0]) if rows is None else Cursor(rows, 0)
        total, steps = 0, sys.maxsize if rows is None else rows.steps
        with as_traced() if self._few(split) else contextlib.nullcontext():
            while (done := plan.run(batches, min(calls_of, steps - total)) if total < steps else 0) > 0:
                total += done
                self._heed()
        if total == 0:
            raise empty(split.name)
        means.check_labels()
        return means.read()

    def _few(self, split: Split) -> bool:
        """Whether all passes over the split are few steps: by the spec, so that every attempt computes alike."""
        passes = self._assembly.spec.training.epochs
        return split.steps is not None and passes is not None and split.steps * passes <= _FEW_STEPS

    def _batches(self, split: Split) -> tuple[tf.data.Dataset, tf.data.Dataset]:
        """The split as the step takes it, and as evaluators do, in the same order each time.

        It is built once, since each build leaves graphs behind, unless it would shuffle anew: the order of a second
        evaluation would then be another than that of the first one after a resume.
        """
        if split.name in self._datasets:
            return self._datasets[split.name]
        dataset = split.dataset(0)
        if dataset_state.reshuffles(dataset):
            dataset = split.dataset(1)  # a new one each time, as pass 0 is kept from when the job was built
            return dataset, self._assembly.selected(dataset)
        return self._datasets.setdefault(split.name, (dataset, self._assembly.selected(dataset)))

    def _heed(self) -> None:
        self._control.check_time()
        if self._control.peek() == "cancel":
            raise Interrupted(OUTCOMES["cancel"])


def averaging_note(assembly: Assembly) -> str | None:
    """What the user should know of `val_` values; None where they are those of the weights themselves."""
    names = sorted(name for name, optimizer in assembly.optimizers.items() if optimizer.use_ema)
    if not names:
        return None
    return (
        f"optimizer {names[0]!r} has use_ema: val_ values are measured on the moving averages, which are exported, as "
        "with keras.callbacks.SwapEMAWeights; Keras' fit without that callback measures them on the latest weights"
    )


@contextlib.contextmanager
def averaged(assembly: Assembly) -> Iterator[None]:
    """Inside the block, variables of optimizers with `use_ema` hold their moving averages, as exported models do."""
    averaging = [name for name, optimizer in assembly.optimizers.items() if _averages(optimizer)]
    kept = [(variable, variable.numpy()) for name in averaging for variable in assembly.owned[name]]
    for name in averaging:
        assembly.optimizers[name].finalize_variable_values(assembly.owned[name])
    try:
        yield
    finally:
        for variable, value in kept:
            variable.assign(value)


def finalize(assembly: Assembly) -> None:
    """Put the moving averages of `use_ema` in place for good: training is over."""
    for name, optimizer in assembly.optimizers.items():
        if _averages(optimizer) or not optimizer.use_ema:
            optimizer.finalize_variable_values(assembly.owned[name])


def _averages(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether it holds averages: before an optimizer's first step, Keras' are all zero."""
    return bool(optimizer.use_ema and int(optimizer.iterations.numpy()) > 0)
