"""One model on its way to disk: `.keras`, ready to go on with `fit` where that is possible, and SavedModel.

`save_keras` compiles the model with the job's own optimizer, loss and metrics for the moment of saving.
`save_saved_model` writes `serving_default` and the step's own signatures; inputs and outputs are named by key.
Both raise JobFailure `not_serializable` naming the class and what its config lacks.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tapeworks.components import serialization
from tapeworks.errors import FailureCode, JobFailure, Location
from tapeworks_workers.engine.comparison import recurrent_states, why_not_rebuilt
from tapeworks_workers.engine.export.class_signature import CLASSIFY
from tapeworks_workers.engine.export.signatures import SERVING_FLAT, flat_signature, named_outputs, named_specs
from tapeworks_workers.engine.graph.tensorflow_private import without_autograph
from tapeworks_workers.engine.models.outputs import find, outputs_of
from tapeworks_workers.engine.step.assembly import Assembly
from tapeworks_workers.engine.step.losses import RoleLoss
from tapeworks_workers.engine.step.metrics import RoleMetric

# ── .keras ───────────────────────────────────────────────────────────────────────────────────────


def save_keras(model: keras.Model, file: Path, compile_arguments: Mapping[str, Any] | None) -> list[Any]:
    """Write the `.keras` file; the variables of the optimizer that went with it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with compiled(model, compile_arguments):
        _check_arguments_kept(model, compile_arguments or {})
        try:
            model.save(file)
        except (NotImplementedError, TypeError, ValueError) as error:
            raise _not_serializable(error) from error
        optimizer = getattr(model, "optimizer", None)
        return list(optimizer.variables) if optimizer is not None else []


@contextmanager
def compiled(model: keras.Model, arguments: Mapping[str, Any] | None) -> Iterator[None]:
    """The model compiled inside the block, as it was afterwards: the engine's own step does not want it compiled."""
    before = dict(vars(model))
    try:
        if arguments is not None:
            model.compile(**arguments)
            if not model.optimizer.built:
                model.optimizer.build(model.trainable_variables)
        yield
    finally:
        vars(model).clear()
        vars(model).update(before)


_COMPILE = keras.Model.compile
"""A model with a compile of its own is left to its author."""


def compile_arguments(assembly: Assembly, role: str) -> dict[str, Any] | None:
    """Arguments of `Model.compile` that go on with this job; None where `fit` could not.

    It can where one optimizer owns this role's model and nothing else, and the role has a loss.
    """
    model = assembly.models[role]
    trained = [id(variable) for variable in model.trainable_variables]
    names = [name for name, owned in assembly.owned.items() if [id(variable) for variable in owned] == trained]
    if len(names) != 1 or role not in assembly.losses or type(model).compile is not _COMPILE:
        return None
    loss = assembly.losses[role]
    optimizer = assembly.optimizers[names[0]]
    if assembly.spec.training.precision == "mixed_float16":
        optimizer = _scaling(optimizer, model)
    arguments: dict[str, Any] = {"optimizer": optimizer}
    if loss.structure is None:  # it was never called
        return None
    arguments["loss"], arguments["loss_weights"] = _compiled_losses(loss)
    for key, weighted in (("metrics", False), ("weighted_metrics", True)):
        chosen = [item for item in assembly.metrics.get(role, ()) if item.weighted is weighted]
        if chosen:
            arguments[key] = _by_output(chosen, loss.structure)
    return arguments


def _scaling(optimizer: Any, model: keras.Model) -> keras.optimizers.Optimizer:
    """The optimizer as `fit` needs it in float16. Said in the file: a reloaded model's own policy may be float32."""
    scaling = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build = lambda variables: None  # it is built, and one of a user's own would build its state anew
    try:
        scaling.build(model.trainable_variables)
    finally:
        del optimizer.build
    return scaling


