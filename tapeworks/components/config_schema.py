"""What a component's config may hold: read off its typed `__init__`, shown as JSON Schema, checked as JSON.

Interface: `config_of(target, kind, name)` gives a `Config`: `schema` (JSON Schema), `arguments(config)` (the checked
values, tuples and enums converted), and which arguments are references, `files` or Keras' own.

Annotations that name a Keras base (`keras.layers.Layer`, `Loss`, …) or one of Tapeworks', and lists,
dicts and Optionals of them, take references: `{"type": "object", "required": ["component"], "x-kind": …}`.
Arguments without an annotation take any JSON. `**kwargs` takes what the next `__init__` of the bases takes, and
no more: for a layer `name`, `dtype`, `trainable`, `activity_regularizer`.
"""

from __future__ import annotations

import inspect
import json
import keyword
import operator
import sys
import types
import typing
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, WithJsonSchema, create_model
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation, PydanticUserError

from tapeworks.components.interfaces import (
    Callback,
    Evaluator,
    GradientTransform,
    Source,
    TrainingStep,
    _BranchMark,
    _EarlierMark,
    _FilesMark,
)
from tapeworks.errors import ComponentError
from tapeworks.spec.references import Kind, is_reference

KERAS_BASES: dict[str, Kind] = {
    "losses.Loss": Kind.LOSS,
    "metrics.Metric": Kind.METRIC,
    "Model": Kind.MODEL,
    "layers.Layer": Kind.LAYER,
    "regularizers.Regularizer": Kind.REGULARIZER,
    "constraints.Constraint": Kind.CONSTRAINT,
    "initializers.Initializer": Kind.INITIALIZER,
    "optimizers.Optimizer": Kind.OPTIMIZER,
    "optimizers.schedules.LearningRateSchedule": Kind.SCHEDULE,
}
"""Keras' bases by their public path; a model is a layer too, so it comes first."""

OUR_BASES: dict[type, Kind] = {
    TrainingStep: Kind.STEP,
    GradientTransform: Kind.GRADIENT_TRANSFORM,
    Source: Kind.SOURCE,
    Evaluator: Kind.EVALUATOR,
    Callback: Kind.CALLBACK,
}


@dataclass(frozen=True)
class Reference:
    """An argument, or a part of one, that takes a reference of a kind."""

    kind: Kind

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "object", "required": ["component"], "x-kind": self.kind.value}


_BASE_ARGUMENTS: dict[Kind, dict[str, Any]] = {
    Kind.LAYER: {
        "name": str | None,
        "dtype": str | None,
        "trainable": bool,
        "activity_regularizer": Reference(Kind.REGULARIZER),
    },
    Kind.MODEL: {"name": str | None, "dtype": str | None, "trainable": bool},
    Kind.LOSS: {"name": str | None, "reduction": str | None, "dtype": str | None},
    Kind.METRIC: {"name": str | None, "dtype": str | None},
    Kind.OPTIMIZER: {
        "learning_rate": float | Annotated[Any, Reference(Kind.SCHEDULE)],
        "weight_decay": float | None,
        "clipnorm": float | None,
        "clipvalue": float | None,
        "global_clipnorm": float | None,
        "use_ema": bool,
        "ema_momentum": float,
        "ema_overwrite_frequency": int | None,
        "loss_scale_factor": float | None,
        "gradient_accumulation_steps": int | None,
        "name": str | None,
    },
}
"""What Keras' own bases take through `**kwargs`."""

_KERAS_DEFAULT = object()
"""An argument may be left out, and Keras says what it is then: the schema states no default."""


def base_arguments(kind: Kind) -> frozenset[str]:
    """Names that Keras' own base of a kind takes through `**kwargs`."""
    return frozenset(_BASE_ARGUMENTS.get(kind, {}))


