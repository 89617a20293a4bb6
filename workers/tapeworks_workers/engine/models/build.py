"""The models of a job by role: built from their input specs, in the order the step declares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from tapeworks.components.interfaces import TrainingStep
from tapeworks.components.registry import registry
from tapeworks.components.uncalled_methods import check_uncalled
from tapeworks.errors import ComponentError, FailureCode, JobFailure, Location
from tapeworks.spec.job_spec import Adapt, JobSpec, ModelSpec
from tapeworks.spec.references import Kind
from tapeworks.spec.step_roles import StepRoles, role_findings
from tapeworks_workers.engine.data.fitting import fitting_part
from tapeworks_workers.engine.diagnostics import source_locations as places
from tapeworks_workers.engine.diagnostics.error_text import text
from tapeworks_workers.engine.factory.build_context import BuildContext
from tapeworks_workers.engine.factory.data_files import DataFiles
from tapeworks_workers.engine.factory.factory import build
from tapeworks_workers.engine.models.adapt import LayerAdapter, unadapted
from tapeworks_workers.engine.models.initial_state import InitialState, freeze, initialise
from tapeworks_workers.engine.models.initial_weights import Taken
from tapeworks_workers.engine.models.layer_paths import layers_by_path
from tapeworks_workers.engine.models.stateful_rnn import call_once, stateful_path, with_batch_size


def build_models(
    spec: JobSpec,
    step: TrainingStep,
    element_spec: Any,
    start: InitialState | None = None,
    *,
    batch_size: Callable[[], int | None] = lambda: None,
    files: DataFiles | None = None,
) -> tuple[dict[str, keras.Model], dict[str, Any], list[Taken]]:
    """Role → model, role → the nest of specs that it takes, and the weights that were taken. Raises JobFailure.

    Models are built role by role and their layers adapted; then come initial states, copies and frozen layers.
    `batch_size`: of every training batch, None where one may be short; asked for stateful RNNs only. `files`:
    what a model may read.
    """
    start = InitialState() if start is None else start
    check_roles(spec, step)
    models: dict[str, keras.Model] = {}
    input_specs: dict[str, Any] = {}
    adapted: dict[str, set[str]] = {}
    context = BuildContext(files or DataFiles(), start.inputs)
    for role in roles_of(step):
        given = step.input_spec(role, element_spec, dict(models))
        preparation = RoleBuilder(spec, role, start)
        models[role], input_specs[role] = build_model(
            spec.models[role], given, pointer=f"/models/{role}", preparation=preparation, batch_size=batch_size,
            context=context,
        )  # fmt: skip
        adapted[role] = preparation.check(models[role])
    taken = initialise(spec, models, start, adapted)
    freeze(spec, models)
    return models, input_specs, taken


def roles_of(step: TrainingStep) -> list[str]:
    """The roles of a step: its models, then what it holds frozen beside them."""
    return list(dict.fromkeys([*step.models, *step.frozen]))


@dataclass
class RoleBuilder:
    """What happens to the layers of one role before it is built."""

    spec: JobSpec
    role: str
    start: InitialState
    adapting: LayerAdapter | None = None

    @property
    def adapts(self) -> list[Adapt]:
        """A copy learns what its origin does, from the same data."""
        model = self.spec.models[self.role]
        return self.spec.models[model.copy_of].adapt if model.copy_of is not None else model.adapt

    def begin(self, made: Any, input_spec: Any) -> LayerAdapter:
        """`made`: the model or draft whose layers are named."""
        self.adapting = LayerAdapter(
            made,
            self.adapts,
            stored=lambda path: self.start.outside(self.spec, self.role, path, layers_by_path(made)),
            restoring=self.start.restored is not None,
            batches=lambda: self._batches(input_spec),
            pointer=f"/models/{self.role}",
            columns=self.start.columns,
        )
        self._refuse_unlearned(made, self.adapting.prepared)
        return self.adapting

    def _batches(self, input_spec: Any) -> Iterator[Any]:
        """The role's inputs, batch by batch, eagerly."""
        if self.start.training is None:
            raise JobFailure(FailureCode.INVALID_SPEC, f"/models/{self.role}/adapt: there is no data to adapt to")
        dataset = self.start.training()
        endless = dataset.cardinality() == tf.data.INFINITE_CARDINALITY
        if endless and any(adapt.take is None for adapt in self.adapts):
            raise JobFailure(
                FailureCode.INVALID_SPEC,
                f"/models/{self.role}/adapt: the training split never ends",
                hint="Give `take`, the number of batches to adapt to.",
            )
        for batch in dataset:
            x = fitting_part(input_spec, batch)
            if x is None:
                raise JobFailure(
                    FailureCode.INVALID_SPEC,
                    f"/models/{self.role}/adapt: the step feeds this role what no element holds ({input_spec})",
                )
            yield x

    def check(self, model: keras.Model) -> set[str]:
        """Paths of what has learned. Raises JobFailure where a layer neither learned nor was given anything."""
        learned = self.adapting.learned if self.adapting is not None else set()
        self._refuse_unlearned(model, learned)
        return learned

    def _refuse_unlearned(self, model: Any, learned: set[str]) -> None:
        """Before the model is built, since it may not even build then; and after, for layers made meanwhile."""
        if self.start.restored is not None:
            return
        loaded = {id(layer) for one in self.start.inputs.loaded for _, layer in layers_by_path(one)}
        for path, layer in layers_by_path(model):
            if path in learned or id(layer) in loaded or not unadapted(layer):
                continue
            if not self.start.begins_with(self.spec, self.role, path):
                raise JobFailure(
                    FailureCode.INVALID_SPEC,
                    f"/models/{self.role}: the layer {path!r} ({type(layer).__name__}) is not adapted",
                    hint=f'Add "adapt": [{{"layer": "{path}"}}] beside the model\'s config, or give it what it '
                    "would learn (mean and variance, a vocabulary, bin_boundaries).",
                )


