"""A small job for a component: the spec that trains with it, on the data of its example.

Interface: `trial_job(component)` gives a `TrialJob`, or raises NotTried. A step with several models has none: nothing
says which models fit together, and the jobs beside it try it.

    layer, model                  alone: a mean squared error where there is one output, else outputs are made small
    loss, metric                  a dense model whose outputs have the shape of y_pred
    regularizer, constraint, …    one dense layer
    transform, dataset_function   data alone: what it gives is summed
    source                        the same
    callback, evaluator           a classifier of iris
    step of one model             the same, without metrics
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tapeworks.components.examples import Form
from tapeworks.components.loading import load_components
from tapeworks.components.registry import Component, registry
from tapeworks.components.step_roles import declared_roles
from tapeworks.spec.references import Kind
from tapeworks_workers.engine.data.example_tensors import NotTried, Part
from tapeworks_workers.engine.data.operations import takes_seed
from tapeworks_workers.engine.factory.factory import build
from tapeworks_workers.engine.models.adapt import unadapted
from tapeworks_workers.engine.models.layer_paths import layers_by_path

PARTS = Path(__file__).with_name("trial") / "component_trial.py"
ROWS = 4
BATCHES = 3
TRAINING = {"epochs": 2, "checkpoint": {"every_steps": 2, "every_seconds": None, "keep": 10}, "report_every_steps": 1}
IRIS: dict[str, Any] = {
    "data": {"source": "iris", "validation": 0.2, "pipeline": [{"op": "batch", "batch_size": 30}]},
    "model": {"component": "mlp", "config": {"hidden": [4], "outputs": 3}},
    "loss": {"component": "keras/SparseCategoricalCrossentropy", "config": {"from_logits": True}},
    "metrics": ["keras/SparseCategoricalAccuracy"],
    "optimizer": "keras/Adam",
    "training": TRAINING,
}


@dataclass(frozen=True)
class TrialJob:
    """The document of a job, and whether a value in it is not the author's."""

    spec: dict[str, Any]
    invented: bool
    guessed: bool = False
    """Whether the job around it is one that its author may never run."""


def trial_job(component: Component) -> TrialJob:
    """The job of a component that was admitted. Raises NotTried where there is nothing to try it on."""
    if "component_trial" not in {one.module for one in registry}:
        load_components([PARTS])
    return _MAKERS[component.kind](component)


def _reference(component: Component) -> dict[str, Any]:
    return {"component": component.name, "config": dict((component.example or {}).get("config", {}))}


def _part(component: Component, name: str, default: Any = None, *, batched: bool = True) -> Part:
    example = component.example or {}
    if name not in example and default is None:
        raise NotTried(f"it has no example with {name!r}")
    return Part(example.get(name, default), size=ROWS, batched=batched)


def _data(component: Component, elements: Callable[[], Any], *, batched: bool = True) -> dict[str, Any]:
    import component_trial  # type: ignore[import-not-found]  # loaded as a user's file is

    name = f"{component.kind}/{component.name}"
    component_trial.ELEMENTS[name] = elements
    source = {"component": f"component_trial/{'Batches' if batched else 'Elements'}", "config": {"name": name}}
    return {"source": source, "validation": source}


def _repeated(values: Any) -> Callable[[], Any]:
    return lambda: tf.data.Dataset.from_tensors(values).repeat(BATCHES)


# ── models ───────────────────────────────────────────────────────────────────────────────────────


def _of_layer(of: Component) -> TrialJob:
    part = _part(of, "inputs")
    keras.utils.clear_session(free_memory=False)  # layers are numbered as in the job
    instance, outputs = _called(of, part)
    rows = next((leaf.shape[0] for leaf in outputs if isinstance(leaf, tf.Tensor) and leaf.shape.rank), 1)
    model = _reference(of) if of.kind is Kind.MODEL else _around(of, part)
    model["adapt"] = [{"layer": path} for path in _unadapted(of, instance)]
    job: dict[str, Any] = {"model": model, "optimizer": "keras/Adam", "training": TRAINING}
    dense = [leaf for leaf in outputs if isinstance(leaf, tf.Tensor) and leaf.dtype.is_floating]
    if len(outputs) == len(dense) == 1 and dense[0].shape.rank and dense[0].shape.rank > 1:
        y = np.random.default_rng(1).uniform(size=dense[0].shape).astype(dense[0].dtype.name)
        job["loss"] = "keras/MeanSquaredError"
    else:
        y = np.zeros(rows, np.float32)
        job["step"] = "component_trial/Squares"
    if not dense:
        job["training"] = {**TRAINING, "epochs": 0}  # nothing can be learned: it is exported and reloaded
    return TrialJob({"data": _data(of, _repeated((_tuples(part.values), y))), **job}, part.invented)