@dataclass(frozen=True)
class Config:
    """The typed arguments of a component."""

    model: type[BaseModel]
    schema: dict[str, JsonValue]
    kinds: Mapping[str, Kind]
    """Argument → the kind that references in it must have."""
    files: frozenset[str]
    """Arguments annotated `tapeworks.Files`."""
    branches: frozenset[str] = frozenset()
    """Arguments that hold `tapeworks.Branch`es: references and pipelines that the engine builds, not the config."""
    earlier: frozenset[str] = frozenset()
    """Arguments annotated `tapeworks.EarlierJob`."""
    declared: frozenset[str] = field(default_factory=frozenset)
    """Arguments that the author's own signatures name; the others are Keras'."""

    def arguments(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The values given, checked and converted; references stay as they are. Raises pydantic's ValidationError."""
        try:
            checked = self.model.model_validate_json(json.dumps(config), strict=True)
        except ValidationError as error:
            if not any(item["type"] == "int_type" for item in error.errors()):
                raise
            # JSON knows one kind of number, and JSON Schema takes 3.0 for an integer.
            checked = self.model.model_validate_json(json.dumps(_whole(config)), strict=True)
        return {_parameter(info.alias or name): getattr(checked, name) for name, info in _given(checked)}


def _key(parameter: str) -> str:
    """What a config calls a parameter: `from_` is `from`, which Python cannot say."""
    return parameter[:-1] if keyword.iskeyword(parameter[:-1]) and parameter.endswith("_") else parameter


def _parameter(key: str) -> str:
    return f"{key}_" if keyword.iskeyword(key) else key


def _whole(value: Any) -> Any:
    """Floats without a fraction as integers."""
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _given(checked: BaseModel) -> list[tuple[str, Any]]:
    return [(name, info) for name, info in type(checked).model_fields.items() if name in checked.model_fields_set]


def config_of(target: Any, kind: Kind, name: str) -> Config:
    """Read a component's arguments. Raises ComponentError naming the argument and what to write instead."""
    kinds: dict[str, Kind] = {}
    files: set[str] = set()
    branches: set[str] = set()
    earlier: set[str] = set()
    fields: dict[str, Any] = {}
    parameters = _parameters(target, kind, name)
    for index, (argument, (annotation, default)) in enumerate(parameters.items()):
        found: list[Kind] = []
        taken = _references_marked(annotation, found)
        if len(set(found)) == 1:
            kinds[argument] = found[0]
        if _is_marked(annotation, _FilesMark):
            files.add(argument)
        if _is_marked(annotation, _BranchMark):
            branches.add(argument)
        if _is_marked(annotation, _EarlierMark):
            earlier.add(argument)
        _check_typable(taken, argument, name)
        # Aliases, since pydantic refuses fields that begin with "_" or hide its own attributes ("copy", "schema").
        fields[f"argument_{index}"] = (taken, _field(argument, default))
    model = create_model(name, __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=False), **fields)
    declared = frozenset(_declared(target, kind))
    schema: dict[str, Any] = _schema(model, name)
    for argument in files:
        schema["properties"][_key(argument)]["x-files"] = True
    return Config(model, schema, kinds, frozenset(files), frozenset(branches), frozenset(earlier), declared)


def _field(argument: str, default: Any) -> Any:
    if default is inspect.Parameter.empty:
        return Field(alias=_key(argument))
    try:
        json.dumps(default, allow_nan=False)
    except (TypeError, ValueError):
        return Field(alias=_key(argument), default_factory=lambda: default)
    return Field(alias=_key(argument), default=default)


def _schema(model: type[BaseModel], name: str) -> dict[str, JsonValue]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            schema = model.model_json_schema(by_alias=True)
        except (PydanticUserError, UserWarning) as error:
            raise ComponentError(f"{name}: its config has no JSON Schema: {error}") from error
    schema.pop("title", None)
    for value in schema.get("properties", {}).values():
        value.pop("title", None)
    return {"type": "object", "properties": {}, **schema, "additionalProperties": False}


# ── annotations ──────────────────────────────────────────────────────────────────────────────────


def _references_marked(annotation: Any, found: list[Kind]) -> Any:
    """The annotation with every component base replaced by "an object with the key component"."""
    if annotation is inspect.Parameter.empty:
        return Any
    if isinstance(annotation, Reference):
        found.append(annotation.kind)
        return Annotated[Any, _IsReference(annotation.kind), WithJsonSchema(annotation.schema)]
    if inspect.isclass(annotation) and not isinstance(annotation, types.GenericAlias):
        kind = reference_kind(annotation)
        return _references_marked(Reference(kind), found) if kind is not None else annotation
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        marks = [mark for mark in arguments[1:] if isinstance(mark, Reference)]
        if marks:
            return _references_marked(marks[0], found)
        if any(isinstance(mark, _BranchMark) for mark in arguments[1:]):
            return Annotated[(*arguments[:1], WithJsonSchema({"type": "object", "x-branch": True}))]
        inner = _references_marked(arguments[0], found)
        return Annotated[(inner, *arguments[1:])]
    if origin in (None, typing.Literal):
        return annotation
    if origin in (typing.Union, types.UnionType):
        return typing.Union[tuple(_references_marked(one, found) for one in arguments)]  # noqa: UP007
    if not any(_holds_reference(one) for one in arguments):
        return annotation
    return origin[tuple(_references_marked(one, found) for one in arguments)]


def _holds_reference(annotation: Any) -> bool:
    if inspect.isclass(annotation) and reference_kind(annotation) is not None:
        return True
    if any(isinstance(mark, _BranchMark) for mark in getattr(annotation, "__metadata__", ())):
        return True
    return any(_holds_reference(one) for one in typing.get_args(annotation))


