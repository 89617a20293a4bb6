"""Weights of an earlier job, assigned to a model: `initial_state`.

    Source                one `initial_state` of the spec
    take(model, …)        → Taken: which layer took which one's weights, and what was left as it was

Weights are matched by structure (weight_matching.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tapeworks.errors import FailureCode, JobFailure
from tapeworks.spec.job_spec import InitialState
from tapeworks_workers.engine.factory.weight_matching import Alignment, Names, Weight, align, in_order_of_numbers
from tapeworks_workers.engine.models import layer_state
from tapeworks_workers.engine.models.adapt import unadapted
from tapeworks_workers.engine.models.layer_paths import layers_by_path, listed, matching

MODELS = "models/"
_REPORTED = 500
"""Entries of each list in an event."""


@dataclass(frozen=True)
class Source:
    """One `initial_state` of the spec, as one role sees it."""

    name: str
    pointer: str
    own: InitialState | None
    """None: `training.initial_state`, of which a role takes the part of its own name, if there is one."""

    def takes(self, path: str) -> bool:
        globs = self.own.layers if self.own is not None else None
        return globs is None or any(fnmatchcase(path, glob) for glob in globs)

    def role_in(self, values: Mapping[str, np.ndarray], role: str) -> str | None:
        """The role of the earlier job. Raises JobFailure `invalid_spec` where the spec asks for one it has not."""
        roles = list(dict.fromkeys(name.split("/")[1] for name in values if name.startswith(MODELS)))
        if self.own is None:
            return role if role in roles else None
        wanted = self.own.role or (role if role in roles or len(roles) != 1 else roles[0])
        if wanted not in roles:
            raise JobFailure(
                FailureCode.INVALID_SPEC,
                f"{self.pointer}/role: {self.name!r} has no role {wanted!r}; it has {listed(roles)}",
            )
        return wanted

    @property
    def strict(self) -> bool:
        return self.own is None or self.own.strict

    @property
    def match(self) -> str:
        return "structure" if self.own is None else self.own.match


@dataclass
class Taken:
    """What one `initial_state` gave to one role."""

    pointer: str
    source: str
    role: str
    """The role of the earlier job."""
    weights: int = 0
    layers: dict[str, str] = field(default_factory=dict)
    """Path of a layer here → path of the layer whose weights it has."""
    left: dict[str, str] = field(default_factory=dict)
    """Path of a weight that is as it was → why."""

    @property
    def renamed(self) -> dict[str, str]:
        """The layers that have another name there."""
        return {here: there for here, there in self.layers.items() if here != there}

    @property
    def message(self) -> str:
        """One line for a log."""
        parts = [f"{self.pointer}: {self.weights} weights are those of role {self.role!r} of {self.source!r}"]
        if self.renamed:
            parts.append("layers of another name: " + listed([f"{a} from {b}" for a, b in self.renamed.items()]))
        if self.left:
            parts.append("left as they were: " + listed([f"{path} {why}" for path, why in self.left.items()]))
        return "; ".join(parts) + "."

    def document(self) -> dict[str, Any]:
        """The event `initial_state`."""
        return {
            "message": self.message,
            "pointer": self.pointer,
            "from": self.source,
            "role": self.role,
            "weights": self.weights,
            "layers": dict(list(self.layers.items())[:_REPORTED]),
            "left": dict(list(self.left.items())[:_REPORTED]),
        }


def take(model: keras.Model, values: Mapping[str, np.ndarray], role: str, source: Source, *, keep: set[str]) -> Taken:
    """Assign the weights that a source names; `keep`: paths of layers that stay as they are. Raises JobFailure."""
    stored = _stored(values, role)
    here = [Weight(weight.path, tuple(weight.shape)) for weight in model.weights]
    there = [Weight(path, value.shape) for path, value in stored]
    names = Names.of([model, *(layer for _, layer in layers_by_path(model))])
    found = align(here, there, names, model=model.name, match=source.match)
    taken, assigned = Taken(source.pointer, source.name, role), []
    for index in _chosen(model, source, keep):
        weight = here[index]
        _refuse_ambiguous(weight.path, index, found, source, role)
        at = found.pairs.get(index)
        if at is not None and there[at].shape == weight.shape:
            assigned.append((model.weights[index], stored[at][1]))
            taken.layers[_layer(weight.path)] = _layer(there[at].path)
            continue
        taken.left[weight.path] = "has no counterpart there" if at is None else _misfit(weight, there[at])
    if taken.left and source.strict:
        path, why = next(iter(taken.left.items()))
        raise JobFailure(
            FailureCode.INVALID_SPEC,
            f"{source.pointer}: {path!r} {why} (role {role!r} of {source.name!r})",
            hint="Name the layers to take in `layers`, or set `strict` to false, which leaves what does not fit as it "
            "starts; the event initial_state lists both.",
        )
    for weight, value in assigned:
        weight.assign(tf.cast(value, weight.dtype))
    taken.weights = len(assigned)
    _refuse_unlearned(model, taken, source)
    return taken


def _stored(values: Mapping[str, np.ndarray], role: str) -> list[tuple[str, np.ndarray]]:
    """(variable path, value) of a role in its model's order: a state that was read is sorted by name."""
    prefix, found = f"{MODELS}{role}/", []
    for name, value in values.items():
        if name.startswith(prefix):
            index, _, path = name.removeprefix(prefix).partition("/")
            found.append((int(index), path, value))
    return [(path, value) for _, path, value in sorted(found, key=lambda one: one[0])]


