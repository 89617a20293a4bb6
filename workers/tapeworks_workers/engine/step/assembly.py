"""Everything that is trained, put together in jobspec.md's order, and every value that a checkpoint must hold.

`assemble` clears Keras' global state, sets the seeds and builds: the step, the models in the order
the step declares, optimizers with all they own, losses, metrics, gradient transforms, the run; then
the step's own `build`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from tapeworks.components.interfaces import GradientTransform, TrainingStep
from tapeworks.errors import FailureCode, JobFailure
from tapeworks.spec.job_spec import JobSpec, LossSpec, OutputLosses
from tapeworks.spec.references import Kind
from tapeworks_workers.engine.comparison import recurrent_states
from tapeworks_workers.engine.devices.devices import Devices
from tapeworks_workers.engine.diagnostics.held_state import held_metrics, held_variables
from tapeworks_workers.engine.diagnostics.retracing import Note
from tapeworks_workers.engine.factory.build_context import BuildContext
from tapeworks_workers.engine.factory.data_files import DataFiles
from tapeworks_workers.engine.factory.factory import build
from tapeworks_workers.engine.graph.keras_private import global_seed
from tapeworks_workers.engine.graph.randomness import derive_seed, philox
from tapeworks_workers.engine.models.build import build_models, keras_inputs
from tapeworks_workers.engine.models.initial_state import InitialState
from tapeworks_workers.engine.models.initial_weights import Taken
from tapeworks_workers.engine.models.numbered_names import numbered_names
from tapeworks_workers.engine.models.outputs import output_names_of
from tapeworks_workers.engine.models.ownership import assign_variables
from tapeworks_workers.engine.models.stateful_rnn import every_batch
from tapeworks_workers.engine.step.fit_hooks import metrics_of, own_metrics, uncalled_hooks
from tapeworks_workers.engine.step.gradients import build_minimizers, build_transforms, named_metrics
from tapeworks_workers.engine.step.losses import Losses, OutputLoss, RoleLoss
from tapeworks_workers.engine.step.metrics import RoleMetric, build_metrics, gradient_metrics
from tapeworks_workers.engine.step.run import LazyMapping, Run

PRECISIONS = {
    "float32": ("float32", "float32"),
    "float64": ("float64", "float64"),
    "mixed_bfloat16": ("float32", "mixed_bfloat16"),
    "mixed_float16": ("float32", "mixed_float16"),
}
"""`training.precision` → (floatx, dtype policy)."""


@dataclass
class Assembly:
    """The parts of one job, built. Roles and names are the step's."""

    spec: JobSpec
    element_spec: Any
    """Nest of specs of one training batch; batch, ragged and sequence dimensions are None."""
    step: TrainingStep
    models: dict[str, keras.Model]
    input_specs: dict[str, Any]
    """Role → nest of specs that the model is called with."""
    optimizers: dict[str, keras.optimizers.Optimizer]
    owned: dict[str, list[Any]]
    losses: dict[str, Any]
    metrics: dict[str, list[RoleMetric]]
    transforms: dict[str, list[GradientTransform]]
    gradient_metrics: list[RoleMetric]
    """What transforms and loss scales tell of training; no role's."""
    run: Run
    inputs: frozenset[str] | None = None
    """The keys of the element's x that the models take, where they take x whole and by name."""
    taken: list[Taken] = field(default_factory=list)
    """What the models took from earlier jobs."""
    architectures: dict[str, dict[str, Any]] = field(default_factory=dict)
    """`from` → role → config of the earlier models that are part of these."""
    means: dict[str, tf.Variable] = field(default_factory=dict)
    """Running sums of a step's scalars, by split; made when the step is traced."""
    pending: dict[str, Any] = field(default_factory=dict)
    """Restored values of variables that tracing will make."""
    devices: Devices = field(default_factory=Devices)
    context: BuildContext = field(default_factory=BuildContext)
    """What callbacks and evaluators are built from."""
    captured: dict[str, tf.Variable] = field(default_factory=dict)
    """Variables that the traced steps use and no part above declares, by a name in the order of the trace."""

    def variables(self) -> dict[str, tf.Variable]:
        """Every value a checkpoint must hold, under a stable name, in a stable order."""
        named: dict[str, tf.Variable] = {}
        for role, model in self.models.items():
            inner = [v for v in model.metrics_variables if not any(v is known for known in model.variables)]
            for index, variable in enumerate([*model.variables, *inner]):
                named[f"models/{role}/{index}/{variable.path}"] = variable.value
        for name, optimizer in self.optimizers.items():
            for index, variable in enumerate(optimizer.variables):
                named[f"optimizers/{name}/{index}/{variable.path}"] = variable.value
        for metric in self.all_metrics():
            for index, variable in enumerate(metric.metric.variables):
                named[f"metrics/{metric.name}/{index}"] = variable.value
        for name, variable in self.run.variables().items():
            named[f"run/{name}"] = variable
        for role, model in self.models.items():
            for index, variable in enumerate(recurrent_states(model)):
                named[f"run/recurrent/{role}/{index}"] = variable.value
        named["run/keras_seed"] = global_seed().state.value
        if "training" in self.means:
            named["run/means"] = self.means["training"]
        known = {id(variable) for variable in named.values()}
        for name, transforms in self.transforms.items():
            for index, transform in enumerate(transforms):
                named.update(held_variables(transform, f"transforms/{name}/{index}", known, skip=Run))
        named.update(held_variables(self.step, "step", known, skip=Run))
        return {**named, **self.captured}

    def all_metrics(self, split: str = "training") -> Iterator[RoleMetric]:
        """The metrics of every role and the losses of its outputs; of training also the metrics of the gradients."""
        for metrics in self.metrics.values():
            yield from metrics
        for loss in self.losses.values():
            yield from loss.trackers
        if split == "training":
            yield from self.gradient_metrics

    def held_metrics(self) -> list[keras.metrics.Metric]:
        """The metrics that the models hold, and those that the step's attributes do: no metrics of the spec."""
        of_models = {id(metric) for model in self.models.values() for metric in metrics_of(model)}
        of_step = [metric for metric in held_metrics(self.step, skip=Run) if id(metric) not in of_models]
        return [*own_metrics(self.models.values()), *of_step]

    def notes(self) -> list[Note]:
        """What was found while tracing and is no failure."""
        measures = [*self.losses.values(), *(metric for metrics in self.metrics.values() for metric in metrics)]
        found = [note for one in measures for note in one.notes]
        return [*self.run.notes, *found, *uncalled_hooks(self.models, self.step, self.run.hooks_called)]

    def select(self, batch: Any) -> Any:
        """The batch with exactly the named inputs that the models take of the element's x."""
        x = batch[0] if isinstance(batch, tuple) else batch
        if self.inputs is None or not isinstance(x, Mapping) or set(x) == self.inputs:
            return batch
        chosen = {name: value for name, value in x.items() if name in self.inputs}
        return (chosen, *batch[1:]) if isinstance(batch, tuple) else chosen

    def selected(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """The dataset of such batches."""
        if self.inputs is None:
            return dataset
        if isinstance(dataset.element_spec, tuple):
            return dataset.map(lambda *batch: self.select(batch))
        return dataset.map(self.select)


def assemble(
    spec: JobSpec,
    element_spec: Any,
    *,
    datasets: Mapping[str, Any] | None = None,
    start: InitialState | None = None,
    files: DataFiles | None = None,
    devices: Devices | None = None,
) -> Assembly:
    """Build all parts of a job for batches of `element_spec`. `datasets` are what `run.datasets` offers to the step.

    `start`: what the models start from; by default layers adapt to `datasets["training"]`, and nothing is restored.
    `files`: what components may read, no file by default. `devices`: of the steps, one by default. Raises JobFailure.
    """
    reset(spec)
    context = BuildContext(files or DataFiles())
    with philox():
        step = build(spec.step, Kind.STEP, pointer="/step", context=context)
    given = datasets or {}
    if start is None:
        start = InitialState(training=(lambda: given["training"]) if "training" in given else None)
    # Outside: a seeded initialiser gives the numbers that it gives in plain Keras.
    models, input_specs, taken = build_models(
        spec, step, element_spec, start, files=context.files,
        batch_size=lambda: every_batch(given["training"]) if given else None,
    )  # fmt: skip
    devices = devices or Devices()
    with philox():
        ownership = assign_variables(spec, step, models)
        owned = ownership.owned
        optimizers = {name: _optimizer(spec, name, variables, context) for name, variables in owned.items()}
        losses = Losses({name: _role_loss(spec, name, models, step, context) for name in spec.losses})
        metrics = build_metrics(spec, models, lambda role: _outputs(models[role], input_specs.get(role)), context)
        transforms = build_transforms(spec, owned, context)
        minimizers = build_minimizers(spec, ownership, optimizers, transforms, devices)
        run = Run(
            models=models, losses=losses, optimizers=optimizers, minimizers=minimizers, metrics=metrics,
            seed=spec.training.seed,
        )  # fmt: skip
        assembly = Assembly(
            spec=spec, element_spec=element_spec, step=step, models=models, input_specs=input_specs,
            optimizers=optimizers, owned=owned, losses=losses, metrics=metrics, transforms=transforms, run=run,
            gradient_metrics=gradient_metrics(named_metrics(transforms, minimizers), metrics),
            inputs=_selection(step, models, input_specs, element_spec),
            taken=taken, architectures=start.inputs.used, context=context, devices=devices,
        )  # fmt: skip
        for loss in losses.values():
            loss.pending = assembly.pending
        run.training_step = step
        run.notes += numbered_names(spec, models, start.inputs)
        run.datasets = LazyMapping({name: partial(_selected, assembly, given, name) for name in given})
        step.build(run)
        devices.hold(models.values(), [global_seed().state])
    return assembly


def _selected(assembly: Assembly, datasets: Mapping[str, Any], name: str) -> Any:
    return assembly.selected(datasets[name])


def reset(spec: JobSpec) -> None:
    """Keras' global state as a new process has it, the job's precision, and every seed."""
    training = spec.training
    floatx, policy = PRECISIONS[training.precision]
    keras.utils.clear_session()
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)
    keras.utils.set_random_seed(derive_seed(training.seed, "keras"))
    global_seed()  # made now: a layer that asks for it first inside the trace would create a variable there


