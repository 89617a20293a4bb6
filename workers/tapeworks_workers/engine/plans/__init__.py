"""How steps are dispatched. A plan runs up to n steps in one call and says how many it did.

`steps`: a call for each step. `loop`: one call for n steps, in one graph. `fused`: n stacked batches in one XLA
program. `eager`: no graph at all, to debug. `auto` begins as `loop` and becomes `fused` where that was measured to
be faster (calibration.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from tapeworks.errors import FailureCode, JobFailure
from tapeworks.spec.job_spec import TrainingSpec
from tapeworks_workers.engine.data.pipeline import Split
from tapeworks_workers.engine.plans.autotune import AutoPlan, ReportPlan
from tapeworks_workers.engine.plans.autotune_cache import Verdicts
from tapeworks_workers.engine.plans.eager import EagerPlan
from tapeworks_workers.engine.plans.fused import FusedPlan, why_not
from tapeworks_workers.engine.plans.loop import LoopPlan
from tapeworks_workers.engine.plans.several_devices import SeveralDevicesPlan
from tapeworks_workers.engine.plans.steps import StepsPlan
from tapeworks_workers.engine.step.compiled_step import CompiledStep
from tapeworks_workers.engine.step.step_metrics import StepMetrics

AUTO = "auto"


class Plan(Protocol):
    """One way to run a compiled step over batches."""

    @property
    def name(self) -> str:
        """Its name now."""

    @property
    def kept(self) -> str:
        """What a checkpoint says of it, for the attempt that goes on: `auto` until it is settled."""

    @property
    def gathers(self) -> bool:
        """Whether it takes batches by a Cursor too."""

    def run(self, batches: Any, steps: int) -> int:
        """Run up to `steps` steps; returns how many were run: fewer only where the iterator ended.

        The plan's StepMetrics discard what they read before.

        `batches`: an iterator of a dataset, or a Cursor of the split's rows.
        """


def choose(training: TrainingSpec, *, by_time: bool = True) -> str:
    """The plan's name: what the spec says; a deterministic job is never chosen for by time, nor a rehearsal."""
    wanted = training.execution.plan
    return LoopPlan.name if wanted == AUTO and (training.deterministic or not by_time) else wanted


def make(name: str, step: CompiledStep, split: Split, means: StepMetrics) -> Plan:
    """The plan of that name over a compiled step; a step compiled eagerly only runs as `eager`.

    Raises JobFailure `not_supported` where the batches are not for it.
    """
    if name == FusedPlan.name and (reason := why_not(split)) is not None:
        message = f"training.execution.plan 'fused' cannot run this job: {reason}"
        raise JobFailure(FailureCode.NOT_SUPPORTED, message, hint='Use "auto".')
    plans: dict[str, type[Any]] = {plan.name: plan for plan in (StepsPlan, LoopPlan, FusedPlan, EagerPlan)}
    plan: Plan = plans[name](step, split, means)
    return SeveralDevicesPlan(plan, step.assembly.devices) if step.assembly.devices.several else plan


def calibrated(
    step: CompiledStep,
    split: Split,
    means: StepMetrics,
    *,
    left: Callable[[], int | None],
    tell: ReportPlan,
    verdicts: Verdicts,
) -> Plan:
    """The plan `auto`. `left`: how many steps are still to be run, None where nobody knows."""
    if step.assembly.devices.several:  # XLA does not hold what replicas exchange
        return make(LoopPlan.name, step, split, means)
    loop = LoopPlan(step, split, means)
    if why_not(split) is not None:
        return AutoPlan(step, loop, None, left=left, tell=tell)
    verdict = verdicts.of(step, split)
    return AutoPlan(
        step, loop, lambda most: FusedPlan(step, split, means, most=most), left=left, tell=tell, verdict=verdict
    )


def for_evaluation(name: str) -> str:
    """The plan that evaluates splits beside a plan that trains."""
    return name if name in (StepsPlan.name, EagerPlan.name) else LoopPlan.name
