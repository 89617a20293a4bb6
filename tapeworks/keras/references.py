"""A Keras object as a reference of a spec: `{"component": NAME, "config": {…}}` with every argument that it was given.

`reference(obj, what)` takes any layer, loss, metric, optimizer, schedule, regularizer, initializer or constraint.
`get_config` alone is not enough: Huber leaves out its delta, every loss its dtype. What a config lacks is read from
the object. An argument that is None stays None, unless None is its default.
Keras is taken from the caller's process, which has it already; nothing here imports it.
"""

from __future__ import annotations

import inspect
import json
import math
import operator
import sys
from collections.abc import Mapping
from typing import Any

from tapeworks.components.config_schema import base_arguments, reference_kind
from tapeworks.components.registry import registry
from tapeworks.errors import ComponentError
from tapeworks.spec.references import Kind

_NOT_READ = frozenset({"name", "trainable", "weights", "thresholds", "dtype"})
"""Arguments that are not read from attributes of their names: Keras computes AUC's thresholds, `weights` are initial
values, which no spec holds, and `dtype` has rules of its own."""
_HELD_AS = {("SimpleRNN", "seed"): "cell.seed"} | {
    (name, "flash_attention"): "_flash_attention" for name in ("MultiHeadAttention", "GroupQueryAttention")
}
"""Attributes that hold what Keras' own config leaves out, where their names are not the argument's."""
_KERAS_REDUCTION = "sum_over_batch_size"
_MODULES: dict[Kind, str] = {
    Kind.MODEL: "layers",
    Kind.LAYER: "layers",
    Kind.LOSS: "losses",
    Kind.METRIC: "metrics",
    Kind.OPTIMIZER: "optimizers",
    Kind.SCHEDULE: "optimizers.schedules",
    Kind.REGULARIZER: "regularizers",
    Kind.INITIALIZER: "initializers",
    Kind.CONSTRAINT: "constraints",
}


def keras() -> Any:
    """The caller's Keras: there is no model without it."""
    return sys.modules["keras"]


def reference(obj: Any, what: str, *, floatx: str | None = None) -> dict[str, Any]:
    """The reference that builds an equal object. `floatx`: the float type of the job, the caller's by default.

    Raises ComponentError where the object is no component, or an argument has no form in JSON.
    """
    kind = reference_kind(type(obj))
    if kind is None:
        raise ComponentError(
            f"{what}, {_described(obj)}, is not a component: put @tapeworks.component on it, or use a class"
        )
    name = component_name(type(obj), kind, what)
    if kind is Kind.LAYER and is_keras(type(obj)):
        check_rebuilt(_document(obj, name), obj.name)
    floatx = floatx or keras().config.floatx()
    return {"component": name, "config": _arguments(obj, kind, name, floatx)}


def component_name(cls: type, kind: Kind, what: str) -> str:
    """`keras/Dense` or the registered name. Raises ComponentError for any other class."""
    registered = keras().saving.get_registered_name(cls)
    if ">" in registered:
        package, _, bare = registered.partition(">")
        return str(bare) if package == "tapeworks" else f"{package}/{bare}"
    module = keras()
    for part in _MODULES[kind].split("."):
        module = getattr(module, part)
    public = [name for name, member in vars(module).items() if member is cls]
    if public:
        return f"keras/{cls.__name__ if cls.__name__ in public else public[0]}"
    raise ComponentError(f"{what}, {cls.__name__}, is not a component: put @tapeworks.component on it")


def is_keras(cls: type) -> bool:
    """Whether the class is Keras' own, not one that was registered by somebody else."""
    return cls.__module__.partition(".")[0] == "keras" and ">" not in keras().saving.get_registered_name(cls)


# ── arguments ────────────────────────────────────────────────────────────────────────────────────


def _arguments(obj: Any, kind: Kind, name: str, floatx: str) -> dict[str, Any]:
    config = dict(obj.get_config())
    config |= left_out(obj, config)
    defaults, accepted = _parameters(type(obj), kind, name)
    if "dtype" in accepted and hasattr(obj, "dtype"):
        config.setdefault("dtype", obj.dtype)
    found: dict[str, Any] = {}
    for argument, value in config.items():
        if argument not in accepted or _is_default(argument, value, defaults.get(argument), floatx):
            continue
        found[argument] = argument_value(obj, argument, value, f"{argument} of {name}", floatx)
    return found


def _parameters(cls: type, kind: Kind, name: str) -> tuple[dict[str, Any], set[str]]:
    """The defaults in the signature, and the names of all arguments that a spec may give."""
    parameters = inspect.signature(cls).parameters
    defaults = {one.name: one.default for one in parameters.values()}
    defaults.setdefault("reduction", _KERAS_REDUCTION)
    component = registry.find(kind, name)
    if component is not None:
        properties = component.config_schema.get("properties")
        return defaults, set(properties) if isinstance(properties, dict) else set()
    accepted = {one.name for one in parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD}
    if len(accepted) < len(parameters):
        accepted |= base_arguments(kind)
    return defaults, accepted


def _is_default(argument: str, value: Any, default: Any, floatx: str) -> bool:
    """Whether the argument may be left out: what a class does by default is the same in the job."""
    if argument == "dtype":
        return bool(dtype_name(value) == floatx)
    if argument == "reduction":
        return bool(value == default)
    return value is None and default is None


