"""A split evaluated once: the step's validation scalars and the metrics, under `val_` or `test_`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from tapeworks_workers.engine import plans
from tapeworks_workers.engine.assembly import Assembly
from tapeworks_workers.engine.control import OUTCOMES, Control, Interrupted
from tapeworks_workers.engine.pipeline import Split, empty
from tapeworks_workers.engine.step import CompiledStep, Means, compile_validation_step
from tapeworks_workers.engine.traces import Traces


class Evaluation:
    """Evaluates splits with one traced validation step for each element spec."""

    def __init__(self, assembly: Assembly, plan: str, control: Control, traces: Traces | None = None) -> None:
        self._assembly = assembly
        self._plan = plan
        self._control = control
        self._traces = traces
        self._traced: list[tuple[Any, CompiledStep, Means, plans.Plan]] = []

    def trace(self, split: Split) -> tuple[Means, plans.Plan]:
        """The means and the plan for a split; traced at the first split of its element spec."""
        for spec, _, means, plan in self._traced:
            if spec == split.element_spec:
                return means, plan
        step = compile_validation_step(
            self._assembly, element_spec=split.element_spec, traces=self._traces, eager=self._plan == "eager"
        )
        means, plan = Means(step), plans.make(self._plan, step)
        self._traced.append((split.element_spec, step, means, plan))
        return means, plan

    def scalars(self, split: Split) -> tuple[str, ...]:
        """The names of what the step returns for a split, without a prefix."""
        return self.trace(split)[0].names

    def run(self, split: Split, prefix: str, *, calls_of: int = 64) -> dict[str, float]:
        """Evaluate the whole split. Raises JobFailure, and Interrupted where the user cancels meanwhile.

        Pause and drain wait for the end of it: an evaluation is not resumed in its middle.
        """
        means, plan = self.trace(split)
        means.reset()
        iterator = iter(split.dataset(0))
        total = 0
        with averaged(self._assembly):
            while (done := plan.run(iterator, calls_of)) > 0:
                total += done
                self._control.check_time()
                if self._control.peek() == "cancel":
                    raise Interrupted(OUTCOMES["cancel"])
        if total == 0:
            raise empty(split.name)
        for loss in self._assembly.losses.values():
            loss.check_labels()
        return {prefix + name: value for name, value in means.read().items()}


@contextlib.contextmanager
def averaged(assembly: Assembly) -> Iterator[None]:
    """Inside the block, variables of optimizers with `use_ema` hold their moving averages, as exported models do."""
    kept = []
    for name, optimizer in assembly.optimizers.items():
        if getattr(optimizer, "use_ema", False):
            kept += [(variable, variable.numpy()) for variable in assembly.owned[name]]
            optimizer.finalize_variable_values(assembly.owned[name])
    try:
        yield
    finally:
        for variable, value in kept:
            variable.assign(value)


def finalize(assembly: Assembly) -> None:
    """Put the moving averages of `use_ema` in place for good: training is over."""
    for name, optimizer in assembly.optimizers.items():
        optimizer.finalize_variable_values(assembly.owned[name])