def _compiled_losses(loss: RoleLoss) -> tuple[Any, Any]:
    """`loss` and `loss_weights` for `compile`, in the structure of the outputs; a weight of 1 is None."""
    of_output = [tuple((one.loss, one.weight) for one in losses) for losses in loss.of_output]
    if not keras.tree.is_nested(loss.structure) or all(key is None for key, _ in loss.parts):
        ((one, weight),) = {id(one): (one, weight) for losses in of_output for one, weight in losses}.values()
        return one, None if weight == 1.0 else float(weight)

    def taken(index: int, which: int) -> Any:
        parts = [one[which] for one in of_output[index]]
        return None if not parts else parts[0] if len(parts) == 1 else parts

    losses = keras.tree.map_structure(lambda index: taken(index, 0), loss.structure)
    plain = all(weight == 1.0 for losses_of_one in of_output for _, weight in losses_of_one)
    return losses, None if plain else keras.tree.map_structure(lambda index: taken(index, 1), loss.structure)


def _by_output(metrics: Sequence[RoleMetric], structure: Any) -> Any:
    if all(item.output is None for item in metrics):
        return [_fresh(item.metric) for item in metrics]
    count = len(keras.tree.flatten(structure))
    outputs = outputs_of(structure, metrics[0].output_names)
    grouped: list[list[keras.metrics.Metric]] = [[] for _ in range(count)]
    for item in metrics:
        grouped[find(str(item.output), outputs, what="metrics")].append(_fresh(item.metric))
    if count == 1:
        return grouped[0]
    return keras.tree.map_structure(lambda index: grouped[index], structure)


def _fresh(metric: keras.metrics.Metric) -> keras.metrics.Metric:
    """A new one of the same config: what the job's own accumulated, and variables made late, stay out of the file."""
    try:
        return keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    except (NotImplementedError, TypeError, ValueError) as error:
        raise _not_serializable(error) from error


# ── what a config forgets ────────────────────────────────────────────────────────────────────────


def _check_arguments_kept(model: keras.Model, arguments: Mapping[str, Any]) -> None:
    """Refuse a config that drops an argument which was given: it would come back as its default, in silence."""
    for item in _custom_objects(model, arguments):
        try:
            config = item.get_config()
            parameters = inspect.signature(type(item)).parameters
        except (NotImplementedError, TypeError, ValueError):
            continue  # saving is about to raise, and names it
        if not _defines(type(item), "get_config") or _defines(type(item), "from_config"):
            continue  # derived: every argument that was given is there; both the author's: they know the way back
        for name, parameter in parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or name in config:
                continue
            value = vars(item).get(name, parameter.default)
            if parameter.default is parameter.empty or (_plain(value) and value != parameter.default):
                raise _missing_argument(type(item), name)


def _plain(value: Any) -> bool:
    """An attribute that holds what was given; one of the argument's name may hold a layer made from it instead."""
    return value is None or isinstance(value, (bool, int, float, str, list, tuple, dict))


def _defines(cls: type, method: str) -> bool:
    """Whether the author defines the method: neither Keras' own nor what `@component` derived."""
    member = next((vars(base)[method] for base in cls.__mro__ if method in vars(base)), None)
    module = getattr(getattr(member, "__func__", member), "__module__", "keras")
    return module.partition(".")[0] != "keras" and module != serialization.__name__


def _custom_objects(model: keras.Model, arguments: Mapping[str, Any]) -> Iterator[Any]:
    """Every object of a class that is not Keras' own: layers, what they hold, the optimizer, losses and metrics."""
    seen: set[int] = set()
    waiting: list[Any] = [model, *tf.nest.flatten(dict(arguments))]
    while waiting:
        item = waiting.pop(0)
        if id(item) in seen or not hasattr(item, "get_config") or isinstance(item, type):
            continue
        seen.add(id(item))
        if isinstance(item, keras.Layer):
            waiting += [layer for layer in item._flatten_layers(include_self=False)]
        waiting += [value for value in vars(item).values() if hasattr(value, "get_config")]
        if ">" in keras.saving.get_registered_name(type(item)):
            yield item


def _missing_argument(cls: type, argument: str) -> JobFailure:
    return JobFailure(
        FailureCode.NOT_SERIALIZABLE,
        f"the class {cls.__name__} cannot be rebuilt: its config lacks the argument {argument!r}",
        location=_place(cls),
    )