def left_out(obj: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that `__init__` takes and `get_config` lacks, where they are not their defaults; a layer's precision.

    Some layers of Keras write the dtype of their variables in the place of their policy: rebuilt, they would compute in
    another precision.
    """
    found: dict[str, Any] = {}
    policy = getattr(obj, "dtype_policy", None)
    if isinstance(config.get("dtype"), str) and hasattr(obj, "call") and type(obj).__name__ != "InputLayer":
        found = {} if policy is None or policy.name == config["dtype"] else {"dtype": policy.name}
    inner = getattr(obj, "_fn_kwargs", {})
    for argument, parameter in inspect.signature(type(obj)).parameters.items():
        if argument in config or argument in _NOT_READ:
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        try:
            held = operator.attrgetter(_HELD_AS.get((type(obj).__name__, argument), argument))(obj)
        except AttributeError:
            held = parameter.default
        value = inner.get(argument, held)
        if argument == "flash_attention" and not value:
            continue  # Keras resolves None when the layer is made
        if isinstance(value, bool | int | float | str | list | tuple | dict) and value != parameter.default:
            found[argument] = value
    return found


# ── values ───────────────────────────────────────────────────────────────────────────────────────


def argument_value(obj: Any, argument: str, value: Any, what: str, floatx: str) -> Any:
    """An argument of a config as JSON; objects in it become references, from the object itself where it holds one."""
    held = vars(obj).get("_init_arguments")  # what `__init__` of a component was called with
    if (
        held is not None
        and argument in held.values
        and argument not in base_arguments(reference_kind(type(obj)) or Kind.LAYER)
    ):
        return _value(held.values[argument], what, floatx)
    if isinstance(value, Mapping) and "class_name" in value and not _is_plain_form(value):
        for attribute in (argument, f"_{argument}"):
            live = getattr(obj, attribute, None)
            if type(live).__name__ == value["class_name"] and hasattr(live, "get_config"):
                return reference(live, what, floatx=floatx)
    return _value(value, what, floatx)


def _is_plain_form(value: Mapping[str, Any]) -> bool:
    name = str(value["class_name"])
    return name == "function" or name.startswith("__") or name.endswith(("DTypePolicy", "DTypePolicyMap"))


def _value(value: Any, what: str, floatx: str) -> Any:
    if isinstance(value, Mapping):
        if "class_name" in value:
            return _serialized(value, what, floatx)
        odd = next((key for key in value if not isinstance(key, str)), None)
        if odd is not None:
            raise ComponentError(f"{what} has the key {odd!r}: the keys of a JSON object are strings")
        return {key: _value(item, what, floatx) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_value(item, what, floatx) for item in value]
    if hasattr(value, "get_config") and not isinstance(value, type):
        return (
            dtype_name(value)
            if hasattr(value, "compute_dtype") and not hasattr(value, "call")
            else reference(value, what, floatx=floatx)
        )
    if hasattr(value, "numpy"):
        value = value.numpy()
    if hasattr(value, "tolist"):  # NumPy's arrays and numbers
        return value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        raise ComponentError(f"{what} is {value}, which JSON cannot hold")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ComponentError(f"{what} is {_described(value)}, which a spec cannot hold: put @tapeworks.component on it")


def _serialized(value: Mapping[str, Any], what: str, floatx: str) -> Any:
    """What Keras serialised: `{"module", "class_name", "config", "registered_name"}`."""
    name, config = value["class_name"], value.get("config") or {}
    if name == "function":
        raise ComponentError(f"{what} is the function {config!r}: put @tapeworks.component on it, or use a class")
    if name == "__numpy__":
        return _value(config["value"], what, floatx)
    if name == "__tuple__":
        return _value(value["items"], what, floatx)
    if _is_plain_form(value):
        return dtype_name(keras().saving.deserialize_keras_object(dict(value)))
    try:
        live = keras().saving.deserialize_keras_object(dict(value))
    except (TypeError, ValueError) as error:
        raise ComponentError(f"{what}, {name}, cannot be rebuilt from its config: {error}") from error
    return reference(live, what, floatx=floatx)


def dtype_name(value: Any) -> Any:
    """The name of a dtype or policy. Raises ComponentError for a policy that is more than its name."""
    if isinstance(value, Mapping):
        value = keras().saving.deserialize_keras_object(dict(value))
    if isinstance(value, str) or value is None:
        return value
    if type(value).__name__ not in ("DTypePolicy", "FloatDTypePolicy"):
        raise ComponentError(
            f"the dtype policy {type(value).__name__} cannot be written in a spec: give a dtype's name"
        )
    return value.name


def _described(value: Any) -> str:
    if inspect.isfunction(value):
        return f"the plain function {value.__name__!r}"
    return f"an object of type {type(value).__name__}"


def _document(layer: Any, name: str) -> dict[str, Any]:
    try:
        document: dict[str, Any] = keras().saving.serialize_keras_object(layer)
    except NotImplementedError as error:
        why = " ".join(str(error).split())[:300]
        raise ComponentError(f"{name} has no config with these arguments: {why}") from error
    return document


def check_rebuilt(document: Mapping[str, Any], name: str) -> None:
    """Some layers of Keras cannot be rebuilt from their own configs: raise ComponentError before a worker fails."""
    parts = {key: document[key] for key in ("module", "class_name", "config", "registered_name") if key in document}
    saving = keras().saving
    try:
        found = saving.serialize_keras_object(saving.deserialize_keras_object(json.loads(json.dumps(parts))))
    except (TypeError, ValueError) as error:
        raise ComponentError(
            f"Keras cannot rebuild the layer {name!r} ({document['class_name']}) from its own config: "
            f"{' '.join(str(error).rpartition('Exception encountered:')[2].split())[:300]}"
        ) from error
    again = json.loads(json.dumps(found))["config"]
    for argument, value in json.loads(json.dumps(document["config"])).items():
        if argument in again and again[argument] != value:
            raise ComponentError(
                f"Keras does not rebuild the layer {name!r} ({document['class_name']}) from its own config: {argument} "
                f"is {value!r} and comes back as {again[argument]!r}"
            )
