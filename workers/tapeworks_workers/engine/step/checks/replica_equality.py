"""Whether a step on several devices computes what it computes on one: tried on the first batch, before training.

A loss that is no mean of rows (in-batch negatives, a sum, a mean over what a mask leaves), a variable that a step
assigns once on each device, random numbers that no rows can be cut from: each gives other gradients, scalars or state
on two devices than on one. Such a job is refused, with the first value that differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tapeworks.errors import FailureCode, JobFailure
from tapeworks_workers.engine.models.layer_paths import layers_by_path
from tapeworks_workers.engine.step.assembly import Assembly
from tapeworks_workers.engine.step.compiled_step import as_tensors, compile_train_step

TOLERANCE = {"float64": 1e-6, "float32": 1e-3, "mixed_bfloat16": 0.1, "mixed_float16": 0.02}
"""Relative to the largest gradient of an optimizer, and to a scalar: sums in another order, and rounding."""


_COMPARED = ("models/", "step/", "captured/", "run/streams", "run/keras")


def check_replicas(assembly: Assembly, batch: Any) -> None:
    """Raise JobFailure `not_supported` where several devices would train something else than one."""
    _check_stateful(assembly)
    with assembly.devices.alone():
        one = _tried(assembly, batch)
    several = _tried(assembly, batch)
    if (off := next(_differing(assembly, one, several), None)) is not None:
        raise JobFailure(
            FailureCode.NOT_SUPPORTED,
            f"the step computes something else on {len(assembly.devices.names)} devices than on one: on the first "
            f"batch {off}",
            hint="Set resources.gpus to 1. Several devices need losses that are means over examples, each of which "
            "depends on its own row alone, random numbers with one row an example, and no variable that a step or "
            "layer assigns by itself.",
        )


def _check_stateful(assembly: Assembly) -> None:
    for role, model in assembly.models.items():
        for path, layer in layers_by_path(model):
            if getattr(layer, "stateful", False):
                raise JobFailure(
                    FailureCode.NOT_SUPPORTED,
                    f"models.{role}: the layer {path!r} is stateful, which several devices cannot share",
                    hint="Set resources.gpus to 1, or stateful to false.",
                )


def _tried(assembly: Assembly, batch: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """(scalars, gradients by optimizer and call, state) of one step on the batch; the state is put back."""
    run, notes = assembly.run, list(assembly.run.notes)
    state = {**assembly.variables(), **{f"means/{name}": one for name, one in assembly.means.items()}}
    for index, variable in enumerate(v for loss in assembly.losses.values() for v in loss.label_variables()):
        state[f"labels/{index}"] = variable
    before = {name: variable.numpy() for name, variable in state.items()}
    body = compile_train_step(assembly, eager=True).body

    def step(given: Any) -> Any:
        run.gradients_seen = {}
        scalars = body(given)
        seen, run.gradients_seen = run.gradients_seen, None
        dense = {
            f"{name}/{call}/{index}": tf.convert_to_tensor(one)
            for name, calls in seen.items()
            for call, gradients in enumerate(calls)
            for index, one in enumerate(gradients)
            if one is not None
        }
        return scalars, dense

    try:
        assembly.devices.renew()
        traced = tf.function(step, input_signature=[assembly.element_spec], autograph=False)
        scalars, gradients = traced(as_tensors(batch, assembly.element_spec))
        after = {name: variable.numpy() for name, variable in assembly.variables().items()}
    finally:
        run.gradients_seen, run.notes = None, notes
        for name, variable in state.items():
            variable.assign(before[name])
    return _arrays(scalars), _arrays(gradients), after


def _arrays(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.numpy() for name, value in values.items()}


def _differing(assembly: Assembly, one: Any, several: Any) -> Iterator[str]:
    """What is not the same, the most telling first."""
    tolerance = TOLERANCE[assembly.spec.training.precision]
    for name, value in one[0].items():
        other = several[0][name]
        if not _close(value, other, tolerance * max(abs(float(value)), 1e-3)):
            yield f"{name!r} is {float(value):.6g} on one and {float(other):.6g} on several"
    largest: dict[str, float] = {}
    for name, value in one[1].items():
        call = name.rpartition("/")[0]
        largest[call] = max(largest.get(call, 0.0), float(np.abs(value.astype(np.float64)).max(initial=0.0)))
    for name, value in one[1].items():
        call, _, index = name.rpartition("/")
        if not _close(value, several[1][name], tolerance * largest[call] + 1e-12):
            optimizer = call.rpartition("/")[0]
            yield f"a gradient of optimizer {optimizer!r} differs (number {index} of its variables)"
    trained = {id(variable.value) for model in assembly.models.values() for variable in model.trainable_variables}
    for name, variable in assembly.variables().items():
        # Weights and the optimizers' state follow from the gradients; metrics and means are reported.
        if id(variable) in trained or not name.startswith(_COMPARED):
            continue
        value, other = one[2][name], several[2][name]
        scale = float(np.abs(value.astype(np.float64)).max(initial=0.0)) if value.dtype.kind in "fiu" else 0.0
        if not _close(value, other, tolerance * max(scale, 1e-3)):
            yield f"the variable {name!r} differs"


def _close(one: Any, other: Any, allowed: float) -> bool:
    if one.dtype.kind not in "fiu" and one.dtype.name != "bfloat16":
        return bool(np.array_equal(one, other))
    a, b = np.asarray(one).astype(np.float64), np.asarray(other).astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        return bool(np.all(same | (np.abs(a - b) <= allowed)))
