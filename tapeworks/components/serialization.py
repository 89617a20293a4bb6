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
  A model that builds itself functionally in `__init__` needs neither.

A layer keeps the precision under which it was made (`layer_precision.py`) and constants of `build` (`eager_builds.py`).
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING or __name__.startswith("tapeworks."):
    from tapeworks.components import eager_builds, layer_precision
else:  # in a bundle
    eager_builds = importlib.import_module("component_builds")
    layer_precision = importlib.import_module("component_precision")

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
    if not _is_layer(cls):
        return
    eager_builds.keep(cls)
    if not _own(cls, "get_build_config"):
        cls.get_build_config = _get_build_config  # type: ignore[attr-defined]
        if not _own(cls, "build_from_config"):
            cls.build_from_config = _build_from_config  # type: ignore[attr-defined]
    keep_precision(cls)


def keep_precision(cls: type) -> None:
    """Let layers of a class live under the precision in which they were made (`layer_precision.py`)."""
    _remember_call(cls)
    layer_precision.keep(cls, own_build=_own(cls, "build"))


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
        outermost = "_init_arguments" not in self.__dict__
        if outermost:
            bound = signature.bind(self, *args, **kwargs)
            object.__setattr__(self, "_init_arguments", _Held({**_default_dtype(signature), **_flat(bound)}))
            layer_precision.remember(self)
        original(self, *args, **kwargs)
        if outermost:
            layer_precision.remember_own(self)
            object.__setattr__(self, "_built_at_first", getattr(self, "built", False))

    # Keras asks getfullargspec, which does not follow __wrapped__ but does read __signature__.
    __init__.__signature__ = signature  # type: ignore[attr-defined]
    __init__._remembers = True  # type: ignore[attr-defined]
    cls.__init__ = __init__  # type: ignore[misc]


def _default_dtype(signature: inspect.Signature) -> dict[str, Any]:
    """A default of an argument `dtype`: Keras' base writes its own, with which `__init__` would be called again."""
    default = signature.parameters["dtype"].default if "dtype" in signature.parameters else None
    return {} if default in (None, inspect.Parameter.empty) else {"dtype": default}


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
    if inspect.unwrap(getattr(type(self).from_config, "__func__", _keras)) is _from_config:
        config = {name: _serialised(value) for name, value in arguments.items()}
    else:
        config = {name: keras.saving.serialize_keras_object(value) for name, value in arguments.items()}
    # The base's values win: trainable may have been changed, a learning rate assigned.
    base = _base_config(self)
    dtype = arguments.get("dtype")
    if dtype is not None and not layer_precision.changed(self):  # `__init__` may give a dtype to inner layers only
        base["dtype"] = keras.saving.serialize_keras_object(keras.dtype_policies.get(dtype))
    return {**config, **base}


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
    if issubclass(cls, keras.Sequential) and "dtype" not in inspect.signature(cls).parameters:
        arguments.pop("dtype", None)  # Sequential takes none
    left = {} if accepted is None else {key: arguments.pop(key) for key in list(arguments) if key not in accepted}
    instance = cls(**arguments)
    for name, value in left.items():
        if name == "dtype" and hasattr(type(instance), "dtype_policy"):
            instance.dtype_policy = value
        elif name in ("name", "trainable", "reduction"):
            setattr(instance, name, value)
        elif name not in ("dtype", "activity_regularizer"):
            raise TypeError(f"{cls.__name__}.__init__ has no argument {name!r}, which its config holds")
    return instance


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
    """Wrap `__call__`: the first call leaves the specs of its tensors on the instance."""
    original: Callable[..., Any] = cls.__call__
    if getattr(original, "_remembers", False):
        return

    @functools.wraps(original)
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        if "_call_specs" not in self.__dict__:
            specs = _call_specs(self, args, kwargs)
            if specs:
                object.__setattr__(self, "_call_specs", _Held(specs))
        with layer_precision.under(layer_precision.of(self)):
            return original(self, *args, **kwargs)

    __call__._remembers = True  # type: ignore[attr-defined]
    cls.__call__ = __call__  # type: ignore[method-assign]


