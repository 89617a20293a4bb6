"""`auto`: begins as `loop`, and tries `fused` on real batches where it can pay; the faster of the two goes on.

What is tried counts as training: nothing is thrown away or trained twice. The two take turns, so that a machine that is
slowed down for a while slows both. A trial costs a compilation, so it is made only where much more time than that is
left, and never where XLA is known to lose: convolutions on a CPU. What was found is kept for jobs whose step is alike
(verdicts.py): they begin with what was the faster.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from tapeworks_workers.engine.checkpoints.counters import CALL_SECONDS
from tapeworks_workers.engine.plans.autotune_cache import AutotuneRecord, nodes_of
from tapeworks_workers.engine.plans.fused import CannotCompile, FusedPlan
from tapeworks_workers.engine.plans.loop import LoopPlan
from tapeworks_workers.engine.runtime import has_gpu
from tapeworks_workers.engine.step.compiled_step import CompiledStep

MEASURED_SECONDS = 0.6
"""Of each candidate, after its first call."""
PAYS = 4.0
"""A trial is made where the rest of the job takes so many times what compiling is expected to take."""
FASTER = 1.03
"""`fused` stays where it is so many times as fast: less is noise."""
LOADED = 0.3
"""Of the seconds that a program took to compile, what loading it takes at most."""
_NODE_SECONDS = 0.002
_LEAST_SECONDS = 0.5

NOTHING_KNOWN = AutotuneRecord(None)

ReportPlan = Callable[[dict[str, Any]], None]
"""Takes the diagnostics of a calibration: `plan`, and each candidate's steps per second and seconds to compile."""


class AutoPlan:
    """A plan that may change once."""

    gathers = True

    def __init__(
        self,
        step: CompiledStep,
        loop: LoopPlan,
        fused: Callable[[int], FusedPlan] | None,
        *,
        left: Callable[[], int | None],
        tell: ReportPlan,
        verdict: AutotuneRecord = NOTHING_KNOWN,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._step = step
        self._loop, self._make_fused = loop, fused
        self._left, self._tell, self._clock = left, tell, clock
        self._plan: LoopPlan | FusedPlan = loop
        self._fused: FusedPlan | None = None
        """What is tried beside `loop`."""
        self._first: dict[str, float] = {}
        """Seconds of each candidate's first call, with its compilation."""
        self._calls: dict[str, list[tuple[int, float]]] = {LoopPlan.name: [], FusedPlan.name: []}
        """Steps and seconds of those since."""
        self._candidates: dict[str, dict[str, float]] = {}
        self._settled = fused is None
        """Nothing is measured any more."""
        self._verdict = verdict
        self._looked_up = fused is None

    @property
    def kept(self) -> str:
        """See `Plan.kept`."""
        return self._plan.name if self._settled else "auto"

    @property
    def name(self) -> str:
        """The name of the plan that runs now."""
        return self._plan.name

    def run(self, batches: Any, steps: int) -> int:
        """See `Plan.run`."""
        if not self._looked_up:
            self._looked_up = True
            self._go_by_what_is_known()
        if self._settled:
            return self._plan.run(batches, steps)
        began = self._clock()
        try:
            done = self._plan.run(batches, steps)
        except CannotCompile as refused:
            self._settle(self._loop, why=refused.message)
            return refused.done + self._plan.run(batches, steps - refused.done)
        self._measure(done, self._clock() - began)
        return done

    def _go_by_what_is_known(self) -> None:
        """Where a step like this was measured before, nothing is tried: what was the faster runs, if it pays."""
        known = self._verdict.read()
        loop, fused = known.get(LoopPlan.name), known.get(FusedPlan.name)
        if loop is None or (fused is None and "not_fused" not in known):
            return
        self._candidates = {name: known[name] for name in (LoopPlan.name, FusedPlan.name) if name in known}
        if fused is not None and self._make_fused is not None and _better(fused, loop, self._left()):
            self._plan = self._make_fused(_stacked(loop["steps_per_second"]))
        self._settled = True
        refused = {"not_fused": known["not_fused"]} if "not_fused" in known else {}
        self._tell({"plan": self._plan.name, "plans": self._candidates, "measured_before": True, **refused})

    def _measure(self, steps: int, seconds: float) -> None:
        name = self._plan.name
        if name not in self._first:
            self._first[name] = seconds
            return
        if steps:
            self._calls[name].append((steps, seconds))
        if self._fused is None:
            if self._measured(LoopPlan.name):
                self._try_fused()
        elif self._measured(LoopPlan.name) and self._measured(FusedPlan.name):
            fused, loop = (self._candidate(plan)["steps_per_second"] for plan in (FusedPlan.name, LoopPlan.name))
            self._settle(self._fused if fused > FASTER * loop else self._loop)
        else:
            self._plan = self._loop if self._plan is self._fused else self._fused

    def _measured(self, plan: str) -> bool:
        return sum(seconds for _, seconds in self._calls[plan]) >= MEASURED_SECONDS

    def _candidate(self, plan: str) -> dict[str, float]:
        rate = round(_rate(self._calls[plan]), 1)
        self._candidates[plan] = {"steps_per_second": rate, "first_call_seconds": self._first[plan]}
        return self._candidates[plan]

    def _try_fused(self) -> None:
        rate = self._candidate(LoopPlan.name)["steps_per_second"]
        if self._make_fused is None or not self._pays(rate):
            self._settled = True
            return
        self._calls[LoopPlan.name].clear()  # it is measured again, beside the other
        self._plan = self._fused = self._make_fused(_stacked(rate))

    def _pays(self, rate: float) -> bool:
        """Whether so much is left that a trial is worth its compilation."""
        left = self._left()
        if left is not None and left / rate < PAYS * _LEAST_SECONDS:
            return False
        operations = _operations(self._step)
        if not has_gpu() and any("Conv" in kind for kind in operations):
            return False
        expected = _LEAST_SECONDS + _NODE_SECONDS * len(operations)
        return left is None or left / rate >= PAYS * expected

    def _settle(self, plan: LoopPlan | FusedPlan, why: str | None = None) -> None:
        self._plan, self._settled = plan, True
        refused = {} if why is None else {"not_fused": why}
        self._tell({"plan": plan.name, "plans": self._candidates, **refused})
        self._verdict.write({**self._candidates, **refused})


def _stacked(rate: float) -> int:
    """Batches that a program of `fused` is to hold: of a slow step few are trained on in one call, and gathering and
    copying more of them would be in vain. `rate`: steps per second of `loop`; `fused` may make twice as many."""
    return 1 << math.ceil(math.log2(max(1.0, 2 * CALL_SECONDS * rate)))


def _rate(calls: Sequence[tuple[int, float]]) -> float:
    """Steps per second of the fastest call: what slows one down is the machine. Not of the short calls after a
    compilation, whose fixed costs count for more, nor of one that had a short last batch alone."""
    longest = max(steps for steps, _ in calls)
    return max(steps / max(seconds, 1e-9) for steps, seconds in calls if 2 * steps >= longest)


def _better(fused: dict[str, float], loop: dict[str, float], left: int | None) -> bool:
    """Whether `fused` saves more than its first call takes. XLA has kept the program that it compiled then."""
    slow, fast = loop["steps_per_second"], fused["steps_per_second"]
    if fast <= FASTER * slow:
        return False
    return left is None or left / slow - left / fast > LOADED * fused["first_call_seconds"]


def _operations(step: CompiledStep) -> list[str]:
    """The types of all operations of a step, those of the functions that it calls too."""
    return [node.op for node in nodes_of(step)]