class _IsReference:
    """Checks, in pydantic, that a value names a component."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(self._check)

    def _check(self, value: Any) -> Any:
        if not is_reference(value):
            raise ValueError(f'expected a {self.kind}: {{"component": NAME, "config": {{…}}}}')
        return value


def reference_kind(annotation: type) -> Kind | None:
    """The kind of component that a class is a base of; None for every other class."""
    for base, kind in OUR_BASES.items():
        if issubclass(annotation, base):
            return kind
    keras = sys.modules.get("keras")
    if keras is None or annotation.__module__ in ("builtins", "typing"):
        return None
    for path, kind in KERAS_BASES.items():
        if issubclass(annotation, operator.attrgetter(path)(keras)):
            return kind
    return None


def _is_marked(annotation: Any, mark: type) -> bool:
    if any(isinstance(one, mark) for one in getattr(annotation, "__metadata__", ())):
        return True
    return any(_is_marked(one, mark) for one in typing.get_args(annotation))


def _check_typable(annotation: Any, argument: str, name: str) -> None:
    """Raise ComponentError where JSON cannot hold what the annotation asks for."""
    from pydantic import TypeAdapter

    try:
        TypeAdapter(annotation).json_schema()
    except (PydanticSchemaGenerationError, PydanticUserError, PydanticUndefinedAnnotation, TypeError) as error:
        raise ComponentError(
            f"{name}: the argument {argument!r} is annotated {_annotation_text(annotation)}, "
            "which no JSON config can hold. "
            "Write str, bool, int, float, a Literal, list, tuple or dict of these, tapeworks.Files, or a Keras base "
            "class (keras.layers.Layer, keras.losses.Loss, …) for a nested component; without an annotation it "
            "takes any JSON."
        ) from error


def _annotation_text(annotation: Any) -> str:
    return annotation.__qualname__ if inspect.isclass(annotation) else str(annotation).removeprefix("typing.")


# ── parameters ───────────────────────────────────────────────────────────────────────────────────


def _parameters(target: Any, kind: Kind, name: str) -> dict[str, tuple[Any, Any]]:
    """Argument → (annotation, default), `**kwargs` resolved along the bases."""
    found: dict[str, tuple[Any, Any]] = {}
    for function, skipped in _signatures(target, kind):
        open_ended = False
        hints = _hints(function, name)
        for parameter in _config_parameters(function, skipped, kind, name):
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                open_ended = True
            elif parameter.name not in found:
                found[parameter.name] = (hints.get(parameter.name, inspect.Parameter.empty), parameter.default)
        if not open_ended and inspect.isclass(target):
            return found
    if not inspect.isclass(target) and kind not in (Kind.LOSS, Kind.METRIC):
        return found  # those two are wrapped in a class of Keras, which takes what its base takes
    for argument, annotation in _BASE_ARGUMENTS.get(kind, {}).items():
        found.setdefault(argument, (annotation, _KERAS_DEFAULT))
    return found


def _signatures(target: Any, kind: Kind) -> list[tuple[Any, int]]:
    """The functions whose parameters make up the config, each with how many leading ones are not config."""
    if not inspect.isclass(target):
        return [(target, 2 if kind in (Kind.LOSS, Kind.METRIC) else 0)]
    chain: list[tuple[Any, int]] = []
    for base in target.__mro__:
        if base is object or _is_keras_root(base):
            break
        if "__init__" in vars(base):
            chain.append((vars(base)["__init__"], 1))
    return chain


def _is_keras_root(base: type) -> bool:
    """One of Keras' own abstract bases, whose arguments `_BASE_ARGUMENTS` lists."""
    keras = sys.modules.get("keras")
    if keras is None or base.__module__.partition(".")[0] != "keras":
        return False
    roots = {"Loss", "Metric", "Model", "Layer", "Regularizer", "Constraint", "Initializer", "LearningRateSchedule"}
    return base.__name__ in {*roots, "Optimizer", "TFOptimizer", "BaseOptimizer", "KerasSaveable", "Operation"}


def _config_parameters(function: Any, skipped: int, kind: Kind, name: str) -> list[inspect.Parameter]:
    parameters = list(inspect.signature(function).parameters.values())[skipped:]
    if kind in (Kind.TRANSFORM, Kind.DATASET_FUNCTION) and inspect.isfunction(function) and skipped == 0:
        # A function's positional parameters are the element; its keyword-only ones the config. The engine gives seed.
        return [one for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY and one.name != "seed"]
    for parameter in parameters:
        if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY):
            if not _is_keras(function):
                raise ComponentError(
                    f"{name}: {parameter} cannot be named in a config: make it an ordinary argument (a list for *args)"
                )
    return [one for one in parameters if one.kind is not inspect.Parameter.VAR_POSITIONAL]


def _is_keras(function: Any) -> bool:
    return (function.__module__ or "").partition(".")[0] == "keras"


def _hints(function: Callable[..., Any], name: str) -> dict[str, Any]:
    if _is_keras(function):
        return {}
    original = inspect.unwrap(function)
    try:
        return typing.get_type_hints(original, include_extras=True)
    except NameError as error:
        raise ComponentError(
            f"{name}: an annotation cannot be resolved ({error}): import it at the top of the module, "
            "not under TYPE_CHECKING"
        ) from error


def _declared(target: Any, kind: Kind) -> set[str]:
    names: set[str] = set()
    for function, skipped in _signatures(target, kind):
        if not _is_keras(function):
            parameters = list(inspect.signature(function).parameters.values())[skipped:]
            names |= {one.name for one in parameters if one.kind is not inspect.Parameter.VAR_KEYWORD}
    return names
