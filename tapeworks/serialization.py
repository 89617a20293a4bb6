"""How a custom Keras object comes back: `get_config`, `from_config` and build configs derived from `__init__`.

This file needs the standard library and, when it is called, Keras. It goes into every bundle as it
is, and `load.py` uses it there in place of Tapeworks, so it imports nothing else.

Interface: `register(name, target)` makes a class or function known to Keras as `package>name`;
`derive(cls)` adds what Keras needs to write and rebuild it; `keras_name(name)` is the pair of names.

What is derived, each only where the user's own class does not define it (inheriting Keras' does not
count: Keras' base drops the arguments, the commonest reason why custom objects do not reload):

- `get_config`: the arguments that `__init__` was called with, Keras objects in them serialised,
  through lists, tuples and dicts; with Keras' own `name`, `trainable`, `dtype`, `reduction`, ….
- `from_config`: the reverse. What `__init__` does not take (a layer without `**kwargs` has no
  `name`) is set afterwards.
- `get_build_config`, `build_from_config` of models and layers without a `build` of their own: shapes
  *and* dtypes of the first call, by argument. Keras records shapes only, so a subclassed model
  with an integer input or several arguments comes back with fresh weights and no more than a warning.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

_CALL = "call_specs"
"""The key of a build config that holds the specs of the first call."""
_TUPLE = "__tuple__"


def _keras() -> Any:
    return importlib.import_module("keras")


def keras_name(name: str) -> tuple[str, str]:
    """`acme/Mish` → ("acme", "Mish"); a name without a package belongs to "tapeworks"."""
    package, _, bare = name.rpartition("/")
    return package or "tapeworks", bare


def register(name: str, target: T) -> T:
    """Derive what is missing and register a class or function with Keras as `package>name`."""
    keras = _keras()

    if inspect.isclass(target):
        derive(target)
    package, bare = keras_name(name)
    keras.saving.register_keras_serializable(package=package, name=bare)(target)
    return target


def derive(cls: type) -> None:
    """Add `get_config`, `from_config` and build configs to a Keras class, where its author did not."""
    _remember_arguments(cls)
    if not _own(cls, "get_config"):
        cls.get_config = _get_config  # type: ignore[attr-defined]
    if not _own(cls, "from_config"):
        cls.from_config = classmethod(_from_config)  # type: ignore[attr-defined]
    if _is_layer(cls):
        _build_eagerly(cls)
    if _is_layer(cls) and not _own(cls, "build") and not _own(cls, "get_build_config"):
        _remember_call(cls)
        cls.get_build_config = _get_build_config  # type: ignore[attr-defined]
        if not _own(cls, "build_from_config"):
            cls.build_from_config = _build_from_config  # type: ignore[attr-defined]


def _own(cls: type, name: str) -> bool:
    """Whether the class, or a base of its author's, defines a method (Keras' and derived ones do not count)."""
    for base in cls.__mro__:
        if name in vars(base):
            member = vars(base)[name]
            function = getattr(member, "__func__", member)
            ours = getattr(function, "__module__", None) == __name__
            return not ours and base.__module__.partition(".")[0] != "keras" and base is not object
    return False


def _is_layer(cls: type) -> bool:
    keras = _keras()

    return issubclass(cls, keras.layers.Layer)


# ── the arguments of __init__ ────────────────────────────────────────────────────────────────────


class _Held:
    """Keeps values out of sight of Keras' attribute tracking and of its walk over attributes when it saves."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values


def _remember_arguments(cls: type) -> None:
    """Wrap `__init__` so that the outermost call leaves its arguments on the instance."""
    original = cls.__init__  # type: ignore[misc]
    if "__init__" in vars(cls) and getattr(original, "_remembers", False):
        return
    signature = inspect.signature(original)

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        if "_init_arguments" not in self.__dict__:
            bound = signature.bind(self, *args, **kwargs)
            object.__setattr__(self, "_init_arguments", _Held(_flat(bound)))
        original(self, *args, **kwargs)

    # Keras asks getfullargspec, which does not follow __wrapped__ but does read __signature__.
    __init__.__signature__ = signature  # type: ignore[attr-defined]
    __init__._remembers = True  # type: ignore[attr-defined]
    cls.__init__ = __init__  # type: ignore[misc]


def _flat(bound: inspect.BoundArguments) -> dict[str, Any]:
    """Arguments by name, `self` left out, `**kwargs` spread; containers copied against later changes."""
    flat: dict[str, Any] = {}
    for index, (name, value) in enumerate(bound.arguments.items()):
        kind = bound.signature.parameters[name].kind
        if index == 0:
            continue
        if kind is inspect.Parameter.VAR_POSITIONAL:
            raise TypeError(f"*{name} cannot be written into a config: make it a list argument")
        flat.update(_copied(value) if kind is inspect.Parameter.VAR_KEYWORD else {name: _copied(value)})
    return flat


