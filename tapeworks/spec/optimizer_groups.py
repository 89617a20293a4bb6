"""What a spec's optimizers own by name, and which of Keras' arguments do what the job itself does.

A step declares optimizers and the models they train; a spec fills each with an optimizer of that name, or divides it
among several that say which `variables` they own. The optimizers of one declaration are a group: they are minimised
together, by one backward pass. The service answers the findings at POST, the engine raises the first as a failure.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tapeworks.errors import Finding, ProblemCode
from tapeworks.spec.job_spec import JobSpec, OptimizerSpec
from tapeworks.spec.references import escape, nested_references

Groups = dict[str, list[str]]
"""Optimizer of the step → the spec's optimizers that do its work, sorted by name."""

_CLIPPING = ("clipnorm", "clipvalue", "global_clipnorm")
_ACCUMULATION = "gradient_accumulation_steps"
_DONE_BY_THE_JOB = {"loss_scale_factor": 'Losses are scaled where training.precision is "mixed_float16".'}
_LOSS_SCALING = "keras/LossScaleOptimizer"


def grouped(
    optimizers: Mapping[str, OptimizerSpec], declared: Mapping[str, Sequence[str]], *, step: str
) -> tuple[Groups, list[Finding]]:
    """The spec's optimizers by those that the step declares, and what is wrong with them."""
    groups: Groups = {name: [] for name in declared}
    found: list[Finding] = []
    for name in sorted(optimizers):
        selected = {selection.model for selection in optimizers[name].variables or ()}
        if name in declared:
            foreign = sorted(selected - set(declared[name]))
            if foreign:
                message = f"the step {step!r} trains {list(declared[name])} with optimizer {name!r}, not {foreign[0]!r}"
                found.append(Finding(f"/optimizers/{name}/variables", ProblemCode.UNKNOWN_ROLE, message))
            groups[name].append(name)
        elif optimizers[name].variables is None:
            found.append(_unknown(name, declared, step))
        else:
            homes = [one for one, roles in declared.items() if selected <= set(roles)]
            if len(homes) == 1:
                groups[homes[0]].append(name)
            else:
                found.append(_homeless(name, sorted(selected), declared, step))
    for name, members in groups.items():
        found += _uncovered(name, members, optimizers, declared[name], step)
    return groups, found


def _uncovered(
    name: str, members: list[str], optimizers: Mapping[str, OptimizerSpec], roles: Sequence[str], step: str
) -> Iterator[Finding]:
    """Roles of one declaration that nobody owns, or that are owned twice."""
    if not members:
        message = f"the step {step!r} needs optimizers.{name}"
        yield Finding(f"/optimizers/{name}", ProblemCode.MISSING_ROLE, message, f"Add optimizers.{name}.")
    elif name in members and optimizers[name].variables is None:
        if len(members) > 1:
            other = next(member for member in members if member != name)
            message = f"optimizer {name!r} owns all variables of {list(roles)}, and {other!r} owns variables of it too"
            hint = f"Every variable has one owner: give {name!r} `variables` as well."
            yield Finding(f"/optimizers/{other}/variables", ProblemCode.INVALID_VALUE, message, hint)
    else:
        selected = {part.model for member in members for part in optimizers[member].variables or ()}
        for role in roles:
            if role not in selected:
                message = f"no optimizer owns variables of the model {role!r}, which the step {step!r} trains"
                hint = f'Add {{"model": "{role}"}} to the variables of one of {members}.'
                yield Finding(f"/optimizers/{members[0]}/variables", ProblemCode.MISSING_ROLE, message, hint)


def _unknown(name: str, declared: Mapping[str, Sequence[str]], step: str) -> Finding:
    close = difflib.get_close_matches(name, list(declared), n=1)
    hint = f"Did you mean {close[0]!r}? " if close else f"The step's optimizers: {', '.join(declared) or 'none'}. "
    hint += "An additional optimizer lists its `variables`."
    message = f"the step {step!r} declares no {name!r}"
    return Finding(f"/optimizers/{escape(name)}", ProblemCode.UNKNOWN_ROLE, message, hint)


def _homeless(name: str, models: list[str], declared: Mapping[str, Sequence[str]], step: str) -> Finding:
    message = f"optimizer {name!r} owns variables of {models}, which no single optimizer of the step {step!r} trains"
    listed = ", ".join(f"{one} trains {list(roles)}" for one, roles in declared.items()) or "it has none"
    return Finding(
        f"/optimizers/{name}/variables", ProblemCode.UNKNOWN_ROLE, message, f"The step's optimizers: {listed}."
    )


def doubled_arguments(spec: JobSpec) -> Iterator[Finding]:
    """Arguments of Keras' optimizers that would do again, or undo, what the job does to gradients."""
    for name, optimizer in spec.optimizers.items():
        transformed = any(one.optimizer in (None, name) for one in spec.gradients)
        accumulated = spec.training.gradient_accumulation > 1
        pointer = f"/optimizers/{escape(name)}"
        yield from _doubled(optimizer.component, optimizer.config, pointer, transformed, accumulated)


def _doubled(
    component: str, config: dict[str, Any], pointer: str, transformed: bool, accumulated: bool
) -> Iterator[Finding]:
    if component == _LOSS_SCALING:
        message = f"{component} would divide gradients by a scale that no loss was multiplied with"
        hint = f"Name its inner optimizer here. {_DONE_BY_THE_JOB['loss_scale_factor']}"
        yield Finding(f"{pointer}/component", ProblemCode.INVALID_VALUE, message, hint)
    for argument, hint in _DONE_BY_THE_JOB.items():
        if config.get(argument) is not None:
            message = f"{argument}: the job does this, and doing it twice would be wrong"
            yield Finding(f"{pointer}/config/{argument}", ProblemCode.INVALID_VALUE, message, hint)
    if config.get(_ACCUMULATION) is not None and (transformed or accumulated):
        message = (
            f"{_ACCUMULATION} beside training.gradient_accumulation: gradients would be accumulated twice"
            if accumulated
            else f"{_ACCUMULATION} beside `gradients`: transforms would act on each batch's gradients, not on the mean"
        )
        hint = f"Use training.gradient_accumulation and remove {_ACCUMULATION}."
        yield Finding(f"{pointer}/config/{_ACCUMULATION}", ProblemCode.INVALID_VALUE, message, hint)
    for argument in _CLIPPING:
        if transformed and config.get(argument) is not None:
            message = (
                f"{argument} beside `gradients`: gradient transforms belong in one place, which defines their order"
            )
            hint = "Put clip_by_norm, clip_by_value or clip_by_global_norm into `gradients`."
            yield Finding(f"{pointer}/config/{argument}", ProblemCode.INVALID_VALUE, message, hint)
    for nested in nested_references(config, f"{pointer}/config"):
        inner = nested.value.get("config")
        arguments = inner if isinstance(inner, dict) else {}
        yield from _doubled(nested.value["component"], arguments, nested.pointer, transformed, accumulated)
