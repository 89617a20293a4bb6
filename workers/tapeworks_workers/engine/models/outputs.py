"""The outputs of a model as a flat list, and what belongs to each: its y, its sample weight, its name in reports.

The rules are those of `keras.Model.fit` (CompileLoss and CompileMetrics of Keras 3.15): y and sample weights have the
structure of the outputs, lists and tuples are interchangeable, y may be a dict of output names where the outputs are a
list, and y may hold only the outputs that have a loss.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from tapeworks.errors import FailureCode, JobFailure

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Output:
    """One tensor of a model's outputs. `keras_name`: its entry of a functional model's `output_names`."""

    path: Path
    value: Any
    keras_name: str | None = None

    @property
    def key(self) -> str:
        """Its path, as a spec writes it: `h/0`."""
        return "/".join(map(str, self.path))


def outputs_of(y_pred: Any, output_names: Sequence[str] | None = None) -> list[Output]:
    """The outputs in Keras' flattened order: dicts by sorted key."""
    found = keras.tree.flatten_with_path(y_pred)
    names = list(output_names or ())
    known = names if len(names) == len(found) else [None] * len(found)
    return [Output(tuple(path), value, name) for (path, value), name in zip(found, known, strict=True)]


def output_names_of(model: Any) -> list[str] | None:
    """`output_names` of a functional or sequential model; None for a subclassed one."""
    names = getattr(model, "output_names", None)
    return list(names) if isinstance(names, list | tuple) else None


def index_of(key: str, outputs: Sequence[Output]) -> int | None:
    """Which output a key of the spec means: by path, by its Keras name, or by its number."""
    for attribute in ("key", "keras_name"):
        found = [index for index, output in enumerate(outputs) if getattr(output, attribute) == key]
        if len(found) == 1:
            return found[0]
    return int(key) if key.isdigit() and int(key) < len(outputs) else None


def find(key: str, outputs: Sequence[Output], *, what: str) -> int:
    """`index_of`. Raises JobFailure `invalid_spec` where there is no such output; `what` names it: `losses`."""
    index = index_of(key, outputs)
    if index is None:
        raise JobFailure(
            FailureCode.INVALID_SPEC,
            f"{what} name the output {key!r}; the model's outputs are {listed(outputs)}",
            hint=f"Name one of them, or its number: 0 … {len(outputs) - 1}."
            if len(outputs) > 1 or outputs[0].path
            else f"The model has one output: write the {what} without `outputs`.",
        )
    return index


def listed(outputs: Sequence[Output]) -> str:
    """The names by which a spec may call the outputs."""
    names = []
    for output in outputs:
        unique = output.keras_name and sum(one.keras_name == output.keras_name for one in outputs) == 1
        names.append(output.key if isinstance((output.path or (0,))[-1], str) or not unique else output.keras_name)
    return ", ".join(repr(name or "0") for name in names)


# ── y and sample weights ─────────────────────────────────────────────────────────────────────────


def labels_of(y: Any, y_pred: Any, outputs: Sequence[Output], chosen: Collection[int]) -> list[Any]:
    """Returns y of each output, None for outputs without targets. `chosen`: the outputs that need targets.

    Raises JobFailure `invalid_spec` where `fit` could not tell either which y belongs to which output.
    """
    found = _paired(y, y_pred, outputs)
    if found is None:
        flat = keras.tree.flatten(y)
        order = sorted(chosen)
        if len(flat) != len(order):
            raise _mismatch(y, y_pred, outputs, chosen)
        found = [None] * len(outputs)
        for index, value in zip(order, flat, strict=True):
            found[index] = value
    if any(found[index] is None for index in chosen):
        raise _mismatch(y, y_pred, outputs, chosen)
    return found


def _paired(y: Any, y_pred: Any, outputs: Sequence[Output]) -> list[Any] | None:
    """Where the structures say it all; None where y may hold only some of the outputs."""
    nested = keras.tree.is_nested(y)
    if not nested:
        return [y] if len(outputs) == 1 else None
    flat = keras.tree.flatten(y)
    if len(outputs) == 1 and len(flat) == 1:
        return flat
    if (found := _by_path(y, outputs)) is not None:
        return found
    if isinstance(y, Mapping):
        return _by_name(y, outputs)
    plain = not any(keras.tree.is_nested(item) for item in y)
    return flat if plain and keras.tree.is_nested(y_pred) and len(flat) == len(outputs) else None


