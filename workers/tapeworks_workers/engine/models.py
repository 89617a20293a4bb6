"""The models of a job by role: built from their input specs, in the order the step declares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tapeworks.authoring import TrainingStep
from tapeworks.errors import FailureCode, JobFailure, Location
from tapeworks.references import Kind
from tapeworks.spec import JobSpec, ModelSpec
from tapeworks_workers.engine import sources_of_errors as places
from tapeworks_workers.engine.building import build
from tapeworks_workers.engine.diagnostics import text


def build_models(spec: JobSpec, step: TrainingStep, element_spec: Any) -> tuple[dict[str, keras.Model], dict[str, Any]]:
    """Role → model, and role → the nest of specs that it takes. Raises JobFailure."""
    check_roles(spec, step)
    models: dict[str, keras.Model] = {}
    input_specs: dict[str, Any] = {}
    for role in step.models:
        given = step.input_spec(role, element_spec, dict(models))
        models[role], input_specs[role] = build_model(spec.models[role], given, pointer=f"/models/{role}")
    return models, input_specs


def check_roles(spec: JobSpec, step: TrainingStep) -> None:
    """The spec must fill exactly the roles that the step declares. Raises JobFailure `invalid_spec`."""
    for place, given, declared in (
        ("models", spec.models, step.models),
        ("losses", spec.losses, step.losses),
    ):
        # A loss may be left out where the model adds its own; a step that asks for it is told by run.losses.
        missing = [name for name in declared if name not in given and place != "losses"]
        unknown = [name for name in given if name not in declared] if place != "losses" or declared else []
        if missing or unknown:
            what = f"lacks {missing}" if missing else f"has {unknown}, which the step does not declare"
            raise JobFailure(
                FailureCode.INVALID_SPEC, f"{place} {what}; step {spec.step.component!r} declares {list(declared)}"
            )
    unknown = [role for role in spec.metrics if role not in step.models]
    if unknown:
        raise JobFailure(FailureCode.INVALID_SPEC, f"metrics name {unknown}; the step's models are {list(step.models)}")


def build_model(reference: ModelSpec, input_spec: Any, *, pointer: str) -> tuple[keras.Model, Any]:
    """A built model, and the part of `input_spec` that it takes: a model with named inputs gets exactly those."""
    if reference.adapt or reference.initial_state or reference.copy_of or reference.freeze:
        raise JobFailure(
            FailureCode.NOT_SUPPORTED, f"{pointer}: adapt, initial_state, copy_of and freeze are not supported yet"
        )
    model = build(reference, Kind.MODEL, pointer=pointer)
    if type(model).train_step is not keras.Model.train_step:
        raise JobFailure(
            FailureCode.INVALID_SPEC,
            f"model {reference.component!r} overrides train_step",
            hint="Write a tapeworks.TrainingStep instead and name it in `step`.",
        )
    names = named_inputs(model)
    if names is not None and isinstance(input_spec, Mapping):
        missing = [name for name in names if name not in input_spec]
        if missing:
            raise JobFailure(
                FailureCode.INVALID_SPEC,
                f"model {reference.component!r} takes the inputs {names}; the element's x has {sorted(input_spec)}",
            )
        input_spec = {name: input_spec[name] for name in names}
    if not model.built:
        model = _built(model, input_spec, reference.component, pointer)
    return model, input_spec


def _built(model: keras.Model, input_spec: Any, name: str, pointer: str) -> keras.Model:
    if type(model) is keras.Sequential and not isinstance(input_spec, tf.TypeSpec):
        raise JobFailure(
            FailureCode.INVALID_SPEC,
            f"{pointer}: {name} takes one tensor, the element's x is {_listed(input_spec)}",
            hint="Give the source one vector of features, or take a model with named inputs (functional).",
        )
    try:
        if type(model) is keras.Sequential:
            # Sequential.build knows shapes only: with an input of its own the dtype comes back after a reload too.
            return keras.Sequential([keras_inputs(input_spec), *model.layers], name=model.name)
        model(keras_inputs(input_spec))
        return model
    except JobFailure:
        raise
    except Exception as error:
        raise JobFailure(
            FailureCode.COMPONENT_ERROR,
            f"{pointer}: {name} could not be built for {input_spec}: {type(error).__name__}: {text(error)}",
            location=places.location(error) or Location(component=name),
        ) from error


def _listed(input_spec: Any) -> str:
    return f"a dict of {', '.join(sorted(input_spec))}" if isinstance(input_spec, Mapping) else "several"


def named_inputs(model: keras.Model) -> list[str] | None:
    """The names of a functional model's inputs where it takes them by name, in its order; None elsewhere."""
    if not model.built or not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        return None
    if isinstance(model, keras.Sequential):
        return None  # it takes x whole, and one made from a config has no `input` before its first call
    struct = model.input
    if isinstance(struct, Mapping):
        return list(struct)
    return [tensor.name for tensor in tf.nest.flatten(struct)]


def keras_inputs(input_spec: Any) -> Any:
    """A nest of `keras.Input` for a nest of batch specs, named by key."""

    def one(path: tuple[Any, ...], spec: Any) -> Any:
        keys = [str(key) for key in path if isinstance(key, str)]
        return keras.Input(
            batch_shape=tuple(spec.shape),
            dtype=spec.dtype.name,
            name="_".join(keys) or None,
            ragged=isinstance(spec, tf.RaggedTensorSpec),
            sparse=isinstance(spec, tf.SparseTensorSpec),
        )

    return tf.nest.pack_sequence_as(input_spec, [one(path, spec) for path, spec in _flatten(input_spec, ())])


def _flatten(nest: Any, path: tuple[Any, ...]) -> list[tuple[tuple[Any, ...], Any]]:
    """Leaves with their paths, in tf.nest's order (dicts by sorted key)."""
    if isinstance(nest, Mapping):
        return [leaf for key in sorted(nest) for leaf in _flatten(nest[key], (*path, key))]
    if isinstance(nest, list | tuple):
        return [leaf for index, item in enumerate(nest) for leaf in _flatten(item, (*path, index))]
    return [(path, nest)]