def _copied(value: Any) -> Any:
    if type(value) in (list, tuple):
        return type(value)(_copied(item) for item in value)
    if type(value) is dict:
        return {key: _copied(item) for key, item in value.items()}
    return value


# ── configs ──────────────────────────────────────────────────────────────────────────────────────


def _get_config(self: Any) -> dict[str, Any]:
    """The arguments of `__init__`, and what Keras' base keeps (name, trainable, dtype, reduction, …)."""
    keras = _keras()

    held = self.__dict__.get("_init_arguments")
    arguments = held.values if held else {}
    if getattr(type(self).from_config, "__func__", None) is _from_config:
        config = {name: _serialised(value) for name, value in arguments.items()}
    else:
        config = {name: keras.saving.serialize_keras_object(value) for name, value in arguments.items()}
    # The base's values win: trainable may have been changed, a learning rate assigned.
    return {**config, **_base_config(self)}


def _base_config(instance: Any) -> dict[str, Any]:
    """What Keras' own base of this kind of object writes, without the arguments of `__init__`."""
    keras = _keras()

    for base in (
        keras.layers.Layer,
        keras.losses.Loss,
        keras.metrics.Metric,
        keras.optimizers.Optimizer,
    ):
        if isinstance(instance, base):
            config = dict(base.get_config(instance))
            if isinstance(instance, keras.optimizers.Optimizer):
                accepted = _accepted(type(instance))
                config = {key: value for key, value in config.items() if accepted is None or key in accepted}
            return config
    return {}


def _from_config(cls: Any, config: Mapping[str, Any]) -> Any:
    """The object again. What `__init__` does not take is set on it afterwards."""
    keras = _keras()

    arguments = {name: _deserialised(value) for name, value in config.items()}
    if isinstance(arguments.get("dtype"), keras.dtype_policies.DTypePolicy):
        policy = arguments["dtype"]
        if policy.quantization_mode is None and type(policy) is keras.dtype_policies.DTypePolicy:
            arguments["dtype"] = policy.name
    accepted = _accepted(cls)
    left = {} if accepted is None else {key: arguments.pop(key) for key in list(arguments) if key not in accepted}
    with _own_policy(cls, config.get("dtype")):
        instance = cls(**arguments)
    for name, value in left.items():
        if name == "dtype" and hasattr(type(instance), "dtype_policy"):
            instance.dtype_policy = value
        elif name in ("name", "trainable", "reduction"):
            setattr(instance, name, value)
        elif name not in ("dtype", "activity_regularizer"):
            raise TypeError(f"{cls.__name__}.__init__ takes no argument {name!r}, which its config holds")
    return instance


@contextmanager
def _own_policy(cls: type, dtype: Any) -> Iterator[None]:
    """Layers that a model makes without a dtype took the policy of the process that trained it, which was the model's.

    Where it is loaded another one is global: they would come back in float32 inside a model of mixed precision.
    """
    keras = _keras()
    if dtype is None or not issubclass(cls, keras.Model):
        yield
        return
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(keras.dtype_policies.get(dtype))
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _accepted(cls: type) -> set[str] | None:
    """Names that `__init__` takes; None where it has `**kwargs`."""
    parameters = inspect.signature(cls).parameters.values()
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name for parameter in parameters}


def _serialised(value: Any) -> Any:
    """Keras' own form through containers; tuples marked, since Keras brings them back as lists."""
    if isinstance(value, tuple):
        return {_TUPLE: [_serialised(item) for item in value]}
    if type(value) is list:
        return [_serialised(item) for item in value]
    if type(value) is dict:
        return {key: _serialised(item) for key, item in value.items()}
    return _keras().saving.serialize_keras_object(value)


def _deserialised(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_deserialised(item) for item in value)
    if not isinstance(value, dict):
        return value
    if value.keys() == {_TUPLE}:
        return tuple(_deserialised(item) for item in value[_TUPLE])
    if {"class_name", "config"} <= value.keys():
        return _keras().saving.deserialize_keras_object(value)
    return {key: _deserialised(item) for key, item in value.items()}


# ── build configs ────────────────────────────────────────────────────────────────────────────────


def _remember_call(cls: type) -> None:
    """Wrap `__call__` so that the first call leaves the specs of its tensors on the instance."""
    original: Callable[..., Any] = cls.__call__
    if "__call__" in vars(cls) and getattr(original, "_remembers", False):
        return

    @functools.wraps(original)
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        if "_call_specs" not in self.__dict__:
            specs = _call_specs(self, args, kwargs)
            if specs:
                object.__setattr__(self, "_call_specs", _Held(specs))
        return original(self, *args, **kwargs)

    __call__._remembers = True  # type: ignore[attr-defined]
    cls.__call__ = __call__  # type: ignore[method-assign]


