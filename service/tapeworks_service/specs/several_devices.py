"""What a spec with `resources.gpus` above 1 asks for and several devices cannot do, as far as the spec says it."""

from __future__ import annotations

from collections.abc import Iterator

from tapeworks.errors import Finding, ProblemCode
from tapeworks.spec.job_spec import JobSpec, OutputLosses
from tapeworks.spec.references import escape

_IN_BATCH_STEPS = frozenset({"contrastive"})
_IN_BATCH_LOSSES = frozenset({"nt_xent", "triplet"})
"""They compare the examples of a batch with each other, and a device has only some of them."""
_PLANS = ("fused", "eager")


def several_devices_findings(spec: JobSpec) -> Iterator[Finding]:
    """None for a job on one device. What only running shows is refused when the job starts."""
    if (spec.resources.gpus or 1) == 1:
        return
    plan = spec.training.execution.plan
    if plan in _PLANS:
        message = f"the plan {plan!r} runs on one device, and resources.gpus is {spec.resources.gpus}"
        yield Finding("/training/execution/plan", ProblemCode.NOT_SUPPORTED, message, 'Use "auto", or one GPU.')
    if spec.step.component in _IN_BATCH_STEPS:
        yield _in_batch("/step", f"the step {spec.step.component!r}")
    for name, given in spec.losses.items():
        outputs = given.outputs.items() if isinstance(given, OutputLosses) else [(None, given)]
        for output, one in outputs:
            base = f"/losses/{escape(name)}" + ("" if output is None else f"/outputs/{escape(output)}")
            for index, loss in enumerate(one if isinstance(one, list) else [one]):
                if loss is not None and loss.component in _IN_BATCH_LOSSES:
                    place = f"{base}/{index}" if isinstance(one, list) else base
                    yield _in_batch(place, f"the loss {loss.component!r}")


def _in_batch(pointer: str, what: str) -> Finding:
    message = f"{what} compares the examples of a batch with each other: several devices would compare fewer"
    return Finding(pointer, ProblemCode.NOT_SUPPORTED, message, "Set resources.gpus to 1.")