def _chosen(model: keras.Model, source: Source, keep: set[str]) -> list[int]:
    """Positions of the weights to be assigned, in the model's order."""
    kept = {id(weight) for path, layer in layers_by_path(model) if path in keep for weight in layer.weights}
    wanted = None
    if source.own is not None and source.own.layers is not None:
        layers = matching(model, source.own.layers, pointer=f"{source.pointer}/layers")
        wanted = {id(weight) for _, layer in layers for weight in layer.weights}
    return [
        index
        for index, weight in enumerate(model.weights)
        if id(weight) not in kept and (wanted is None or id(weight) in wanted)
    ]


def _refuse_ambiguous(path: str, index: int, found: Alignment, source: Source, role: str) -> None:
    if index in found.ambiguous:
        raise JobFailure(
            FailureCode.INVALID_SPEC,
            f"{source.pointer}: it is not clear which layer of role {role!r} of {source.name!r} {path!r} is: "
            f"{found.ambiguous[index]}",
            hint='Set "match" of a model\'s initial_state: "order" takes layers of one class in their order, from the '
            'first on; "names" takes the names as they are, Keras\' numbers included.',
        )


def _refuse_unlearned(model: keras.Model, taken: Taken, source: Source) -> None:
    """A normalisation that the earlier job does not have would compute with mean 0 and variance 1."""
    for path, layer in layers_by_path(model):
        if unadapted(layer) and any(weight.path in taken.left for weight in layer.weights):
            raise JobFailure(
                FailureCode.INVALID_SPEC,
                f"{source.pointer}: the layer {path!r} ({type(layer).__name__}) is not adapted: it is not in "
                f"{source.name!r}",
                hint=f'Add "adapt": [{{"layer": "{path}"}}] beside the model\'s config.',
            )


def _layer(path: str) -> str:
    return path.rpartition("/")[0]


def _misfit(here: Weight, there: Weight) -> str:
    name = "" if here.path == there.path else f" (as {there.path!r})"
    return f"is {list(there.shape or ())} there{name}, {list(here.shape or ())} here"


def layer_there(path: str, layers: Sequence[tuple[str, Any]], there: Sequence[str], source: Source) -> str | None:
    """The path of the earlier job's layer whose vocabulary or boundaries a layer takes; None: it has none.

    `layers`: (path, layer) of this model; `there`: paths of the layers that kept something. Raises JobFailure.
    """
    names = Names.of(layer for _, layer in layers)
    own = in_order_of_numbers([at for at, layer in layers if layer_state.kept_by(layer)], names)
    other = in_order_of_numbers(there, names)
    if path not in own:
        return None
    found = align([Weight(at) for at in own], [Weight(at) for at in other], names, match=source.match)
    index = own.index(path)
    if index in found.ambiguous:
        _refuse_ambiguous(path, index, found, source, source.name)
    return other[found.pairs[index]] if index in found.pairs else None
