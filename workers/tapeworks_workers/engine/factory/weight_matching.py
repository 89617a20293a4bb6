"""Which weight of an earlier job belongs to which weight of this model.

Weights are matched by the tree of their paths. A name that an author gave matches the same name. A name that Keras
invented (`dense_2`) has a number that counts layers through the whole process, so it says nothing about which layer it
is: layers of one class below the same parent are matched in their order. Shapes are compared last.

    align(here, there, names)      → Alignment: the index there of each weight here, and what is ambiguous

A match is ambiguous where order and names disagree although both could be meant, and where one side has more layers
and the shapes allow more than one assignment. `match` of the spec decides then.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import keras

from tapeworks.components.registry import registry
from tapeworks.spec.references import Kind
from tapeworks_workers.engine.graph.keras_private import automatic_name, automatic_names

_NUMBERED = re.compile(r"(.+?)(?:_(\d+))?")
_SEED = "/seed_generator_state"
_DIRECTIONS = ("forward_", "backward_")


@dataclass(frozen=True)
class Weight:
    """A weight by its path; `shape` None: it is not compared."""

    path: str
    shape: tuple[int, ...] | None = None


@dataclass
class Alignment:
    """What `align` found; keys and values are positions in `here` and `there`."""

    pairs: dict[int, int] = field(default_factory=dict)
    """Same place; the shapes may differ."""
    ambiguous: dict[int, str] = field(default_factory=dict)
    """Weights here that could be several there, and why."""


@dataclass(frozen=True)
class Names:
    """Which names Keras may have invented."""

    stems: frozenset[str]
    """Class names in snake case."""
    made: dict[str, int]
    """Stem → how many names Keras invented for it in this process."""

    @classmethod
    def of(cls, layers: Iterable[Any]) -> Names:
        """`layers`: those of this model, whose classes may be anybody's."""
        own = {automatic_name(type(layer)) for layer in layers}
        return cls(_known_stems() | own, automatic_names())

    def stem(self, name: str) -> str | None:
        """`dense` of `dense_2` and of `dense`; None for a name that an author must have given."""
        for direction in _DIRECTIONS:  # Bidirectional names its layers after the one that it was given
            inner = self.stem(name[len(direction) :]) if name.startswith(direction) else None
            if inner is not None:
                return direction + inner
        if name in self.stems:
            return name
        match = _NUMBERED.fullmatch(name)
        return match[1] if match is not None and match[2] is not None and match[1] in self.stems else None

    def invented(self, name: str) -> bool:
        """Whether Keras invented the name in this process."""
        stem = self.stem(name)
        if stem is None:
            return False
        made = next((stem[len(one) :] for one in _DIRECTIONS if stem.startswith(one)), stem)
        return number(name, stem) < self.made.get(made, 0)


def number(name: str, stem: str) -> int:
    """2 of `dense_2`, 0 of `dense`."""
    return int(name[len(stem) + 1 :] or 0)


def in_order_of_numbers(paths: Sequence[str], names: Names) -> list[str]:
    """Layers of one class in the order in which they were made, where their own order is lost."""

    def key(path: str) -> list[tuple[str, int]]:
        return [(stem, number(name, stem)) if (stem := names.stem(name)) else (name, 0) for name in path.split("/")]

    return sorted(paths, key=key)


@cache
def _keras_stems() -> frozenset[str]:
    classes = [value for value in vars(keras.layers).values() if isinstance(value, type)]
    others = (keras.Model, keras.Sequential, keras.Variable, keras.random.SeedGenerator)
    return frozenset(automatic_name(one) for one in (*classes, *others)) | {"functional"}


def _known_stems() -> frozenset[str]:
    own = {automatic_name(one.target) for one in registry if one.kind in (Kind.LAYER, Kind.MODEL)}
    return _keras_stems() | own


# ── trees ────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class _Scope:
    """One component of paths: the weights that end here, and what is below, in order of appearance."""

    weights: list[int] = field(default_factory=list)
    below: dict[str, _Scope] = field(default_factory=dict)

    @classmethod
    def of(cls, weights: Sequence[Weight]) -> _Scope:
        root = cls()
        for index, weight in enumerate(weights):
            if weight.path.endswith(_SEED):
                continue  # a seed is no weight: `model.weights` leaves it out
            scope = root
            for name in weight.path.split("/"):
                scope = scope.below.setdefault(name, cls())
            scope.weights.append(index)
        return root

    def all(self) -> list[int]:
        return [*self.weights, *(index for scope in self.below.values() for index in scope.all())]

    def inside(self, name: str | None = None) -> _Scope | None:
        """What is below the single name that all paths begin with, if there is one (and it is `name`)."""
        if len(self.below) != 1 or (name is not None and name not in self.below):
            return None
        (inner,) = self.below.values()
        return None if inner.weights else inner


