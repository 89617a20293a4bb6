"""Who owns which variables: every trainable variable of a trained role has exactly one optimizer.

An optimizer owns what the step declares, or what its `variables` say: globs over layer paths (`layer_paths`). A layer
that matches brings all that is in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from tapeworks.components.interfaces import TrainingStep
from tapeworks.errors import FailureCode, Finding, JobFailure
from tapeworks.spec.job_spec import JobSpec, OptimizerSpec
from tapeworks.spec.optimizer_groups import Groups, doubled_arguments, grouped
from tapeworks_workers.engine.models.layer_paths import matching


@dataclass(frozen=True)
class Ownership:
    """What the optimizers of a spec own, and how the step speaks of them."""

    owned: dict[str, list[Any]]
    """Optimizer of the spec → its trainable variables, in the models' order."""
    groups: Groups
    """Optimizer of the step → those of the spec that do its work."""
    reached: dict[str, list[Any]]
    """Optimizer of the step → the variables of its group, each once, in the models' order."""


def assign_variables(spec: JobSpec, step: TrainingStep, models: Mapping[str, keras.Model]) -> Ownership:
    """Divide the models' trainable variables among the spec's optimizers.

    Raises JobFailure `invalid_spec` where a variable has two owners, or none and is not frozen, where a glob matches no
    layer, and where Keras' own arguments would do what the job does.
    """
    groups, findings = grouped(spec.optimizers, step.optimizers, step=spec.step.component)
    for finding in (*findings, *doubled_arguments(spec)):
        raise _failure(finding)
    owner: dict[int, str] = {}
    owned: dict[str, list[Any]] = {}
    for group, members in groups.items():
        trained = {role: models[role].trainable_variables for role in step.optimizers[group]}
        for name in members:
            owned[name] = _owned(name, spec.optimizers[name], trained, models)
            for variable in owned[name]:
                other = owner.setdefault(id(variable), name)
                if other != name:
                    raise JobFailure(
                        FailureCode.INVALID_SPEC,
                        f"variable {variable.path!r} has two optimizers: {other!r} and {name!r}",
                        hint="Give every variable one optimizer: change `variables`, or the step's `optimizers`.",
                    )
    _refuse_orphans(step, models, owner)
    reached = {
        group: _once(
            variable
            for role in step.optimizers[group]
            for variable in models[role].trainable_variables
            if owner.get(id(variable)) in members
        )
        for group, members in groups.items()
    }
    return Ownership(owned, groups, reached)


def _failure(finding: Finding) -> JobFailure:
    return JobFailure(FailureCode.INVALID_SPEC, f"{finding.pointer}: {finding.message}", hint=finding.hint or None)


def _owned(
    name: str, reference: OptimizerSpec, trained: Mapping[str, Sequence[Any]], models: Mapping[str, keras.Model]
) -> list[Any]:
    if reference.variables is None:
        return _once(variable for variables in trained.values() for variable in variables)
    chosen: set[int] = set()
    for index, selection in enumerate(reference.variables):
        pointer = f"/optimizers/{name}/variables/{index}"
        model = models[selection.model]
        globs = ["*"] if selection.layers is None else selection.layers
        layers = [layer for _, layer in matching(model, globs, pointer=f"{pointer}/layers")]
        found = {id(variable) for layer in layers for variable in layer.trainable_variables}
        if not found:
            raise JobFailure(FailureCode.INVALID_SPEC, f"{pointer} holds no trainable variable")
        chosen |= found
    return _once(variable for variables in trained.values() for variable in variables if id(variable) in chosen)


def _once(variables: Iterator[Any]) -> list[Any]:
    return list({id(variable): variable for variable in variables}.values())


def _refuse_orphans(step: TrainingStep, models: Mapping[str, keras.Model], owner: Mapping[int, str]) -> None:
    for role, model in models.items():
        orphans = [v.path for v in model.trainable_variables if id(v) not in owner]
        if orphans and role not in step.frozen:
            raise JobFailure(
                FailureCode.INVALID_SPEC,
                f"no optimizer owns {len(orphans)} trainable variables of role {role!r}, the first is {orphans[0]!r}",
                hint="Add its layer to the `variables` of an optimizer, or its role to the step's `optimizers`; or "
                "freeze it: the model's `freeze`, the step's `frozen`.",
            )