def _by_path(nest: Any, outputs: Sequence[Output]) -> list[Any] | None:
    """The parts of a nest at the outputs' own paths, where it has exactly those."""
    parts = {tuple(path): value for path, value in keras.tree.flatten_with_path(nest)}
    return [parts[output.path] for output in outputs] if parts.keys() == {one.path for one in outputs} else None


def _by_name(nest: Mapping[Any, Any], outputs: Sequence[Output]) -> list[Any] | None:
    """The parts of a dict by the outputs' keys or Keras names; it may hold more and fewer."""
    parts = {"/".join(map(str, path)): value for path, value in keras.tree.flatten_with_path(nest)}
    found = {index_of(str(key), outputs): value for key, value in parts.items() if not str(key).isdigit()}
    found.pop(None, None)
    return [found.get(index) for index in range(len(outputs))] if found else None


def weights_of(sample_weight: Any, outputs: Sequence[Output]) -> list[Any]:
    """The sample weight of each output: one for all, or one each. Raises JobFailure `invalid_spec`."""
    if sample_weight is None or not keras.tree.is_nested(sample_weight):
        return [sample_weight] * len(outputs)
    flat = keras.tree.flatten(sample_weight)
    if len(flat) == 1 and not isinstance(sample_weight, Mapping):
        return flat * len(outputs)
    found = _by_path(sample_weight, outputs)
    if found is None and isinstance(sample_weight, Mapping):
        found = _by_name(sample_weight, outputs)
    elif found is None and len(flat) == len(outputs):
        found = flat
    if found is None:
        raise JobFailure(
            FailureCode.INVALID_SPEC,
            f"the sample weights {structure(sample_weight)} do not fit the model's outputs {listed(outputs)}",
            hint="Give one sample weight for all outputs, or one for each in the outputs' own structure.",
        )
    return found


def structure(nest: Any) -> str:
    """A nest with `*` for each tensor, as Keras prints it."""
    return str(keras.tree.map_structure(lambda _: "*", nest)).replace("'*'", "*")


def _mismatch(y: Any, y_pred: Any, outputs: Sequence[Output], chosen: Collection[int]) -> JobFailure:
    named = listed([outputs[index] for index in sorted(chosen)])
    return JobFailure(
        FailureCode.INVALID_SPEC,
        f"y and the model's outputs have different structures: y is {'missing' if y is None else structure(y)}, "
        f"the outputs are {structure(y_pred)}, with losses or metrics for {named}",
        hint="Give y the outputs' structure, or name the outputs in a dict. A loss that takes all outputs at once has "
        "the class attribute takes_all_outputs = True.",
    )


# ── names in reports ─────────────────────────────────────────────────────────────────────────────


def loss_label(output: Output, loss_name: str) -> str:
    """What `fit` puts before `_loss` for an output: its dict keys, its Keras name, else the loss's own name."""
    own = output.keras_name or loss_name
    if not output.path:
        return own
    path = output.path if isinstance(output.path[-1], str) else (*output.path[:-1], own)
    return "/".join(map(str, path))


def metric_labels(outputs: Sequence[Output]) -> list[str | None]:
    """What `fit` puts before the metrics of each output; None where it puts nothing."""
    if len(outputs) == 1:
        return [None]
    if all(len(output.path) == 1 and isinstance(output.path[0], str) for output in outputs):
        return [str(output.path[0]) for output in outputs]
    return [output.keras_name for output in outputs]


def unique_names(names: Iterable[tuple[str, str | None, bool]]) -> list[str]:
    """Names of metrics as `fit` reports them, from (own name, output's label, weighted), unweighted ones first.

    A name that is taken gets a number; that of a weighted metric `weighted_` first.
    """
    counts: dict[str, int] = {}
    found = []
    for own, label, weighted in names:
        name = f"{label}_{own}" if label else own
        if name in counts and weighted:
            name = f"{label}_weighted_{own}" if label else f"weighted_{own}"
        if name in counts:
            counts[name] += 1
            found.append(f"{name}_{counts[name] - 1}")
        else:
            counts[name] = 1
            found.append(name)
    return found
