"""`from_keras`: the whole job spec from a compiled Keras model: the way over from `fit` is one line.

    spec = tapeworks.from_keras(model, data={"source": "digits", "pipeline": […]}, epochs=5)
    client.submit(spec)

The model's own config, optimizer, losses, weights of losses and metrics are read from what `compile`
was given. Its weights are not part of a spec: the job starts from the initialisers.
Keras is taken from the caller's process, which has it already; nothing here imports it.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from tapeworks.errors import ComponentError
from tapeworks.layer_precision import MADE_UNDER
from tapeworks.spec import JobSpec

_COMPILED_ONLY = frozenset({"reduction", "dtype"})
"""Config keys that `compile` fills in with Keras' own defaults, and that a job decides for itself."""


def from_keras(model: Any, *, data: Mapping[str, Any], epochs: int = 1, **fields: Any) -> JobSpec:
    """The canonical spec of a job that trains `model` as `fit` would.

    Args:
        model: a compiled functional or sequential keras.Model, or a registered component.
        data: the `data` part of the spec.
        epochs: as in `fit`.
        fields: further fields of the spec (`name`, `gradients`, `export`, …); `training` is merged with epochs.

    Raises ComponentError where a part cannot be named in a spec, SpecInvalid and pydantic's ValidationError.
    """
    compiled = model.get_compile_config() if getattr(model, "compiled", False) else None
    if not compiled:
        raise ComponentError("the model is not compiled: call model.compile(optimizer=…, loss=…) first")
    if compiled.get("optimizer") is None:
        raise ComponentError("the model was compiled without an optimizer")
    outputs = list(getattr(model, "output_names", None) or [])
    loss = _serialized(model.loss)
    optimizer = _reference(compiled["optimizer"], "the optimizer")
    accumulated = optimizer["config"].pop("gradient_accumulation_steps", 1)  # the job does this by itself
    parts = {
        "data": dict(data),
        "model": _model(model),
        "optimizer": optimizer,
        "loss": _losses(loss, compiled.get("loss_weights"), outputs),
        "metrics": _metrics(compiled, loss, outputs, model),
        "training": {"epochs": epochs, "gradient_accumulation": accumulated, **fields.pop("training", {})},
    }
    return JobSpec.model_validate({**{key: value for key, value in parts.items() if value is not None}, **fields})


def _model(model: Any) -> dict[str, Any]:
    keras = _keras()
    registered = keras.saving.get_registered_name(type(model))
    if ">" not in registered and (isinstance(model, keras.Sequential) or type(model).__name__ == "Functional"):
        return {"component": "functional", "config": {"config": _plain(json.loads(model.to_json()))}}
    if ">" not in registered:
        raise ComponentError(
            f"{type(model).__name__} is a subclassed model: put @tapeworks.component on it, and serve its file "
            "to the workers, or build it with the functional API"
        )
    return {"component": _component_name(registered), "config": _arguments(_taken(model), registered)}


def _taken(model: Any) -> dict[str, Any]:
    """The arguments of a model's `__init__` in its config; Keras sets the rest on what `__init__` made."""
    parameters = inspect.signature(type(model)).parameters
    spread = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    config = {key: value for key, value in model.get_config().items() if key != MADE_UNDER}
    return config if spread else {key: value for key, value in config.items() if key in parameters}


def _plain(document: dict[str, Any]) -> dict[str, Any]:
    """The model's config without what `compile` and `build` added to it."""
    return {key: value for key, value in document.items() if key not in ("compile_config", "build_config")}


# ── losses and metrics ───────────────────────────────────────────────────────────────────────────


def _serialized(loss: Any) -> Any:
    """What `compile` was given as loss, as Keras serialises it, with the arguments that its configs leave out."""
    if isinstance(loss, Mapping):
        return {output: _serialized(item) for output, item in loss.items()}
    if isinstance(loss, list | tuple):
        return [_serialized(item) for item in loss]
    if loss is None or isinstance(loss, str):
        return loss
    serialized = _keras().saving.serialize_keras_object(loss)
    # Huber's delta and CosineSimilarity's axis are in no config of theirs (Keras 3.15).
    left_out = getattr(loss, "_fn_kwargs", {}) if str(serialized.get("module", "")).startswith("keras") else {}
    if isinstance(serialized.get("config"), dict):
        serialized["config"] = {**left_out, **serialized["config"]}
    return serialized


def _losses(loss: Any, weights: Any, outputs: list[str]) -> Any:
    if loss is None:
        return None
    several = isinstance(loss, list) or (isinstance(loss, Mapping) and "class_name" not in loss) or len(outputs) > 1
    if not several:
        reference = _measure(loss, "losses")
        if weights in (None, 1, 1.0, [1], [1.0]):
            return reference
        return {"outputs": {outputs[0] if outputs else "output": {**reference, "weight": _weight(weights, 0, "")}}}
    named = _by_output(loss, outputs)
    return {
        "outputs": {
            output: {**_measure(item, "losses"), "weight": _weight(weights, index, output)}
            for index, (output, item) in enumerate(named.items())
            if item is not None
        }
    }


