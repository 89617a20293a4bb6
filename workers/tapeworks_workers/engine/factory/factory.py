"""From a reference to the object it names.

Interface: `build(reference, kind, pointer=…)` resolves `keras/Name` and registered names, builds the references
inside the config first (depth-first, in document order) and calls the class or function with the
config as arguments. Keras' own classes are called too, never revived from a config: `from_config`
fails for several where defaults are left out. `context` has the files that `tapeworks.Files` may reach, and the
earlier jobs.

Whatever goes wrong is a `JobFailure` that names the place in the spec, the component and the argument.
"""

from __future__ import annotations

import functools
import inspect
import traceback
from collections.abc import Mapping
from typing import Any

import keras
from pydantic import ValidationError

from tapeworks.components.registry import Component, registry
from tapeworks.errors import ComponentError, FailureCode, JobFailure, Location, TapeworksError
from tapeworks.spec.references import Kind, ReferenceFields, escape, is_reference, kind_of_argument
from tapeworks_workers.engine.diagnostics import source_locations as places
from tapeworks_workers.engine.diagnostics import super_init
from tapeworks_workers.engine.diagnostics.error_text import text
from tapeworks_workers.engine.factory import earlier_jobs, keras_classes
from tapeworks_workers.engine.factory.build_context import BuildContext
from tapeworks_workers.engine.graph import keras_private

_WORDS = 'Inside a config a string is a Keras identifier ("relu"); a component is an object: {"component": NAME}.'


def build(
    reference: ReferenceFields | Mapping[str, Any] | str,
    kind: Kind,
    *,
    pointer: str = "",
    draft: bool = False,
    files: Mapping[str, list[str]] | None = None,
    context: BuildContext | None = None,
) -> Any:
    """The object that a reference names. `pointer`: where the reference stands in the spec; `draft`: a model that
    waits for its inputs (`components/models/graph.py`) is left waiting; `files`: argument of a source → the local
    paths that it gets instead of those that its config names; `context`: of the job, none by default.

    Models, losses, … come as instances; a transform or dataset function as a callable with its config bound;
    a function of kind loss or metric wrapped as Keras wraps it; a source as an instance, its files resolved.
    Raises JobFailure: `invalid_spec` (unknown name, argument or type), `invalid_data` (files), `component_error`.
    """
    context = context or BuildContext()
    name, version, config = _parts(reference)
    if name.startswith("keras/"):
        return _build_keras(name, kind, config, pointer, context)
    component = _find(name, version, kind, pointer)
    arguments = _checked(component, config, pointer)
    for argument, value in arguments.items():
        at = f"{pointer}/config/{escape(argument)}"
        if files is not None and argument in files:
            arguments[argument] = list(files[argument])
            continue
        if argument in component.config.files:
            arguments[argument] = None if value is None else context.files.resolve(value, component=name, pointer=at)
            continue
        if argument in component.config.branches:
            continue  # built by the pipeline, which knows splits and passes
        if argument in component.config.earlier:
            arguments[argument] = earlier_jobs.earlier_job(
                value, context.inputs, component=name, pointer=at.removesuffix("_")
            )
            continue
        if argument not in component.config.declared:
            _refuse_serialised(value, name, at)
        arguments[argument] = _build_nested(value, argument, component.config.kinds.get(argument), at, context)
    made = _call(component.target, arguments, name=name, pointer=pointer, bind=_bind(component))
    _check_initialised(made, component, pointer)
    if component.kind is Kind.MODEL and not draft and hasattr(made, "build_model"):
        return _call(made.build_model, {}, name=name, pointer=pointer)
    return made


def _parts(reference: ReferenceFields | Mapping[str, Any] | str) -> tuple[str, str | None, dict[str, Any]]:
    if isinstance(reference, str):
        return reference, None, {}
    if isinstance(reference, ReferenceFields):
        return reference.component, reference.version, dict(reference.config)
    return reference["component"], reference.get("version"), dict(reference.get("config", {}))