def _called(of: Component, part: Part) -> tuple[Any, list[Any]]:
    """The component and what it gives for its example. Raises NotTried where that fails: admission has reported it."""
    try:
        instance = build(_reference(of), of.kind)
        return instance, tf.nest.flatten(instance(part.values, training=False))
    except Exception as error:
        raise NotTried("its example cannot be called") from error


def _unadapted(of: Component, instance: Any) -> list[str]:
    """Paths in the job's model of layers that learn from data before training."""
    if of.kind is Kind.MODEL:
        return [path for path, layer in layers_by_path(instance) if unadapted(layer)]
    inner = [path for path, layer in layers_by_path(instance) if unadapted(layer)]
    own = [instance.name] if unadapted(instance) else []
    return own + [f"{instance.name}/{path}" for path in inner]


def _tuples(nest: Any) -> Any:
    """tf.data makes one tensor of a list."""
    if isinstance(nest, Mapping):
        return {key: _tuples(item) for key, item in nest.items()}
    return tuple(_tuples(item) for item in nest) if isinstance(nest, (list, tuple)) else nest


def _around(of: Component, part: Part) -> dict[str, Any]:
    """A model that holds the layer, and a variable behind each dense float output."""
    config = {"layer": _reference(of), "inputs": _documents(part.specs)}
    return {"component": "component_trial/around", "config": config}


def _documents(specs: Any) -> Any:
    """A nest of specs as JSON."""
    if isinstance(specs, Mapping):
        return {key: _documents(item) for key, item in specs.items()}
    if isinstance(specs, (list, tuple)):
        return [_documents(item) for item in specs]
    ragged, sparse = isinstance(specs, tf.RaggedTensorSpec), isinstance(specs, tf.SparseTensorSpec)
    shape = [None, *specs.shape.as_list()[1:]]
    return {"shape": shape, "dtype": specs.dtype.name, "sparse": sparse, "ragged": ragged}


# ── losses and metrics ───────────────────────────────────────────────────────────────────────────

_COLUMN = Form((None, 1), "float32")


def _of_pair(of: Component) -> TrialJob:
    y_true, y_pred = _part(of, "y_true", _COLUMN), _part(of, "y_pred", _COLUMN)
    outputs, y = y_pred.values, y_true.values
    if not isinstance(outputs, tf.Tensor) or not outputs.dtype.is_floating or not outputs.shape.rank:
        raise NotTried("its y_pred is not one tensor of floats")
    shape = list(outputs.shape[1:])
    layers = [
        {"component": "keras/Dense", "config": {"units": max(1, math.prod(shape)), "activation": "sigmoid"}},
        {"component": "keras/Reshape", "config": {"target_shape": shape}},
    ]
    x = np.random.default_rng(0).uniform(size=(outputs.shape[0], 4)).astype(np.float32)
    job: dict[str, Any] = {
        "data": _data(of, _repeated((x, y))),
        "model": {"component": "sequential", "config": {"layers": layers}},
        "optimizer": "keras/Adam",
        "training": TRAINING,
    }
    if of.kind is Kind.LOSS:
        job["loss"] = _reference(of)
    else:
        job |= {"step": "component_trial/Squares", "metrics": [_reference(of)]}
    return TrialJob(job, invented=True)  # the outputs of a model are not the author's y_pred


# ── one dense layer ──────────────────────────────────────────────────────────────────────────────


def _of_weights(argument: str) -> Callable[[Component], TrialJob]:
    def made(of: Component) -> TrialJob:
        part = _part(of, "inputs", Form((4, 3), "float32"), batched=False)
        specs = part.specs
        if not isinstance(specs, tf.TensorSpec) or specs.shape.rank != 2 or None in specs.shape:
            raise NotTried("its example is not a kernel of a dense layer")
        rows, columns = specs.shape
        return _dense(of, int(rows), int(columns), {argument: _reference(of)})

    return made


def _dense(of: Component, features: int, units: int, config: Mapping[str, Any] | None = None, **job: Any) -> TrialJob:
    random = np.random.default_rng(0)
    x, y = (random.uniform(size=(ROWS, size)).astype(np.float32) for size in (features, units))
    layers = [{"component": "keras/Dense", "config": {"units": units, **(config or {})}}]
    spec = {
        "data": _data(of, _repeated((x, y))),
        "model": {"component": "sequential", "config": {"layers": layers}},
        "loss": "keras/MeanSquaredError",
        "optimizer": "keras/Adam",
        "training": TRAINING,
        **job,
    }
    return TrialJob(spec, invented=False)


def _of_optimizer(of: Component) -> TrialJob:
    return _dense(of, 4, 3, optimizer=_reference(of))


def _of_schedule(of: Component) -> TrialJob:
    return _dense(of, 4, 3, optimizer={"component": "keras/SGD", "config": {"learning_rate": _reference(of)}})