def _weight(weights: Any, index: int, output: str) -> float:
    if isinstance(weights, Mapping):
        return float(weights.get(output, 1.0))
    if isinstance(weights, list | tuple):
        return float(weights[index])
    return 1.0 if weights is None else float(weights)


def _metrics(compiled: Mapping[str, Any], loss: Any, outputs: list[str], model: Any) -> Any:
    """A list, or lists by output; `weighted_metrics` are marked."""
    found: dict[str, list[dict[str, Any]]] = {}
    losses = _by_output(loss, outputs)
    for place, weighted in (("metrics", False), ("weighted_metrics", True)):
        given = compiled.get(place)
        if given is None:
            continue
        for output, item in _each(given, outputs):
            reference = _measure(_accuracy(item, losses.get(output, loss), output, model), "metrics")
            found.setdefault(output, []).append({**reference, "weighted": weighted} if weighted else reference)
    if len(outputs) <= 1 or not found:
        return [item for items in found.values() for item in items]
    return {"outputs": found}


def _each(given: Any, outputs: list[str]) -> Iterator[tuple[str, Any]]:
    """(output, metric), through lists and dicts; with one output a list is its metrics."""
    if len(outputs) <= 1 and not (isinstance(given, Mapping) and "class_name" not in given):
        given = {outputs[0] if outputs else "": given}
    for output, items in _by_output(given, outputs).items():
        for item in items if isinstance(items, list) else [items]:
            if item is not None:
                yield output, item


def _by_output(given: Any, outputs: list[str]) -> dict[str, Any]:
    if isinstance(given, Mapping) and "class_name" not in given:
        return dict(given)
    if isinstance(given, list):
        return dict(zip(outputs, given, strict=True))
    return dict.fromkeys(outputs, given)


def _accuracy(metric: Any, loss: Any, output: str, model: Any) -> Any:
    """`"accuracy"` means what the loss and the output's width say, as in `compile`."""
    if metric not in ("accuracy", "acc"):
        return metric
    name = loss if isinstance(loss, str) else str(loss.get("class_name", ""))
    names = list(getattr(model, "output_names", [output]))
    shape = model.outputs[names.index(output) if output in names else 0].shape
    if "sparse" in name.lower():
        kind = "SparseCategoricalAccuracy"
    else:
        kind = "BinaryAccuracy" if shape[-1] == 1 or "binary" in name.lower() else "CategoricalAccuracy"
    return {"class_name": kind, "module": "keras.metrics", "config": {"name": metric}}


def _measure(given: Any, module: str) -> dict[str, Any]:
    """A loss or metric by Keras' short name, or as `compile` serialised it."""
    if isinstance(given, Mapping) and given.get("class_name") == "function":
        given = given["config"] if hasattr(getattr(_keras(), module), str(given["config"])) else given
    if not isinstance(given, str):
        return _reference(given, f"one of the {module}")
    found = getattr(_keras(), module).get(given)
    name = getattr(found, "__name__", type(found).__name__).replace("_", "").lower()
    for candidate in dir(getattr(_keras(), module)):
        if candidate.lower() == name and isinstance(getattr(getattr(_keras(), module), candidate), type):
            return {"component": f"keras/{candidate}", "config": {"name": given} if module == "metrics" else {}}
    raise ComponentError(f"{given!r} of {module} has no class in Keras: give an instance instead")


# ── Keras' serialised objects ────────────────────────────────────────────────────────────────────


def _reference(serialized: Any, what: str) -> dict[str, Any]:
    """`{"module", "class_name", "config", "registered_name"}` as a reference of a spec."""
    if not isinstance(serialized, Mapping) or not isinstance(serialized.get("config"), Mapping):
        raise ComponentError(f"{what} is a plain function: put @tapeworks.component on it, or use a class")
    registered = serialized.get("registered_name") or ""
    name = _component_name(registered) if ">" in registered else f"keras/{serialized['class_name']}"
    if not name.startswith("keras/") or str(serialized.get("module", "")).startswith("keras"):
        return {"component": name, "config": _arguments(serialized["config"], name)}
    raise ComponentError(f"{what}, {serialized['class_name']}, is no component: put @tapeworks.component on it")


def _component_name(registered: str) -> str:
    package, _, name = registered.partition(">")
    return name if package == "tapeworks" else f"{package}/{name}"


def _arguments(config: Mapping[str, Any], what: str) -> dict[str, Any]:
    kept = {key: value for key, value in config.items() if value is not None and key not in _COMPILED_ONLY}
    return {key: _value(value, f"{key} of {what}") for key, value in kept.items()}


def _value(value: Any, what: str) -> Any:
    if isinstance(value, Mapping):
        if "class_name" in value:
            return _reference(value, what)
        return {key: _value(item, what) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_value(item, what) for item in value]
    return value


def _keras() -> Any:
    """The caller's Keras: a model cannot be here without it."""
    return sys.modules["keras"]