def align(
    here: Sequence[Weight], there: Sequence[Weight], names: Names, *, model: str | None = None, match: str = "structure"
) -> Alignment:
    """Match every weight here, each list in its model's order. `match`: `structure`, `order` or `names`.

    The name of the model itself (`model`, here), before all paths of a subclassed or sequential model, is no part of
    the structure. None: paths begin inside the model on both sides.
    """
    mine, theirs = _Scope.of(here), _Scope.of(there)
    found = _Matching(here, there, names, match)
    if model is None:
        return found.align(mine, theirs)
    own, other = mine.inside(model), theirs.inside()
    candidates = [(mine, theirs), (own, other), (own, theirs), (mine, other)]
    alignments = [found.align(a, b) for a, b in candidates if a is not None and b is not None]
    return max(alignments, key=found.fitting)


@dataclass(frozen=True)
class _Matching:
    here: Sequence[Weight]
    there: Sequence[Weight]
    names: Names
    match: str

    def fit(self, here: int, there: int) -> bool:
        shape = self.here[here].shape
        return shape is None or shape == self.there[there].shape

    def fitting(self, alignment: Alignment) -> int:
        return sum(self.fit(here, there) for here, there in alignment.pairs.items())

    def align(self, mine: _Scope, theirs: _Scope, parents: tuple[str, str] = ("", "")) -> Alignment:
        """Match what is below two scopes; `parents`: their own names."""
        found = Alignment()
        found.pairs.update(zip(mine.weights, theirs.weights, strict=False))
        for stem, own, other in self._groups(mine, theirs, parents):
            if stem is None or self.match == "names":
                pairs, why = [(name, name) for name in own if name in other], None
            else:
                pairs, why = self._in_order(stem, mine, theirs, own, other)
            if why is not None:
                found.ambiguous.update({index: why for name in own for index in mine.below[name].all()})
            for name, at in pairs:
                inner = self.align(mine.below[name], theirs.below[at], (name, at))
                found.pairs.update(inner.pairs)
                found.ambiguous.update(inner.ambiguous)
        return found

    def _groups(
        self, mine: _Scope, theirs: _Scope, parents: tuple[str, str]
    ) -> list[tuple[str | None, list[str], list[str]]]:
        """(stem, names here, names there): by stem, and under None all names that authors gave.

        An author's name that begins with its parent's (`block_1_dense` in `block_1`) has the parent's number in it.
        """
        groups: dict[str | None, tuple[list[str], list[str]]] = {}
        for side, (scope, parent) in enumerate(zip((mine, theirs), parents, strict=True)):
            for name in scope.below:
                stem = self.names.stem(name)
                if stem is None and parent and name.startswith(f"{parent}_") and self.names.stem(parent) is not None:
                    stem = name.removeprefix(parent)
                groups.setdefault(stem, ([], []))[side].append(name)
        return [(stem, own, other) for stem, (own, other) in groups.items() if own]

    def _in_order(
        self, stem: str, mine: _Scope, theirs: _Scope, own: list[str], other: list[str]
    ) -> tuple[list[tuple[str, str]], str | None]:
        """Pairs in order, up to the first that does not fit where one side has more; and why that is ambiguous."""
        pairs = list(zip(own, other, strict=False))
        if self.match == "order":
            return pairs, None
        moved = [(name, at) for name, at in pairs if name != at and name in other]
        if moved and (set(own) == set(other) or not all(map(self.names.invented, own))):
            name, at = moved[0]
            return pairs, f"{name!r} is {name!r} there by its name and {at!r} by its place"
        if len(own) == len(other):
            return pairs, None
        fitting = 0
        while fitting < len(pairs) and self._fits(mine, theirs, *pairs[fitting]):
            fitting += 1
        rest, beyond = own[fitting:], other[fitting:]
        if any(self._fits(mine, theirs, name, at) for name in rest for at in beyond):
            there = f"{len(other)} layers {stem!r} there and {len(own)} here"
            return pairs[:fitting], f"{there}, and more than one assignment fits their shapes"
        return pairs[: fitting + 1], None

    def _fits(self, mine: _Scope, theirs: _Scope, name: str, at: str) -> bool:
        inner = self.align(mine.below[name], theirs.below[at], (name, at))
        wanted = mine.below[name].all()
        return all(index in inner.pairs and self.fit(index, inner.pairs[index]) for index in wanted)