def _place(cls: type) -> Location:
    registered = keras.saving.get_registered_name(cls)
    try:
        return Location(inspect.getsourcefile(cls), inspect.getsourcelines(cls)[1], registered)
    except (OSError, TypeError):
        return Location(component=registered)


def _not_serializable(error: Exception) -> JobFailure:
    return JobFailure(FailureCode.NOT_SERIALIZABLE, why_not_rebuilt(error, "a part of the model"))


# ── SavedModel ───────────────────────────────────────────────────────────────────────────────────


def save_saved_model(
    model: keras.Model,
    spec: Any,
    signatures: Mapping[str, Any],
    folder: Path,
    *,
    others: Mapping[str, Any],
    classify: Callable[[Any], dict[str, tf.Tensor]] | None = None,
) -> dict[str, Any]:
    """Write a SavedModel for TensorFlow Serving's layout (`folder` ends in a version number).

    `spec`: the nest of specs the model is called with; `signatures`: name → tf.function with an input_signature, which
    may use the models of `others` too. Ragged and sparse inputs stay so in `serving_default`; a second signature,
    `serving_flat`, takes them in parts. Returns the names of arguments and outputs in tf.nest's order: {"inputs": […],
    "outputs": […]}, and the same under "flat" where there is that signature. `classify`: what the signature of that
    name gives for the model's outputs; None: there is none.
    """
    names: dict[str, Any] = {"outputs": []}
    named = named_specs(spec)

    # A function that is decorated already: add_endpoint(input_signature=[RaggedTensorSpec]) raises a TypeError.
    @tf.function(input_signature=[named], autograph=False)
    def serve(inputs: Any) -> Any:
        # training=False said aloud: Keras' random image layers default to True.
        names["outputs"], result = named_outputs(model(inputs, training=False))
        return result

    served = {"serving_default": serve}
    names["inputs"] = [leaf.name for leaf in tf.nest.flatten(named) if isinstance(leaf, tf.TensorSpec)]
    if not all(isinstance(leaf, tf.TensorSpec) for leaf in tf.nest.flatten(spec)):
        served[SERVING_FLAT], names["flat"] = flat_signature(spec, lambda inputs: model(inputs, training=False))
    if classify is not None:

        @tf.function(input_signature=[named], autograph=False)
        def serve_classes(inputs: Any) -> Any:
            return classify(model(inputs, training=False))

        served[CLASSIFY] = serve_classes
    archive = keras.export.ExportArchive()
    states = recurrent_states(model)
    archive.track(_Holding([state.value for state in states]))
    for one in [model, *(other for other in others.values() if signatures and other is not model)]:
        archive.track(one)
    for name, function in (served | dict(signatures)).items():
        function.get_concrete_function()
        archive.add_endpoint(name, function)
    # Everything is traced; AutoGraph would convert the wrappers that TensorFlow puts around signatures.
    with _zeroed(states), _own_signatures_only(), without_autograph():
        archive.write_out(str(folder), verbose=False)
    return names


class _Holding(tf.Module):
    """Variables that no layer lists: a SavedModel must hold all that its functions use."""

    def __init__(self, variables: list[tf.Variable]) -> None:
        super().__init__()
        self.held = variables


@contextmanager
def _zeroed(variables: list[Any]) -> Iterator[None]:
    """States of RNNs, zero while they are written."""
    before = [variable.numpy() for variable in variables]
    for variable in variables:
        variable.assign(tf.zeros(variable.shape, variable.dtype))
    try:
        yield
    finally:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)


@contextmanager
def _own_signatures_only() -> Iterator[None]:
    """Keras would trace each model once more, nested ones too: with float inputs, whatever they take, and in the mode
    that is their default. What refuses floats could not be saved."""
    name = "_default_save_signature"
    base: Any = next(cls for cls in keras.Model.__mro__ if name in vars(cls))
    before = vars(base)[name]
    setattr(base, name, None)
    try:
        yield
    finally:
        setattr(base, name, before)