def _optimizer(spec: JobSpec, name: str, variables: list[Any], context: BuildContext) -> keras.optimizers.Optimizer:
    optimizer = build(spec.optimizers[name], Kind.OPTIMIZER, pointer=f"/optimizers/{name}", context=context)
    # A Keras optimizer refuses variables that it was not built with.
    optimizer.build(variables)
    return optimizer


def _outputs(model: keras.Model, input_spec: Any) -> Any:
    """The structure of a model's outputs; None where only the step knows."""
    structure = getattr(model, "_outputs_struct", None)  # of a functional model
    if structure is None and input_spec is not None:
        with contextlib.suppress(Exception):  # the step calls it again, and what it raises there is reported
            structure = model(keras_inputs(input_spec), training=False)
    return structure


def _role_loss(
    spec: JobSpec, name: str, models: Mapping[str, keras.Model], step: TrainingStep, context: BuildContext
) -> RoleLoss:
    """The loss of a role. A functional model's output names are known where the role is a model's."""
    reference, pointer = spec.losses[name], f"/losses/{name}"
    parts: list[tuple[str | None, OutputLoss]] = []
    if isinstance(reference, OutputLosses):
        for output, given in reference.outputs.items():
            for index, one in enumerate(given if isinstance(given, list) else [given]):
                if one is not None:
                    place = f"{pointer}/outputs/{output}" + (f"/{index}" if isinstance(given, list) else "")
                    parts.append((output, _loss(one, place, context)))
    else:
        parts.append((None, _loss(reference, pointer, context)))
    names = output_names_of(models[name]) if name in models else None
    return RoleLoss(name, parts, names, tracked=step.reports_output_losses)


def _loss(reference: LossSpec, pointer: str, context: BuildContext) -> OutputLoss:
    loss = build(reference, Kind.LOSS, pointer=pointer, context=context)
    return OutputLoss(loss, component=reference.component, weight=reference.weight)


def _selection(
    step: TrainingStep, models: Mapping[str, keras.Model], input_specs: Mapping[str, Any], element_spec: Any
) -> frozenset[str] | None:
    """A functional model given a dict with keys beside its own silently reads the wrong ones: never let it happen."""
    whole = element_spec[0] if isinstance(element_spec, tuple) else element_spec
    taken = {
        role: frozenset(spec)
        for role, spec in input_specs.items()
        if isinstance(spec, Mapping) and step.input_spec(role, element_spec, models) == whole
    }
    if len(set(taken.values())) > 1:
        raise JobFailure(
            FailureCode.INVALID_SPEC,
            "models take different inputs of one x: " + ", ".join(f"{r} {sorted(k)}" for r, k in taken.items()),
            hint="Give the step an input_spec(role, element, models) that names each role's part, and pass that part.",
        )
    return next(iter(taken.values()), None)