def _of_gradients(of: Component) -> TrialJob:
    return _dense(of, 4, 3, gradients=[_reference(of)])


# ── data ─────────────────────────────────────────────────────────────────────────────────────────


def _reading(data: dict[str, Any]) -> dict[str, Any]:
    return {
        "data": data,
        "step": "component_trial/Reads",
        "model": {"component": "mlp", "config": {"hidden": [], "outputs": 1}},
        "optimizer": "keras/SGD",
        "training": {**TRAINING, "steps_per_epoch": 3},
    }


def _of_source(of: Component) -> TrialJob:
    source = build(_reference(of), Kind.SOURCE)
    dataset = source.dataset()
    batch = [] if getattr(source, "batched", False) else [_batch(dataset.element_spec)]
    return TrialJob(_reading({"source": _reference(of), "pipeline": batch}), invented=False)


def _batch(element: Any) -> dict[str, Any]:
    """Two elements where all have one shape, else one."""
    fixed = all(isinstance(leaf, tf.TensorSpec) and leaf.shape.is_fully_defined() for leaf in tf.nest.flatten(element))
    return {"op": "batch", "batch_size": 2 if fixed else 1}


def _of_transform(of: Component) -> TrialJob:
    part = _part(of, "inputs", batched=False)
    element = part.values if isinstance(part.values, tuple) else (part.values,)
    function = build(_reference(of), Kind.TRANSFORM)
    seed = {"seed": tf.constant([0, 0], tf.int64)} if takes_seed(function) else {}
    specs = part.specs if isinstance(part.specs, tuple) else (part.specs,)
    traced = tf.function(lambda *parts: function(*parts, **seed), input_signature=specs).get_concrete_function()
    made = traced.structured_outputs
    keeps = isinstance(made, tf.Tensor | tf.TensorSpec) and made.dtype == tf.bool and made.shape.rank == 0
    operation = {"op": "filter" if keeps else "map", "function": _reference(of)}
    return _piped(of, part, element, operation, part.specs if keeps else made)


def _of_dataset_function(of: Component) -> TrialJob:
    part = _part(of, "inputs", batched=False)
    operation = {"op": "apply", "function": _reference(of)}
    return _piped(of, part, part.values, operation, None)


def _piped(of: Component, part: Part, element: Any, operation: dict[str, Any], made: Any) -> TrialJob:
    data = _data(of, lambda: tf.data.Dataset.from_tensors(element).repeat(6), batched=False)
    del data["validation"]
    batched = of.kind is Kind.DATASET_FUNCTION and of.entry().batched
    specs = None if made is None else tf.nest.map_structure(tf.type_spec_from_value, made)
    data["pipeline"] = [operation, *([] if batched else [_batch(part.specs if specs is None else specs)])]
    if specs is None and not batched:
        data["pipeline"][-1] = {"op": "batch", "batch_size": 1}
    return TrialJob(_reading(data), part.invented)


# ── around epochs ────────────────────────────────────────────────────────────────────────────────


def _around_epochs(place: str) -> Callable[[Component], TrialJob]:
    return lambda of: TrialJob({**IRIS, place: [_reference(of)]}, invented=False, guessed=True)


def _of_step(of: Component) -> TrialJob:
    roles: dict[str, Any] = declared_roles(of.target) or {"models": []}
    if len(roles["models"]) != 1 or roles["frozen"]:
        raise NotTried("the step does not declare which models fit together")
    job: dict[str, Any] = {
        "data": {**IRIS["data"], "validation": 0.2 if roles["validation_step"] else None},
        "step": _reference(of),
        "models": {roles["models"][0]: IRIS["model"]},
        "losses": dict.fromkeys(roles["losses"], IRIS["loss"]),
        "optimizers": dict.fromkeys(roles["optimizers"], IRIS["optimizer"]),
        "training": TRAINING,
    }
    return TrialJob(job, invented=False, guessed=True)


_MAKERS: dict[Kind, Callable[[Component], TrialJob]] = {
    Kind.LAYER: _of_layer,
    Kind.MODEL: _of_layer,
    Kind.LOSS: _of_pair,
    Kind.METRIC: _of_pair,
    Kind.REGULARIZER: _of_weights("kernel_regularizer"),
    Kind.CONSTRAINT: _of_weights("kernel_constraint"),
    Kind.INITIALIZER: _of_weights("kernel_initializer"),
    Kind.OPTIMIZER: _of_optimizer,
    Kind.SCHEDULE: _of_schedule,
    Kind.GRADIENT_TRANSFORM: _of_gradients,
    Kind.SOURCE: _of_source,
    Kind.TRANSFORM: _of_transform,
    Kind.DATASET_FUNCTION: _of_dataset_function,
    Kind.CALLBACK: _around_epochs("callbacks"),
    Kind.EVALUATOR: _around_epochs("evaluators"),
    Kind.STEP: _of_step,
}
