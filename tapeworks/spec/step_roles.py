"""The rules of roles and copies: what a spec fills is compared with what its step declares."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from tapeworks.errors import Finding, ProblemCode
from tapeworks.spec.job_spec import JobSpec
from tapeworks.spec.optimizer_groups import grouped
from tapeworks.spec.references import escape


@dataclass(frozen=True)
class StepRoles:
    """What a step declares."""

    models: Sequence[str]
    optimizers: Mapping[str, Sequence[str]]
    losses: Sequence[str] = ()
    optional_losses: Sequence[str] = ()
    frozen: Sequence[str] = ()
    validation_step: bool = True

    @classmethod
    def of_entry(cls, roles: Mapping[str, Any]) -> StepRoles:
        """From the catalogue's entry of a step."""
        return cls(**{one.name: roles[one.name] for one in fields(cls) if one.name in roles})

    @property
    def all_models(self) -> list[str]:
        """The roles of models: those that are trained or called, then those that are held frozen beside them."""
        return list(dict.fromkeys([*self.models, *self.frozen]))


def role_findings(spec: JobSpec, step: str, roles: StepRoles) -> Iterator[Finding]:
    """Roles that the step does not know, roles that it needs, and a validation that it cannot do.

    The service applies these rules when a job is submitted, and the engine when it builds the step: only there are the
    roles known that a step's `__init__` sets.
    """
    models, losses = roles.all_models, list(roles.losses)
    yield from _compare("/models", spec.models, models, step=step, needed=models)
    yield from copy_findings(spec)
    trains = spec.training.epochs != 0 or spec.training.max_steps is not None
    _, findings = grouped(spec.optimizers, roles.optimizers, step=step)
    yield from (one for one in findings if trains or one.code is not ProblemCode.MISSING_ROLE)
    needed = [name for name in losses if name not in roles.optional_losses]
    # A step that declares no losses takes them by the roles of its models.
    yield from _compare("/losses", spec.losses, losses or models, step=step, needed=needed)
    yield from _compare("/metrics", spec.metrics, models, step=step)
    for index, transform in enumerate(spec.gradients):
        if transform.optimizer is not None and transform.optimizer not in spec.optimizers:
            yield _unknown(f"/gradients/{index}/optimizer", transform.optimizer, spec.optimizers, step=step)
    for index, role in enumerate((spec.export and spec.export.models) or ()):
        if role not in models:
            yield _unknown(f"/export/models/{index}", role, models, step=step)
    if spec.data.validation is not None and not roles.validation_step and not spec.evaluators:
        message = f"the step {step!r} has no validation_step, so data.validation cannot be evaluated"
        hint = "Set data.validation to null, give the step a validation_step, or name evaluators."
        yield Finding("/data/validation", ProblemCode.MISSING_VALIDATION_STEP, message, hint)


def copy_findings(spec: JobSpec) -> Iterator[Finding]:
    """A copy has the config of a role that is no copy itself, and starts as that one does."""
    for role, model in spec.models.items():
        if model.copy_of is None:
            continue
        pointer = f"/models/{escape(role)}"
        origin = spec.models.get(model.copy_of)
        if origin is None or origin.copy_of is not None:
            what = "is not a role of this job" if origin is None else "is itself a copy"
            message = f"{model.copy_of!r} {what}"
            yield Finding(f"{pointer}/copy_of", ProblemCode.INVALID_VALUE, message, "Name the role that is trained.")
        elif (origin.component, origin.version, origin.config) != (model.component, model.version, model.config):
            message = f"a copy of {model.copy_of!r} has its component and config"
            yield Finding(f"{pointer}/component", ProblemCode.INVALID_VALUE, message, 'Write only {"copy_of": …}.')
        elif model.initial_state is not None:
            message = f"a copy of {model.copy_of!r} has the initial state of that role"
            yield Finding(f"{pointer}/initial_state", ProblemCode.INVALID_VALUE, message, "Leave it out.")


def _compare(
    place: str, given: Collection[str], known: Collection[str], *, step: str, needed: Collection[str] = ()
) -> Iterator[Finding]:
    for role in given:
        if role not in known:
            yield _unknown(f"{place}/{escape(role)}", role, known, step=step)
    for role in needed:
        if role not in given:
            message = f"the step {step!r} needs {place[1:]}.{role}"
            yield Finding(f"{place}/{escape(role)}", ProblemCode.MISSING_ROLE, message, f"Add {place[1:]}.{role}.")


def _unknown(pointer: str, role: str, known: Collection[str], *, step: str) -> Finding:
    close = difflib.get_close_matches(role, known, n=1)
    listed = ", ".join(known) or "none"
    hint = f"Did you mean {close[0]!r}?" if close else f"The step's roles here: {listed}."
    return Finding(pointer, ProblemCode.UNKNOWN_ROLE, f"the step {step!r} does not declare {role!r}", hint)
