"""Who owns which variables, and what is done to their gradients before they are applied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from tapeworks.authoring import GradientTransform, TrainingStep
from tapeworks.errors import FailureCode, JobFailure
from tapeworks.references import Kind
from tapeworks.spec import JobSpec
from tapeworks_workers.engine.building import build


def owned_variables(step: TrainingStep, models: Mapping[str, keras.Model]) -> dict[str, list[Any]]:
    """Optimizer → the trainable variables of the roles it owns, each once, in the models' order.

    Raises JobFailure `invalid_spec` where a variable has two owners, or none and is not frozen.
    """
    owner: dict[int, str] = {}
    owned: dict[str, list[Any]] = {}
    for name, roles in step.optimizers.items():
        owned[name] = []
        for role in roles:
            for variable in models[role].trainable_variables:
                other = owner.setdefault(id(variable), name)
                if other != name:
                    raise JobFailure(
                        FailureCode.INVALID_SPEC,
                        f"variable {variable.path!r} of role {role!r} has two optimizers: {other!r} and {name!r}",
                        hint="Give every variable one optimizer: change the step's `optimizers`.",
                    )
                if not any(variable is known for known in owned[name]):
                    owned[name].append(variable)
    for role, model in models.items():
        orphans = [v.path for v in model.trainable_variables if id(v) not in owner]
        if orphans and role not in step.frozen:
            raise JobFailure(
                FailureCode.INVALID_SPEC,
                f"no optimizer owns {len(orphans)} trainable variables of role {role!r}, the first is {orphans[0]!r}",
                hint="Name the role in the step's `optimizers`, or in `frozen`.",
            )
    return owned


def build_transforms(spec: JobSpec, owned: Mapping[str, Sequence[Any]]) -> dict[str, list[GradientTransform]]:
    """Optimizer → its transforms in the spec's order; each optimizer has instances, so state, of its own."""
    transforms: dict[str, list[GradientTransform]] = {name: [] for name in owned}
    for index, item in enumerate(spec.gradients):
        if item.optimizer is not None and item.optimizer not in owned:
            raise JobFailure(
                FailureCode.INVALID_SPEC,
                f"gradients/{index} names the optimizer {item.optimizer!r}; the step has {sorted(owned)}",
            )
        for name in owned if item.optimizer is None else [item.optimizer]:
            transform = build(item, Kind.GRADIENT_TRANSFORM, pointer=f"/gradients/{index}")
            transform.build(list(owned[name]))
            transforms[name].append(transform)
    return transforms
