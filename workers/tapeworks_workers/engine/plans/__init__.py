"""How steps are dispatched. A plan runs up to n steps in one call and says how many it did.

`steps`: a call for each step. `loop`: one call for n steps, in one graph; n is a tensor, so that
every n is one trace. `eager`: no graph at all, to debug.
"""

from __future__ import annotations

from typing import Any, Protocol

from tapeworks.errors import FailureCode, JobFailure
from tapeworks.spec import JobSpec
from tapeworks_workers.engine.plans.eager import EagerPlan
from tapeworks_workers.engine.plans.loop import LoopPlan
from tapeworks_workers.engine.plans.steps import StepsPlan
from tapeworks_workers.engine.step import CompiledStep


class Plan(Protocol):
    """One way to run a compiled step over batches."""

    name: str

    def run(self, iterator: Any, steps: int) -> int:
        """Run up to `steps` steps; returns how many were run: fewer only where the iterator ended."""


def choose(spec: JobSpec) -> str:
    """The plan's name by rule: what the spec says, else `loop`. Raises JobFailure `not_supported`."""
    wanted = spec.training.execution.plan
    if wanted == "fused":
        raise JobFailure(FailureCode.NOT_SUPPORTED, "training.execution.plan 'fused' is not supported yet")
    return "loop" if wanted == "auto" else wanted


def make(name: str, step: CompiledStep) -> Plan:
    """The plan of that name over a compiled step; a step compiled eagerly only runs as `eager`."""
    plans: dict[str, type[Any]] = {plan.name: plan for plan in (StepsPlan, LoopPlan, EagerPlan)}
    plan: Plan = plans[name](step)
    return plan
