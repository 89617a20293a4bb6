"""A Keras model as the model of a spec: the config of `functional`, or a registered component with its arguments.

`model_reference(model, floatx)` raises ComponentError for everything that the config would lose: methods that a
subclass or an instance overrides, classes that are no components, code.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from tapeworks.errors import ComponentError
from tapeworks.keras.references import check_rebuilt, is_keras, keras, left_out, reference
from tapeworks.keras.unsupported import Unsupported

_HOOKS = (
    "call",
    "train_step",
    "test_step",
    "compute_loss",
    "compute_metrics",
    "make_train_function",
    "fit",
    "_compute_loss",
)
"""What an instance may hold in place of its class's own, and a config does not."""
_LOOKUPS = ("StringLookup", "IntegerLookup", "TextVectorization")


def model_reference(model: Any, floatx: str) -> dict[str, Any]:
    """The reference of the model; `floatx` as in `keras_references.reference`."""
    overridden = [name for name in _HOOKS if name in vars(model)]
    if overridden:
        raise ComponentError(
            f"{overridden[0]} was assigned to the model instance and is not in its config: override it in a class "
            "with @tapeworks.component on it"
        )
    if is_plain(model):
        document = _document(model)
        problems = Unsupported()
        _check(document, "the model", problems)
        problems.check()
        _complete(document, model)
        return {"component": "functional", "config": {"config": document}}
    cls = type(model)
    if ">" in keras().saving.get_registered_name(cls):
        return reference(model, "the model", floatx=floatx)
    base = "Sequential" if isinstance(model, keras().Sequential) else "Model"
    raise ComponentError(
        f"{cls.__name__} is a subclass of keras.{base}, and its config does not contain what it overrides: put "
        "@tapeworks.component on it, and load its file in the workers, or build it with the functional API"
    )


def is_plain(model: Any) -> bool:
    """Whether the model is a `Sequential` or functional model and nothing more: its config is all of it."""
    functional = sys.modules["keras.src.models.functional"].Functional
    return type(model) in (keras().Sequential, functional)


def _document(model: Any) -> dict[str, Any]:
    """What `model.to_json()` gives, without what `compile` was given: it cannot always be serialised."""
    try:
        config = model.get_config()
    except (NotImplementedError, TypeError) as error:
        raise ComponentError(f"the model has no config: {' '.join(str(error).split())[:300]}") from error
    if isinstance(model, keras().Sequential):
        kind = {"module": "keras", "class_name": "Sequential", "registered_name": None}
    else:
        kind = {"module": type(model).__module__, "class_name": "Functional", "registered_name": "Functional"}
    try:
        document: dict[str, Any] = json.loads(json.dumps({**kind, "config": config}, allow_nan=False))
    except ValueError as error:
        raise ComponentError(
            f"the model's config holds NaN or an infinity, which JSON cannot represent: {error}"
        ) from error
    _drop_compiled(document)
    return document


def _drop_compiled(value: Any) -> None:
    """Models inside a model may be compiled too; only the outer one's `compile` counts in `fit`."""
    for item in value.values() if isinstance(value, dict) else value:
        if isinstance(item, dict):
            item.pop("compile_config", None)
        if isinstance(item, dict | list):
            _drop_compiled(item)


# ── what the config leaves out ───────────────────────────────────────────────────────────────────


def _complete(document: dict[str, Any], live: Any) -> None:
    """Write arguments that Keras' configs leave out, and what preprocessing layers learned, beside what they write."""
    config = document.get("config")
    if not isinstance(config, dict):
        return
    if isinstance(config.get("layers"), list) and is_plain(live):
        by_name = {layer.name: layer for layer in live._layers}
        for layer in config["layers"]:
            if isinstance(layer, dict) and layer.get("config", {}).get("name") in by_name:
                _complete(layer, by_name[layer["config"]["name"]])
        return
    if not is_keras(type(live)):
        return
    if config.get("trainable") is False and type(live).__name__ in ("StringLookup", "IntegerLookup"):
        config["trainable"] = True  # nothing can be trained, and they come back so from their own config
    config.update(left_out(live, config))
    config.update(_learned(live))
    if "inbound_nodes" in document or "build_config" in document:
        # After what was learned: an adapted TextVectorization has the size of a vocabulary that its config lacks.
        check_rebuilt(document, live.name)
    for child, part in _children(config, live):
        _complete(part, child)


