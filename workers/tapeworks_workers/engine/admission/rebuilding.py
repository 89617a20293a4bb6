"""Whether an object of one of Keras' kinds comes back from its config.

Interface: `rebuilt(instance)` after a round trip through JSON; `check_arguments(component, config)` does the same for
other values than the defaults, argument by argument, and finds those that a `get_config` loses. Both raise Refusal.

The values are invented from the annotation and the default of each argument. One that the constructor refuses says
nothing. What is rebuilt knows no more than the config: where other values leave the config as it was, the argument is
lost for certain.
"""

from __future__ import annotations

import enum
import inspect
import itertools
import json
import time
import types
import typing
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import keras

from tapeworks.components import serialization
from tapeworks.components.config_schema import reference_kind
from tapeworks.components.registry import KERAS_KINDS, Component
from tapeworks.spec.references import Kind
from tapeworks_workers.engine.comparison import comparable, first_path
from tapeworks_workers.engine.diagnostics.error_text import text
from tapeworks_workers.engine.factory.factory import build

MAX_VALUES = 3
"""Values tried for one argument."""
MAX_SECONDS = 20.0
"""For all arguments of one component."""

_REFERENCES = {
    Kind.LAYER: {"component": "keras/Dense", "config": {"units": 3}},
    Kind.LOSS: {"component": "keras/Huber"},
    Kind.METRIC: {"component": "keras/MeanAbsoluteError"},
    Kind.REGULARIZER: {"component": "keras/L2", "config": {"l2": 0.03}},
    Kind.CONSTRAINT: {"component": "keras/NonNeg"},
    Kind.INITIALIZER: {"component": "keras/Ones"},
    Kind.OPTIMIZER: {"component": "keras/SGD"},
}
_WORDS = {
    "activation": ("tanh", "relu"),
    "padding": ("same", "valid"),
    "reduction": ("sum", "none"),
    "mode": ("min", "max"),
    "data_format": ("channels_first", "channels_last"),
    "initializer": ("ones", "zeros"),
    "average": ("macro", "micro"),
}
"""Strings that arguments of these names usually take."""


class AdmissionError(Exception):
    """The component does not do what its kind must."""


def rebuilt(instance: Any) -> Any:
    """The object after a round trip through JSON. Raises Refusal where its config differs afterwards."""
    try:
        written = keras.saving.serialize_keras_object(instance)
        again = keras.saving.deserialize_keras_object(json.loads(json.dumps(written)))
        second = keras.saving.serialize_keras_object(again)
    except Exception as error:
        raise AdmissionError(
            f"it cannot be written and rebuilt: {type(error).__name__}: {text(error)}. "
            "Leave get_config out and it is derived from __init__"
        ) from error
    where = first_path(_plain(written)["config"], _plain(second)["config"])
    if where is not None:
        raise AdmissionError(f"its config changes in a reload: {where.lstrip('/')} differs")
    return again


def _plain(written: Any) -> Any:
    """What an object is, without what its calls and `compile` left: variables and outputs are compared themselves."""
    return comparable(json.loads(json.dumps(written)), assets=False)


# ── arguments ────────────────────────────────────────────────────────────────────────────────────


def check_arguments(component: Component, config: Mapping[str, Any], notes: list[str]) -> None:
    """Build and write the component with other values for each argument of its own, and rebuild it.

    An argument is lost where none of the values that the constructor takes changes the config. Raises Refusal naming
    it. An argument that no invented value suits, and that get_config does not hold, goes to `notes`.
    """
    if component.kind not in KERAS_KINDS or not inspect.isclass(component.target):
        return
    began, default = time.monotonic(), _built(component, config)
    plain = _config(default)
    for name, (annotation, value) in _own_arguments(component).items():
        if time.monotonic() - began > MAX_SECONDS:
            notes.append(f"not tried with other values of {name!r} and what follows it: building takes long")
            return
        given = config.get(name, value)
        made = ((one, _built(component, {**config, name: one})) for one in _other_values(name, annotation, given))
        taken = ((one, instance) for one, instance in made if instance is not None)
        if (first := next(taken, None)) is None:
            _note_unkept(component, plain, name, notes)
            continue
        unchanged = plain is not None and all(_config(one) == plain for _, one in itertools.chain([first], taken))
        lost = unchanged and _matters(component, plain, name, default, first[1])
        _check_kept(name, *first, lost=lost, typed=_typed(annotation, value))


def _matters(component: Component, plain: Any, name: str, default: Any, instance: Any) -> bool:
    """Whether a value that leaves the config as it is changes the object: a constructor may take several values for
    one (a limit, an unknown word). It does where the config has no such key, or an attribute of the name differs."""
    if name not in plain["config"] and not _own(component.target, "from_config"):
        return True
    held, before = ([vars(one).get(key) for key in (name, f"_{name}")] for one in (instance, default))
    simple = (bool, int, float, str, list, tuple, dict, type(None))
    return any(
        isinstance(one, simple) and isinstance(two, simple) and one != two
        for one, two in zip(held, before, strict=True)
    )


def _own_arguments(component: Component) -> dict[str, tuple[Any, Any]]:
    """Argument → (annotation, default) of those that the author's own signatures name."""
    special = component.config.files | component.config.branches | component.config.earlier
    found: dict[str, tuple[Any, Any]] = {}
    for base in component.target.__mro__:
        function = vars(base).get("__init__")
        if function is None or base.__module__.partition(".")[0] in ("keras", "builtins"):
            continue
        original = inspect.unwrap(function)
        hints = typing.get_type_hints(original, include_extras=True)
        for name, parameter in list(inspect.signature(original).parameters.items())[1:]:
            if name in component.config.declared and name not in special and name not in ("name", "dtype"):
                found.setdefault(name, (hints.get(name, inspect.Parameter.empty), parameter.default))
    return found


