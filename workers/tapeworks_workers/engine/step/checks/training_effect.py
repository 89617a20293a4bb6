"""What the traced training step trains, compared with what the spec and the models say is trained.

Checked once the steps are traced, at the price of reading the graph's inputs: variables that the tape watched and no
optimizer owns, optimizers that the step never applies, losses and metrics that it never uses. A step that changes no
trainable variable of any model is refused: nothing could be learned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from tapeworks.errors import FailureCode, JobFailure, Location
from tapeworks_workers.engine.diagnostics import source_locations as places
from tapeworks_workers.engine.diagnostics.retracing import Note
from tapeworks_workers.engine.graph.tensorflow_private import read_only_inputs
from tapeworks_workers.engine.models.layer_paths import layers_by_path, listed
from tapeworks_workers.engine.step.assembly import Assembly
from tapeworks_workers.engine.step.compiled_step import CompiledStep

UNOWNED, UNUSED, NOTHING = "unowned_variable", "unused_part", "nothing_trained"


def training_notes(assembly: Assembly, step: CompiledStep) -> list[Note]:
    """What the training step does not train or use. Raises JobFailure `no_gradient` where nothing can be trained."""
    if step.concrete is None:
        return []
    written = _written(step.concrete.graph)
    trainable = {role: model.trainable_variables for role, model in assembly.models.items()}
    if not any(assembly.owned.values()):
        return [_nothing(assembly)] if assembly.step.optimizers and assembly.spec.training.epochs != 0 else []
    changed = any(id(variable.value.handle) in written for several in trainable.values() for variable in several)
    if not changed and assembly.spec.training.epochs != 0:
        raise JobFailure(
            FailureCode.NO_GRADIENT,
            f"the step {assembly.spec.step.component!r} changes no trainable variable of any model: "
            f"it applies none of its optimizers {listed(sorted(assembly.run.declared))}",
            hint="Call run.minimize(optimizer, loss, tape) in train_step. To evaluate only, set training.epochs to 0.",
            location=places.of_function(assembly.step.train_step),
        )
    return [*_unapplied(assembly), *_unowned(assembly, step.concrete.graph, written)]


def use_notes(assembly: Assembly, *, training: bool, fed: set[str], validates: bool) -> Iterator[Note]:
    """Losses that no step asked for, after all were traced; and metrics that one split does not feed.

    `training`: the split; `fed`: the roles whose metrics were; `validates`: whether validation is traced too.
    """
    place = places.of_function(assembly.step.train_step if training else assembly.step.validation_step)
    method, prefix = ("train_step", "") if training else ("validation_step", "val_")
    for role, metrics in assembly.metrics.items():
        if metrics and role not in fed:
            names = listed([f"{prefix}{metric.name}" for metric in metrics])
            yield Note(
                UNUSED,
                f"metrics of role {role!r} are never fed by {method}: {names} keep their initial values",
                f"Call run.update_metrics({role!r}, y, y_pred) in {method}, or leave them out of the spec.",
                place,
            )
    unused = [name for name in assembly.losses if name not in assembly.run.used_losses]
    if unused and (not training or not validates):
        yield Note(
            UNUSED,
            f"the step never calls the losses {listed(unused)} of the spec: they do not contribute to training",
            "Call run.losses[name](y, y_pred) in train_step, or leave the loss out of the spec and of the step's "
            "`losses`.",
            places.of_function(assembly.step.train_step),
        )


def _nothing(assembly: Assembly) -> Note:
    roles = listed([repr(role) for roles in assembly.step.optimizers.values() for role in roles])
    return Note(
        NOTHING,
        f"the job trains no variable: no model that an optimizer owns has a trainable variable ({roles})",
        "Take layers out of `freeze`, set `trainable`, or set training.epochs to 0 to evaluate only.",
    )


def _unapplied(assembly: Assembly) -> Iterator[Note]:
    for name in sorted(assembly.run.declared - assembly.run.applied):
        roles = listed([repr(role) for role in assembly.step.optimizers[name]])
        yield Note(
            UNUSED,
            f"the step declares the optimizer {name!r} and never applies it: what it owns of {roles} stays as it is",
            f"Call run.minimize({name!r}, loss, tape) in train_step, or name the roles in the step's `frozen`.",
            places.of_function(assembly.step.train_step),
        )


# ── variables that nobody owns ───────────────────────────────────────────────────────────────────


def _unowned(assembly: Assembly, graph: Any, written: set[int]) -> Iterator[Note]:
    """Trainable variables outside of all models that the tape watched and that nothing changes."""
    known = {id(v.value.handle) for model in assembly.models.values() for v in model.variables}
    known |= {id(v.value.handle) for metric in assembly.all_metrics() for v in metric.metric.variables}
    run = assembly.run
    # A step that takes gradients from its tape by itself shows no tape: all that its graph reads may be under it.
    read = list(run.watched.values()) if run.applied <= run.differentiated else list(graph.trainable_variables)
    for variable in read:
        if id(variable.handle) in known or id(variable.handle) in written:
            continue
        where, place = _holder(assembly, variable)
        shape = variable.shape.as_list() if variable.shape.rank is not None else "?"
        yield Note(
            UNOWNED,
            f"{where}: the trainable variable {variable.name!r} of shape {shape} is used in the forward pass, and no "
            "optimizer owns it: it stays as it begins, and no exported model holds it",
            "In a layer, make it by self.add_weight(...) in build, or assign the layer that makes it to an attribute: "
            "it is trained and saved then. What is meant to be constant is made with trainable=False.",
            place,
        )


def _holder(assembly: Assembly, variable: Any) -> tuple[str, Location | None]:
    for role, model in assembly.models.items():
        for path, layer in [("", model), *layers_by_path(model)]:
            name = _attribute(layer, variable)
            if name is not None:
                what = f"layer {path!r} ({type(layer).__name__}) of role {role!r}" if path else f"model {role!r}"
                return f"{what}, attribute {name}", places.of_function(layer.call)
    name = _attribute(assembly.step, variable)
    step = f"the step {assembly.spec.step.component!r}"
    where = step if name is None else f"{step}, attribute {name}"
    return where, places.of_function(assembly.step.train_step)


def _attribute(holder: Any, variable: Any) -> str | None:
    """The attribute through which an object holds a variable: itself, in containers, in modules and hidden layers."""
    seen: set[int] = set()

    def holds(value: Any, depth: int) -> bool:
        if value is variable or getattr(value, "_value", None) is variable:
            return True
        if depth == 0 or id(value) in seen or isinstance(value, str | bytes | int | float | type | None):
            return False
        seen.add(id(value))
        if isinstance(value, Mapping):
            return any(holds(one, depth - 1) for one in value.values())
        if isinstance(value, list | tuple | set):
            return any(holds(one, depth - 1) for one in value)
        if isinstance(value, keras.Layer):
            return any(holds(one, depth - 1) for one in value.variables)
        if isinstance(value, tf.Module) or type(value).__module__.partition(".")[0] not in ("keras", "tensorflow"):
            return any(holds(one, depth - 1) for one in vars(value).values()) if hasattr(value, "__dict__") else False
        return False

    own = {id(one) for one in getattr(holder, "_layers", ())}
    for name, value in vars(holder).items():
        internal = name.startswith("_self_") or name in ("_layers", "_tracker")
        if not internal and id(value) not in own and holds(value, 4):
            return f"self.{name}"
    return None


def _written(graph: Any) -> set[int]:
    """Ids of the handles of all variables that a graph assigns to, in branches and loops too."""
    read_only = read_only_inputs(graph)
    index = {id(tensor): position for position, tensor in enumerate(graph.inputs)}
    return {
        id(outer)
        for outer, inner in graph.captures
        if outer.dtype == tf.resource and index.get(id(inner)) not in read_only
    }