def check_roles(spec: JobSpec, step: TrainingStep) -> None:
    """The spec must fill the roles of the step, which its `__init__` may have set. Raises JobFailure `invalid_spec`."""
    roles = StepRoles(
        models=step.models, optimizers=step.optimizers, losses=step.losses, optional_losses=step.optional_losses,
        frozen=step.frozen, validation_step=type(step).can_validate(),
    )  # fmt: skip
    for finding in role_findings(spec, spec.step.component, roles):
        message = f"{finding.pointer}: {finding.message}"
        raise JobFailure(FailureCode.INVALID_SPEC, message, hint=finding.hint or None)


def build_model(
    reference: ModelSpec,
    input_spec: Any,
    *,
    pointer: str,
    preparation: RoleBuilder | None = None,
    batch_size: Callable[[], int | None] = lambda: None,
    context: BuildContext | None = None,
) -> tuple[keras.Model, Any]:
    """A built model, and the part of `input_spec` that it takes: a model with named inputs gets exactly those."""
    made = build(reference, Kind.MODEL, pointer=pointer, draft=True, context=context)
    try:
        component = registry.find(Kind.MODEL, reference.component)
        package = None if component is None else component.package_name
        check_uncalled(type(made), Kind.MODEL, reference.component, package=package)
    except ComponentError as error:  # a function may return a model whose class is no component
        raise JobFailure(FailureCode.INVALID_SPEC, str(error)) from error
    names = named_inputs(made)
    if names is not None and isinstance(input_spec, Mapping):
        missing = [name for name in names if name not in input_spec]
        if missing:
            raise JobFailure(
                FailureCode.INVALID_SPEC,
                f"model {reference.component!r} takes the inputs {names}; the element's x has {sorted(input_spec)}",
            )
        input_spec = {name: input_spec[name] for name in names}
    input_spec = with_batch_size(made, input_spec, batch_size, pointer=pointer)
    adapting = preparation.begin(made, input_spec) if preparation is not None else None
    if not isinstance(made, keras.Model):
        return _finished(made, input_spec, reference.component, pointer, adapting), input_spec
    if made.built:
        if adapting is not None and adapting.concerned:
            adapting.inside(made, _whole, None)
        return made, input_spec
    return _built(made, input_spec, reference.component, pointer, adapting), input_spec


def _whole(x: Any) -> Any:
    return x


def _finished(draft: Any, input_spec: Any, name: str, pointer: str, adapting: LayerAdapter | None) -> keras.Model:
    """A graph, built node by node from the element's inputs."""
    if not isinstance(input_spec, Mapping) and len(draft.input_names) != 1:
        raise JobFailure(
            FailureCode.INVALID_SPEC,
            f"{pointer}: {name} takes the inputs {draft.input_names}; the element's x is one tensor",
            hint="A name in `from` that is not a node is an input.",
        )
    given = keras_inputs(input_spec)
    if not isinstance(given, Mapping):
        given = keras_inputs({draft.input_names[0]: input_spec})[draft.input_names[0]]

    def before(path: str, layer: keras.Layer, inputs: Any, argument: Any) -> None:
        if adapting is not None and adapting.concerned:
            adapting.reach(path, layer, keras.Model(inputs, argument), argument)

    with _naming_model(name, input_spec, pointer):
        return draft.build_model(given, before)


def _built(model: keras.Model, input_spec: Any, name: str, pointer: str, adapting: LayerAdapter | None) -> keras.Model:
    if type(model) is keras.Sequential and not isinstance(input_spec, tf.TypeSpec):
        raise JobFailure(
            FailureCode.INVALID_SPEC,
            f"{pointer}: {name} takes one tensor, the element's x is {_listed(input_spec)}",
            hint="Give the source one vector of features, or take a model with named inputs (functional).",
        )
    with _naming_model(name, input_spec, pointer):
        if adapting is not None and adapting.concerned:
            adapting.inside(model, _whole, keras_inputs(input_spec))
        if type(model) is keras.Sequential:
            # Sequential.build knows shapes only: with an input of its own the dtype comes back after a reload too.
            return keras.Sequential([keras_inputs(input_spec), *model.layers], name=model.name)
        if not model.built:
            call_once(model, input_spec) if stateful_path(model) else model(keras_inputs(input_spec))
        return model


@contextmanager
def _naming_model(name: str, input_spec: Any, pointer: str) -> Iterator[None]:
    """Errors of a build, in the spec's terms."""
    try:
        yield
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


def named_inputs(model: Any) -> list[str] | None:
    """The names of a functional model's inputs where it takes them by name, in its order; None elsewhere."""
    if not isinstance(model, keras.Model):
        return list(model.input_names)  # a draft
    if not model.built or not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        return None
    if isinstance(model, keras.Sequential):
        return None  # it takes x whole, and one made from a config has no `input` before its first call
    struct = model.input
    if isinstance(struct, Mapping):
        return list(struct)
    return [tensor.name for tensor in tf.nest.flatten(struct)]


def keras_inputs(input_spec: Any) -> Any:
    """A nest of `keras.Input` for a nest of batch specs, named by key; a slash, which Keras refuses, becomes `_`."""
    taken: set[str] = set()

    def named(path: tuple[Any, ...]) -> str | None:
        name = "_".join(str(key) for key in path if isinstance(key, str)).replace("/", "_")
        while name and name in taken:
            name += "_"
        taken.add(name)
        return name or None

    def one(path: tuple[Any, ...], spec: Any) -> Any:
        return keras.Input(
            batch_shape=tuple(spec.shape),
            dtype=spec.dtype.name,
            name=named(path),
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