def _build_eagerly(cls: type) -> None:
    """Wrap `__call__` so that inner layers which the first call builds keep the constants of their `build`.

    Keras traces `call` in a scratch graph to build a layer. What an inner `build` computes there is lost with it.
    """
    original: Callable[..., Any] = cls.__call__
    if getattr(original, "_builds_eagerly", False):
        return

    @functools.wraps(original)
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.built:
            return original(self, *args, **kwargs)
        with _eager_builds():
            return original(self, *args, **kwargs)

    __call__._builds_eagerly = True  # type: ignore[attr-defined]
    cls.__call__ = __call__  # type: ignore[method-assign]


@contextmanager
def _eager_builds() -> Iterator[None]:
    """Inside the block every `build` runs outside of the graph that is being traced."""
    keras = _keras()
    base: Any = keras.layers.Layer
    before = vars(base)["_maybe_build"]
    if keras.config.backend() != "tensorflow" or hasattr(before, "_lifts"):
        yield
        return
    tensorflow = importlib.import_module("tensorflow")

    @functools.wraps(before)
    def _maybe_build(self: Any, *args: Any, **kwargs: Any) -> None:
        if self.built or getattr(self.build, "_is_default", False):
            before(self, *args, **kwargs)
            return
        with tensorflow.init_scope():
            before(self, *args, **kwargs)

    _maybe_build._lifts = True  # type: ignore[attr-defined]
    base._maybe_build = _maybe_build
    try:
        yield
    finally:
        base._maybe_build = before


def _call_specs(instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    signature = inspect.signature(instance.call)
    if "training" not in signature.parameters:  # Keras keeps it from such a call
        kwargs = {name: value for name, value in kwargs.items() if name != "training"}
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError:
        return {}  # The call itself is about to raise, and says it better.
    specs = {}
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        for key, item in value.items() if kind is inspect.Parameter.VAR_KEYWORD else [(name, value)]:
            spec = _spec(item)
            if spec is not None:
                specs[key] = spec
    return specs


def _spec(value: Any) -> Any:
    """A nest of `{shape, dtype, sparse, ragged}`, batch dimension open; None where there is no tensor in it."""
    if isinstance(value, dict):
        found = {str(key): _spec(item) for key, item in value.items()}
        return {"dict": found} if found and all(item is not None for item in found.values()) else None
    if isinstance(value, (list, tuple)):
        items = [_spec(item) for item in value]
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: items} if items and all(item is not None for item in items) else None
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is None or dtype is None:
        return None
    spec: dict[str, Any] = {"shape": _open(shape), "dtype": getattr(dtype, "name", None) or str(dtype)}
    kinds = {base.__name__ for base in type(value).__mro__}
    if getattr(value, "sparse", False) or kinds & {"SparseTensor", "SymbolicSparseTensor"}:
        spec["sparse"] = True
    if getattr(value, "ragged", False) or "RaggedTensor" in kinds:
        spec["ragged"] = True
    return spec


def _open(shape: Any) -> list[int | None]:
    sizes = [None if size is None else int(size) for size in shape]
    return [None, *sizes[1:]] if sizes else []


def _symbolic(spec: Mapping[str, Any]) -> Any:
    keras = _keras()

    if "dict" in spec:
        return {key: _symbolic(item) for key, item in spec["dict"].items()}
    if "list" in spec:
        return [_symbolic(item) for item in spec["list"]]
    if "tuple" in spec:
        return tuple(_symbolic(item) for item in spec["tuple"])
    flags = {flag: True for flag in ("sparse", "ragged") if spec.get(flag)}
    return keras.KerasTensor(tuple(spec["shape"]), dtype=spec["dtype"], **flags)


def _get_build_config(self: Any) -> dict[str, Any] | None:
    """Shapes and dtypes of the first call, by argument; Keras' own shapes where it was never called."""
    keras = _keras()

    held = self.__dict__.get("_call_specs")
    if held:
        return {_CALL: held.values}
    config: dict[str, Any] | None = keras.layers.Layer.get_build_config(self)
    return config


def _build_from_config(self: Any, config: Mapping[str, Any] | None) -> None:
    """Create the variables by one symbolic call, as in training."""
    keras = _keras()

    if config and _CALL in config:
        if not self.built:
            nodes = self._inbound_nodes
            before = len(nodes)
            with _own_policy(type(self), self.dtype_policy):
                self(**{name: _symbolic(spec) for name, spec in config[_CALL].items()})
            # A functional model that holds this layer counts its calls: this one is not part of it.
            del nodes[before:]
    else:
        base = keras.Model if isinstance(self, keras.Model) else keras.layers.Layer
        base.build_from_config(self, config)