def _find(name: str, version: str | None, kind: Kind, pointer: str) -> Component:
    # A model stands wherever a layer may.
    component = registry.find(kind, name) or (registry.find(Kind.MODEL, name) if kind is Kind.LAYER else None)
    if component is None:
        try:
            component = registry.get(kind, name)
        except ComponentError as error:
            raise _invalid(pointer, str(error), name) from error
    if version is not None and version != component.version:
        raise _invalid(
            pointer, f"this worker has {kind} {name!r} in version {component.version!r}, not {version!r}", name
        )
    return component


def _checked(component: Component, config: dict[str, Any], pointer: str) -> dict[str, Any]:
    try:
        return component.config.arguments(config)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = [str(step) for step in first["loc"]]
        place = "".join(f"/{escape(step)}" for step in path)
        message = str(first["msg"]).removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            taken = _listed(component.config_schema.get("properties"))
            message = f"{component.name} has no argument {path[-1]!r}; it takes {taken}"
        elif first["type"] == "missing":
            message = f"the argument {path[-1]!r} is missing"
        raise _invalid(f"{pointer}/config{place}", message, component.name) from error


def _build_nested(value: Any, argument: str, kind: Kind | None, pointer: str, context: BuildContext) -> Any:
    """Build every reference in a value, through lists, tuples and dicts."""
    if is_reference(value):
        return build(value, kind or _kind_of(value, argument, pointer), pointer=pointer, context=context)
    if isinstance(value, dict):
        return {
            key: _build_nested(item, argument, kind, f"{pointer}/{escape(str(key))}", context)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return type(value)(
            _build_nested(item, argument, kind, f"{pointer}/{index}", context) for index, item in enumerate(value)
        )
    return value


def _kind_of(reference: Mapping[str, Any], argument: str, pointer: str) -> Kind:
    """The kind of a nested reference whose argument is not typed: by Keras' naming, else the only one there is."""
    name = reference["component"]
    by_name = kind_of_argument(argument)
    if by_name is not None:
        return by_name
    if name.startswith("keras/"):
        kinds = [kind for kind in keras_classes.KERAS_MODULES if keras_classes.keras_class(kind, name) is not None]
    else:
        kinds = [component.kind for component in registry if component.name == name]
    if len(kinds) == 1:
        return kinds[0]
    if not kinds:
        raise _invalid(pointer, f"there is no component named {name!r}", name)
    raise _invalid(
        pointer, f"{name!r} is {' and '.join(kinds)}, and the argument {argument!r} does not say which it takes", name
    )


# ── Keras' own ───────────────────────────────────────────────────────────────────────────────────


def _build_keras(name: str, kind: Kind, config: dict[str, Any], pointer: str, context: BuildContext) -> Any:
    cls = keras_classes.keras_class(kind, name)
    if cls is None:
        raise _invalid(pointer, keras_classes.refusal(kind, name), name)
    names = keras_classes.arguments_of(cls, kind)
    for argument, value in config.items():
        at = f"{pointer}/config/{escape(argument)}"
        if argument not in names:
            raise _invalid(at, f"{name} has no argument {argument!r}; it takes {_listed(names)}", name)
        if isinstance(value, str) and argument in keras_classes.FILE_ARGUMENTS:
            raise _invalid(
                at, f"Keras would read {argument!r} as a file on the worker: give the values as a list, or adapt", name
            )
        _refuse_serialised(value, name, at)
    missing = [argument for argument, required in names.items() if required and argument not in config]
    if missing:
        raise _invalid(f"{pointer}/config", f"{name} needs the argument {missing[0]!r}", name)
    arguments = {
        argument: _build_nested(value, argument, None, f"{pointer}/config/{escape(argument)}", context)
        for argument, value in config.items()
    }
    for argument in keras_classes.TUPLES & arguments.keys():
        if isinstance(arguments[argument], list):
            arguments[argument] = tuple(arguments[argument])
    if cls.__name__ in keras_classes.FORGET_MIXED_PRECISION and arguments.get("output_mode", "int") != "int":
        arguments.setdefault("dtype", keras.config.dtype_policy().variable_dtype)
    return _complete(_call(cls, arguments, name=name, pointer=pointer), config)


def _complete(made: Any, given: Mapping[str, Any]) -> Any:
    """Some classes of Keras leave arguments out of their config (Huber its delta, CategoryEncoding its sparse), and
    would come back with the default: what the spec gave is written beside what they write."""
    parameters = inspect.signature(type(made).__init__).parameters
    config = made.get_config()
    left_out = {
        argument: value
        for argument, value in given.items()
        if argument not in config and argument in parameters and value != parameters[argument].default
    }
    if left_out:
        made.get_config = lambda: {**type(made).get_config(made), **left_out}
    return made


def _refuse_serialised(value: Any, name: str, pointer: str) -> None:
    """Keras revives `{"class_name": …}` wherever it meets one, from any module: only `functional` takes it, checked."""
    if isinstance(value, dict):
        if "class_name" in value or "module" in value:
            raise _invalid(
                pointer,
                'Keras\' serialised form is not accepted here: write {"component": "keras/…", "config": {…}}',
                name,
            )
        for key, item in value.items():
            _refuse_serialised(item, name, f"{pointer}/{escape(str(key))}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _refuse_serialised(item, name, f"{pointer}/{index}")


# ── the call ─────────────────────────────────────────────────────────────────────────────────────


def _bind(component: Component) -> Any:
    """How a target becomes the object: called, bound (functions over elements) or wrapped as Keras does."""
    target = component.target
    if inspect.isclass(target) or component.kind is Kind.MODEL:
        return target
    if component.kind is Kind.LOSS:
        return functools.partial(keras_private.loss_of_function, target)
    if component.kind is Kind.METRIC:
        return functools.partial(keras.metrics.MeanMetricWrapper, target, name=target.__name__)
    return functools.partial(_bound, target)


def _bound(function: Any, **config: Any) -> Any:
    return functools.update_wrapper(functools.partial(function, **config), function) if config else function


def _call(target: Any, arguments: dict[str, Any], *, name: str, pointer: str, bind: Any = None) -> Any:
    try:
        return (bind or target)(**arguments)
    except TapeworksError:
        raise
    except Exception as error:
        place = f"{pointer}: " if pointer else ""
        raise JobFailure(
            FailureCode.COMPONENT_ERROR,
            f"{place}{name} could not be built: {type(error).__name__}: {text(error)}",
            hint=_WORDS if str(error).startswith("Could not interpret ") else None,
            location=_location(error, target, name),
        ) from error


def _check_initialised(made: Any, component: Component, pointer: str) -> None:
    if (said := super_init.missing_super_call(made)) is not None:
        raise JobFailure(
            FailureCode.COMPONENT_ERROR,
            f"{pointer}: {component.name}: {said}" if pointer else f"{component.name}: {said}",
            hint=super_init.HINT,
            location=places.of_function(type(made).__init__) or Location(component=component.name),
        )


def _location(error: Exception, target: Any, name: str) -> Location:
    """The last line of the component's own file that the error passed through; none of Keras'."""
    if name.startswith("keras/"):
        return Location(component=name)
    try:
        file = inspect.getsourcefile(inspect.unwrap(target))
    except TypeError:
        file = None
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return Location(file=file if lines else None, line=lines[-1] if lines else None, component=name)


def _invalid(pointer: str, message: str, component: str) -> JobFailure:
    place = f"{pointer}: " if pointer else ""
    return JobFailure(FailureCode.INVALID_SPEC, place + message, location=Location(component=component))


def _listed(names: Any) -> str:
    return ", ".join(sorted(names)) or "none"
