"""What `compile` was given as metrics and weighted metrics, in the form of a spec: the rules of CompileMetrics."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from tapeworks.errors import ComponentError
from tapeworks.keras.compile_losses import Outputs, Path, kind_of, measure, nested, path_text
from tapeworks.keras.references import keras
from tapeworks.spec.references import Kind

_ACCURACY = ("accuracy", "acc")
_LIKE_OUTPUTS = (
    "BinaryCrossentropy",
    "BinaryFocalCrossentropy",
    "CategoricalCrossentropy",
    "CategoricalFocalCrossentropy",
)
"""Losses that take labels of the outputs' own shape only."""


def metrics(given: Any, weighted: Any, loss: Any, outputs: Outputs, floatx: str) -> Any:
    """The metrics of a role: a list, or lists by output; `weighted_metrics` are marked."""
    found: dict[Path, list[dict[str, Any]]] = {}
    for items, marked in ((given, False), (weighted, True)):
        for path, item in _metrics_by_path(items, outputs, "weighted_metrics" if marked else "metrics"):
            made = _metric(item, _loss_at(loss, outputs, path), outputs, path, floatx)
            found.setdefault(path, []).append({**made, "weighted": True} if marked else made)
    if not found or set(found) == {()}:
        return [item for items in found.values() for item in items]
    return {"outputs": {outputs.key(path): items for path, items in found.items()}}


def _metrics_by_path(given: Any, outputs: Outputs, argument: str) -> Iterator[tuple[Path, Any]]:
    tree = keras().tree
    if not given:
        return
    struct = outputs.struct
    if outputs.only or (struct is None and isinstance(given, list | tuple) and not any(map(nested, given))):
        yield from (((), item) for item in tree.flatten(given) if item is not None)
        return
    if struct is None or (outputs.flat and _fits(given, outputs)):
        for key, items in given.items() if isinstance(given, Mapping) else enumerate(given):
            if outputs.flat and isinstance(given, Mapping) is not isinstance(struct, Mapping):
                key = sorted(struct)[key] if isinstance(struct, Mapping) else outputs.names.index(key)
            yield from (((key,), item) for item in _listed(items))
        return
    yield from _nested_metrics(given, struct, (), argument)


def _fits(given: Any, outputs: Outputs) -> bool:
    """Whether the metrics are a list with an entry for each output, or a dict by their names."""
    if not isinstance(given, Mapping):
        return len(given) == len(outputs.struct)
    return set(given) <= set(outputs.struct if isinstance(outputs.struct, Mapping) else outputs.names)


def _nested_metrics(given: Any, struct: Any, path: Path, argument: str) -> Iterator[tuple[Path, Any]]:
    if not nested(struct):
        yield from ((path, item) for item in _listed(given))
        return
    both_lists = isinstance(given, list | tuple) and isinstance(struct, list | tuple)
    if not nested(given) or not (both_lists or isinstance(given, type(struct))) or len(given) != len(struct):
        raise ComponentError(
            f"{argument} at {path_text(path)} must match the outputs there, {kind_of(struct)} of {len(struct)}: "
            "give a list with an entry for each output, or a dict by output"
        )
    for key, items in given.items() if isinstance(given, Mapping) else enumerate(given):
        if isinstance(struct, Mapping) and key not in struct:
            raise ComponentError(f"{argument} name the output {path_text((*path, key))}, which the model does not have")
        yield from _nested_metrics(items, struct[key], (*path, key), argument)


def _listed(items: Any) -> list[Any]:
    return [item for item in (items if isinstance(items, list | tuple) else [items]) if item is not None]


def _loss_at(loss: Any, outputs: Outputs, path: Path) -> Any:
    """The component of the loss of an output, from the losses of the spec."""
    if isinstance(loss, Mapping) and "outputs" in loss:
        by_output = loss["outputs"]
        loss = next(iter(by_output.values())) if outputs.only else by_output.get(outputs.key(path))
    return loss["component"] if isinstance(loss, Mapping) else None


def _metric(given: Any, loss: Any, outputs: Outputs, path: Path, floatx: str) -> dict[str, Any]:
    if isinstance(given, str) and given.lower() in _ACCURACY:
        return {"component": _accuracy(loss, outputs, path), "config": {"name": given}}
    made = measure(given, Kind.METRIC, floatx)
    if made["component"].startswith("keras/") and (isinstance(given, str) or inspect.isfunction(given)):
        made["config"] = {**made["config"], "name": given if isinstance(given, str) else given.__name__}
    return made


def _accuracy(loss: Any, outputs: Outputs, path: Path) -> str:
    """`"accuracy"` is chosen by the shapes of labels and outputs: where the loss does not say it, in the job."""
    if outputs.struct is not None and outputs.width(path) == 1:
        return "keras/BinaryAccuracy"
    if outputs.struct is not None and loss == "keras/SparseCategoricalCrossentropy":
        return "keras/SparseCategoricalAccuracy"
    if outputs.struct is not None and loss in [f"keras/{name}" for name in _LIKE_OUTPUTS]:
        return "keras/CategoricalAccuracy"
    return "accuracy"