def _children(config: Mapping[str, Any], live: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Objects inside an object, with their configs: the layer of a wrapper, the cells of an RNN."""
    for argument, part in config.items():
        child = getattr(live, argument, None)
        parts, children = (part, child) if isinstance(part, list) else ([part], [child])
        if isinstance(children, list | tuple) and len(children) == len(parts):
            for one, inner in zip(children, parts, strict=True):
                if isinstance(inner, dict) and hasattr(one, "get_config"):
                    yield one, inner


def _learned(layer: Any) -> dict[str, Any]:
    """What an adapted preprocessing layer learned, as the arguments that give it."""
    kind = type(layer).__name__
    if learned_in_config(layer):
        return {"mean": layer.adapt_mean.numpy().tolist(), "variance": layer.adapt_variance.numpy().tolist()}
    if kind in _LOOKUPS and not _keeps_vocabulary(layer):
        lookup = getattr(layer, "_lookup_layer", layer)
        if lookup.output_mode == "tf_idf":
            raise ComponentError(
                f"the layer {layer.name!r} was adapted, and its weights of tf-idf are not in its config: make it with "
                "the arguments vocabulary and idf_weights"
            )
        words = layer.get_vocabulary(include_special_tokens=False)
        return {"vocabulary": [word.item() if hasattr(word, "item") else word for word in words]}
    return {}


def learned_in_config(layer: Any) -> bool:
    """Whether it is an adapted Normalization, whose weights become arguments; one that is not may be adapted later."""
    if type(layer).__name__ != "Normalization" or not layer.built or layer.input_mean is not None:
        return False
    mean, variance = layer.adapt_mean.numpy(), layer.adapt_variance.numpy()
    return bool((mean != 0).any() or (variance != 1).any())


def _keeps_vocabulary(layer: Any) -> bool:
    """Whether a lookup's vocabulary is in its config: it was given, or there is none yet."""
    lookup = getattr(layer, "_lookup_layer", layer)
    return lookup.input_vocabulary is not None or int(lookup.vocabulary_size()) <= lookup._token_start_index()


# ── what no config may hold ──────────────────────────────────────────────────────────────────────


def _check(value: Any, place: str, problems: Unsupported) -> None:
    """Collect what a worker would refuse, before the job is sent."""
    if isinstance(value, list):
        for item in value:
            _check(item, place, problems)
    if not isinstance(value, dict):
        return
    config = value.get("config")
    if "class_name" in value:
        name = config.get("name") if isinstance(config, dict) else None
        place = f"the layer {name!r}" if "inbound_nodes" in value or name is not None else place
        with problems.collect():
            _check_class(value, place)
    for item in value.values():
        _check(item, place, problems)


def _check_class(value: Mapping[str, Any], place: str) -> None:
    name, registered = value["class_name"], value.get("registered_name")
    if name in ("Lambda", "__lambda__"):
        raise ComponentError(
            f"{place} is a Lambda, which carries code: make it a layer with @tapeworks.component on it"
        )
    if name == "function" and not inspect.isfunction(getattr(keras().activations, str(value.get("config")), None)):
        if ">" not in str(registered):
            raise ComponentError(
                f"{place} holds the plain function {value.get('config')!r}: put @tapeworks.component on a class instead"
            )
        return
    own = str(value.get("module") or "keras").partition(".")[0] != "keras"
    if own and name != "function" and ">" not in str(registered) and not name.startswith("__"):
        raise ComponentError(f"{place} is or holds a {name}, which is not a component: put @tapeworks.component on it")
