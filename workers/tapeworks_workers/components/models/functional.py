"""`functional`: a model from the config that Keras itself writes, checked class by class before it is revived.

Reviving a Keras config can run code (CVE-2025-1550 and its successors got round `safe_mode`), so every
`class_name` in it must be a public class of Keras that carries no code, one of the operations of `keras.ops` that
functional models record (`x + y` is `keras.src.ops.numpy.Add`), or a component registered here. Every operation of
Keras 3.15 computes with tensors and plain arguments alone, but for those that are given a function (`OF_FUNCTIONS`).
"""

from __future__ import annotations

import copy
import inspect
import sys
from typing import Any

import keras
import tensorflow as tf

from tapeworks import component

_PUBLIC = {
    "keras": {"Functional", "Model", "Sequential", "DTypePolicy", "KerasTensor"},
    "keras.dtype_policies": {"DTypePolicy", "FloatDTypePolicy"},
    "keras.src.models.functional": {"Functional"},
}
_MODULES = (
    "keras.layers",
    "keras.regularizers",
    "keras.initializers",
    "keras.constraints",
    "keras.activations",
    "keras.losses",
)
OPERATIONS = (
    "keras.src.activations.activations",
    "keras.src.ops.core",
    "keras.src.ops.einops",
    "keras.src.ops.image",
    "keras.src.ops.linalg",
    "keras.src.ops.math",
    "keras.src.ops.nn",
    "keras.src.ops.numpy",
)
OF_FUNCTIONS = frozenset(
    {"AssociativeScan", "Cond", "ForiLoop", "JVP", "Map", "Scan", "Switch", "VectorizedMap", "Vectorize", "WhileLoop"}
)
"""Operations that call a function, which a config would have to carry."""
_VALUES = {"__keras_tensor__", "__tuple__", "__numpy__", "__tensor__", "__ellipsis__", "__slice__"}
_REFUSED = {"Lambda", "TFSMLayer", "JaxLayer", "FlaxLayer", "TorchModuleWrapper"}
_FILE_ARGUMENTS = ("vocabulary", "idf_weights")


def _example() -> dict[str, Any]:
    """One dense layer, as Keras would write it."""
    tensor = {"class_name": "__keras_tensor__", "config": {"shape": [None, 4], "dtype": "float32"}}
    tensor["config"]["keras_history"] = ["x", 0, 0]  # type: ignore[index]
    layers = [
        {
            "module": "keras.layers",
            "class_name": "InputLayer",
            "config": {"batch_shape": [None, 4], "dtype": "float32", "name": "x"},
            "name": "x",
            "inbound_nodes": [],
        },
        {
            "module": "keras.layers",
            "class_name": "Dense",
            "config": {"units": 2, "name": "y"},
            "name": "y",
            "inbound_nodes": [{"args": [tensor], "kwargs": {}}],
        },
    ]
    ends = {"input_layers": [["x", 0, 0]], "output_layers": [["y", 0, 0]]}
    return {
        "config": {"config": {"name": "example", "layers": layers, **ends}},
        "inputs": tf.TensorSpec([None, 4], tf.float32),
    }


@component("functional", kind="model", example=_example())
def functional(config: dict[str, Any]) -> keras.Model:
    """A functional or sequential model as Keras' own JSON.

    Args:
        config: what `model.get_config()` gave, or `json.loads(model.to_json())`. Its inputs must match the element.
    """
    config = copy.deepcopy(config)  # Keras changes the one it is given
    if "class_name" in config:
        check_config(config, "config")
        if config["class_name"] not in ("Functional", "Sequential", "Model"):
            raise ValueError(f"config is of a {config['class_name']}, not of a functional or sequential model")
        config = config["config"]
    if not isinstance(config.get("layers"), list):
        raise ValueError("config has no list 'layers': give what model.get_config() of a functional model returns")
    check_config(config, "config")
    _name_layers(config)
    cls = keras.Model if "input_layers" in config else keras.Sequential
    return cls.from_config(config)


def check_config(value: Any, place: str) -> None:
    """Raise ValueError at the first class that may not be revived."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            check_config(item, f"{place}[{index}]")
    elif isinstance(value, dict):
        if "class_name" in value:
            _check_class(value, place)
        for key, item in value.items():
            check_config(item, f"{place}.{key}")


def _check_class(value: dict[str, Any], place: str) -> None:
    name, module, registered = value["class_name"], value.get("module"), value.get("registered_name")
    if not isinstance(name, str) or not isinstance(module, (str, type(None))):
        raise ValueError(f"{place}: class_name and module are strings")
    if name in _VALUES or _is_registered(registered):
        return
    if name == "function" and _is_activation(value.get("config")):
        return
    if module in OPERATIONS and name in OF_FUNCTIONS:
        raise ValueError(
            f"{place}: {module}.{name} calls a function, which no config holds: write a layer that calls it, with "
            "@tapeworks.component on it"
        )
    if not _is_allowed(name, module):
        raise ValueError(
            f"{place}: the class {module}.{name} is not allowed in a config. Public Keras layers, regularizers, "
            "initializers and constraints are, and registered components; Lambda and other code never is"
        )
    inner = value.get("config")
    if isinstance(inner, dict) and any(isinstance(inner.get(argument), str) for argument in _FILE_ARGUMENTS):
        raise ValueError(f"{place}: Keras would read a file on the worker for {name}: give the values as a list")


def _is_registered(name: Any) -> bool:
    """Whether it is a component's own registration; Keras' own classes have none."""
    return isinstance(name, str) and ">" in name and keras.saving.get_registered_object(name) is not None


def _is_activation(name: Any) -> bool:
    return isinstance(name, str) and inspect.isfunction(getattr(keras.activations, name, None))


def _is_allowed(name: str, module: str | None) -> bool:
    if name in _REFUSED or module is None:
        return False
    if name in _PUBLIC.get(module, ()):
        return True
    if module in _MODULES:
        return inspect.isclass(getattr(getattr(keras, module.partition(".")[2]), name, None))
    if module in OPERATIONS:
        found = getattr(sys.modules[module], name, None)
        return inspect.isclass(found) and issubclass(found, keras.Operation) and found.__module__ == module
    return False


def _name_layers(config: dict[str, Any]) -> None:
    """A layer whose own config lacks its name would get another one, and `freeze` would miss it."""
    for layer in config["layers"]:
        inner = layer.get("config") if isinstance(layer, dict) else None
        if isinstance(inner, dict) and "name" in layer:
            inner.setdefault("name", layer["name"])
            if isinstance(inner.get("layers"), list):
                _name_layers(inner)