def _built(component: Component, config: Mapping[str, Any]) -> Any:
    """The component with this config, or None where it does not take it."""
    reference = {"component": component.name, "version": component.version, "config": config}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return build(reference, component.kind)
        except Exception:  # an invented value that the constructor refuses says nothing
            return None


def _config(instance: Any) -> Any:
    """What the instance writes, less names that Keras numbers; None where it cannot be written."""
    try:
        return _without_names(_plain(keras.saving.serialize_keras_object(instance)))
    except Exception:  # reported when the instance of the example is written
        return None


def _check_kept(name: str, value: Any, instance: Any, *, lost: bool, typed: bool) -> None:
    """Raise Refusal where the argument is lost, or the instance does not come back. `typed`: whether the value is of a
    type that the argument declares."""
    what = f"with {name}={_shown(value)}"
    try:
        again = rebuilt(instance)
    except AdmissionError as refusal:
        if typed:
            raise AdmissionError(f"{what}: {refusal}") from refusal
        return
    if lost:
        raise AdmissionError(
            f"its config loses the argument {name!r}: {what} it comes back with {_shown(_argument(again, name))}. "
            f'Give get_config an entry "{name}", or leave get_config out: it is derived from __init__'
        )


def _note_unkept(component: Component, plain: Any, name: str, notes: list[str]) -> None:
    if plain is None or not _own(component.target, "get_config") or _own(component.target, "from_config"):
        return
    if name not in plain["config"]:
        notes.append(f"get_config has no {name!r}: a value other than the default is lost when a model is loaded")


def _argument(instance: Any, name: str) -> Any:
    """What `__init__` was called with, by default its default."""
    parameter = inspect.signature(type(instance)).parameters.get(name)
    held = vars(instance).get("_init_arguments")
    default = parameter.default if parameter is not None else None
    return held.values.get(name, default) if held is not None else default


def _own(cls: type, method: str) -> bool:
    """Whether the author defines the method: neither Keras' own nor what `@component` derived."""
    member = next((vars(base)[method] for base in cls.__mro__ if method in vars(base)), None)
    module = getattr(getattr(member, "__func__", member), "__module__", "keras")
    return module.partition(".")[0] != "keras" and module != serialization.__name__


def _without_names(value: Any) -> Any:
    """Less what Keras numbers by itself."""
    if isinstance(value, dict):
        return {key: _without_names(item) for key, item in value.items() if key not in ("name", "build_config")}
    return [_without_names(item) for item in value] if isinstance(value, list) else value


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) < 80 else type(value).__name__


# ── other values ─────────────────────────────────────────────────────────────────────────────────


def _typed(annotation: Any, given: Any) -> bool:
    return annotation is not inspect.Parameter.empty or isinstance(given, (bool, int, float, list, tuple))


def _other_values(name: str, annotation: Any, given: Any) -> Iterator[Any]:
    """A few JSON values of an argument's type that differ from what it has; of several types where none is known."""
    if annotation is inspect.Parameter.empty and isinstance(given, (bool, int, float, str, list, tuple)):
        annotation = type(given)
    given = None if given is inspect.Parameter.empty else given
    values = _values(name, annotation, given)
    if annotation is inspect.Parameter.empty:
        values = (value for one in (str, int, float) for value in itertools.islice(_values(name, one, given), 1))
    yield from itertools.islice((one for one in values if one != given or type(one) is not type(given)), MAX_VALUES)


def _values(name: str, annotation: Any, given: Any) -> Iterator[Any]:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        yield from _values(name, arguments[0], given)
    elif origin is typing.Literal:
        yield from arguments
    elif origin in (typing.Union, types.UnionType):
        for one in arguments:
            if one is not type(None):
                yield from _values(name, one, given)
    elif annotation is bool:
        yield not given
    elif annotation is int:
        yield from (given + 1, given * 2, 2) if isinstance(given, int) else (3, 2, 4)
    elif annotation is float:
        yield from (given / 2, given * 2, 0.3) if isinstance(given, (int, float)) and given else (0.3, 0.7, 2.0)
    elif annotation is str:
        yield from next((words for key, words in _WORDS.items() if key in name), ())
        yield f"{given or 'word'}_2"
    elif inspect.isclass(annotation) and issubclass(annotation, enum.Enum):
        yield from (member.value for member in annotation)
    elif origin in (list, tuple) or annotation in (list, tuple) or str(origin).endswith("abc.Sequence'>"):
        yield from _lists(name, annotation, arguments, given)
    elif inspect.isclass(annotation) and (kind := reference_kind(annotation)) in _REFERENCES:
        yield _REFERENCES[kind]


def _lists(name: str, annotation: Any, arguments: tuple[Any, ...], given: Any) -> Iterator[Any]:
    """Lists of the same length where there is one, else of two elements."""
    if isinstance(given, (list, tuple)) and given:
        kinds = [type(item) for item in given]
    elif typing.get_origin(annotation) is tuple and arguments and Ellipsis not in arguments:
        kinds = list(arguments)
    else:
        kinds = [arguments[0] if arguments else float] * 2
    items = given if isinstance(given, (list, tuple)) and given else [None] * len(kinds)
    found = [next(_values(name, kind, item), None) for kind, item in zip(kinds, items, strict=True)]
    if None not in found:
        yield found
