"""The values of an assembly as a snapshot, and a snapshot put back into an assembly."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from tapeworks_workers.engine.models import layer_state
from tapeworks_workers.engine.step.metrics import is_built

if TYPE_CHECKING:
    from tapeworks_workers.engine.step.assembly import Assembly
from tapeworks_workers.engine.checkpoints.snapshot import EXTRA, Snapshot, _unfit


def snapshot(assembly: Assembly, counters: dict[str, Any]) -> Snapshot:
    """Copy every value to the host."""
    values = {name: variable.numpy() for name, variable in assembly.variables().items()}
    return Snapshot({**values, **layer_state.of_models(assembly.models)}, dict(counters))


def restore(assembly: Assembly, state: Snapshot) -> None:
    """Put a snapshot back. Raises JobFailure `checkpoint_corrupt` naming what does not fit; nothing is changed then.

    What is kept outside variables was put back when the models were built (`assemble`): here it must be there.
    """
    variables = assembly.variables()
    values = {name: value for name, value in state.values.items() if not name.startswith((EXTRA, layer_state.PREFIX))}
    _check_outside(assembly, state)
    later = {name for name in values if _made_by_tracing(assembly, name)}
    missing = sorted(set(variables) - set(values))
    unknown = sorted(set(values) - set(variables) - later)
    if missing or unknown:
        what = f"lacks {missing[0]!r}" if missing else f"holds {unknown[0]!r}, which the job does not have"
        raise _unfit(f"{what} ({len(missing)} missing, {len(unknown)} unknown)")
    for name, variable in variables.items():
        value = values[name]
        if tuple(variable.shape) != value.shape or variable.dtype.as_numpy_dtype != value.dtype:
            found = f"{value.dtype} {list(value.shape)}"
            raise _unfit(f"holds {name!r} as {found}, the job has {variable.dtype.name} {variable.shape.as_list()}")
    for name, variable in variables.items():
        variable.assign(values[name])
    assembly.pending.update({name: values[name] for name in later})
    for model in assembly.models.values():
        layer_state.finalize(model)


def _check_outside(assembly: Assembly, state: Snapshot) -> None:
    held = {name: value for name, value in state.values.items() if name.startswith(layer_state.PREFIX)}
    present = layer_state.of_models(assembly.models)
    for name in sorted({*held, *present}):
        if name not in held or name not in present or not np.array_equal(held[name], present[name]):
            raise _unfit(f"does not hold the {name!r} that the models were built with")


def _made_by_tracing(assembly: Assembly, name: str) -> bool:
    """Whether tracing makes or resets the variable: the means, and those of metrics built at their first update.

    So are the means of the losses of several outputs, whose names are the outputs'.
    """
    tracked = any(loss.tracked and not loss.trackers for loss in assembly.losses.values())
    if tracked and re.fullmatch(r"metrics/.+_loss/\d+", name):
        return True
    unbuilt = [f"metrics/{item.name}/" for item in assembly.all_metrics() if not is_built(item.metric)]
    return (name == "run/means" and "training" not in assembly.means) or name.startswith(tuple(unbuilt))