def _call_specs(instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    signature = inspect.signature(instance.call)
    if "training" not in signature.parameters:  # Keras keeps it from such a call
        kwargs = {name: value for name, value in kwargs.items() if name != "training"}
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError:
        return {}  # The call itself is about to raise, and says it better.
    specs = {}
    sized = bool(_stateful(instance))
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        for key, item in value.items() if kind is inspect.Parameter.VAR_KEYWORD else [(name, value)]:
            spec = _spec(item, sized)
            if spec is not None:
                specs[key] = spec
    return specs


def _stateful(layer: Any) -> list[Any]:
    """The stateful RNNs in a layer: their states have the size of a batch."""
    rnn = _keras().layers.RNN
    return [inner for inner in layer._flatten_layers() if isinstance(inner, rnn) and inner.stateful]


def _spec(value: Any, sized: bool = False) -> Any:
    """A nest of `{shape, dtype, sparse, ragged}`, batch dimension open unless `sized`; None: there is no tensor."""
    if isinstance(value, dict):
        found = {str(key): _spec(item, sized) for key, item in value.items()}
        return {"dict": found} if found and all(item is not None for item in found.values()) else None
    if isinstance(value, (list, tuple)):
        items = [_spec(item, sized) for item in value]
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: items} if items and all(item is not None for item in items) else None
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is None or dtype is None:
        return None
    sizes = [None if size is None else int(size) for size in shape]
    if sizes and not sized:
        sizes[0] = None
    spec: dict[str, Any] = {"shape": sizes, "dtype": getattr(dtype, "name", None) or str(dtype)}
    kinds = {base.__name__ for base in type(value).__mro__}
    if getattr(value, "sparse", False) or kinds & {"SparseTensor", "SymbolicSparseTensor"}:
        spec["sparse"] = True
    if getattr(value, "ragged", False) or "RaggedTensor" in kinds:
        spec["ragged"] = True
    return spec


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
    """Keras' own shapes for a `build` of the author's; shapes and dtypes of the first call, by argument."""
    shapes: dict[str, Any] | None = _keras().layers.Layer.get_build_config(self)
    held = self.__dict__.get("_call_specs")
    if held is None or self.__dict__.get("_built_at_first"):
        return shapes
    return {**((shapes or {}) if _own(type(self), "build") else {}), _CALL: held.values}


def _build_from_config(self: Any, config: Mapping[str, Any] | None) -> None:
    """Create the variables: by the author's `build`, and by one symbolic call where layers inside wait for that."""
    keras = _keras()
    shapes = dict(config or {})
    specs = shapes.pop(_CALL, None)
    if specs is None or shapes:
        base = keras.Model if isinstance(self, keras.Model) else keras.layers.Layer
        base.build_from_config(self, shapes)
    if specs is not None:
        object.__setattr__(self, "_call_specs", _Held(specs))
        _build_by_call(self, [], {name: _symbolic(spec) for name, spec in specs.items()})
        return
    shape = shapes.get("input_shape")
    if shape and all(size is None or isinstance(size, int) for size in shape):
        # TimeDistributed calls the `call` of the layer inside, never the layer.
        _build_by_call(self, [keras.KerasTensor(tuple(shape), dtype=self.compute_dtype)], {})


def _build_by_call(layer: Any, args: list[Any], kwargs: dict[str, Any]) -> None:
    """Call a layer symbolically, where it or layers inside are not built yet."""
    if not layer.built and _stateful(layer):
        _call_on_zeros(layer, args, kwargs)
    if not layer.built:
        nodes = layer._inbound_nodes
        before = len(nodes)
        layer(*args, **kwargs)
        del nodes[before:]  # a functional model that holds this layer counts its calls: this one is not part of it
    if not all(inner.built for inner in layer._flatten_layers(include_self=False)):
        # Keras does not run `call` where a layer says its output's shape: it is run here, without values. A layer that
        # is never called stays as it is; weights that are missed are named when they are loaded.
        with contextlib.suppress(Exception):
            importlib.import_module("keras.src.backend").compute_output_spec(layer.__call__, *args, **kwargs)


def _call_on_zeros(layer: Any, args: list[Any], kwargs: dict[str, Any]) -> None:
    """Keras cannot make the states of RNNs without values."""
    keras = _keras()

    def zeros(symbolic: Any) -> Any:
        return keras.ops.zeros([size or 1 for size in symbolic.shape], symbolic.dtype)

    args, kwargs = keras.tree.map_structure(zeros, (args, kwargs))
    layer(*args, **kwargs)
    for inner in _stateful(layer):
        inner.reset_state()
