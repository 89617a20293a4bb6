"""State in Python attributes of callbacks and evaluators, which a checkpoint does not hold.

They run outside of TensorFlow, between epochs, so an attribute that they change lasts until the process ends. What a
callback gives by `state()` is in the checkpoint; an evaluator has nothing of the kind.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

_PLAIN = (bool, int, float, str, bytes, list, tuple, dict, set, np.ndarray, np.generic)


_LARGEST = 10_000
"""Elements of a value that is compared."""


@dataclass(frozen=True)
class Watched:
    """One object, its attributes as they were, and what its user is warned of."""

    place: str
    component: str
    instance: Any
    before: Mapping[str, Any]

    @classmethod
    def of(cls, place: str, component: str, instance: Any) -> Watched:
        """The object as it is now."""
        return cls(place, component, instance, _attributes(instance))

    def changed(self) -> list[str]:
        """The attributes that are others now. None → a value counts too, unless it is no plain value."""
        now = _attributes(self.instance)
        return sorted(name for name, value in self.before.items() if name in now and not _same(value, now[name]))


def warnings(watched: Iterable[Watched]) -> Iterator[tuple[str, str, str]]:
    """(message, hint, component) for each object of which an attribute changed."""
    for one in watched:
        if names := one.changed():
            listed = ", ".join(names)
            yield (
                f"{one.place}, {one.component!r} changes its attributes {listed} between epochs, and no checkpoint "
                "holds them: in a job that is paused or loses its worker they are reset",
                "A callback returns them from state() and takes them back in load(). An evaluator computes its values "
                "from the weights and the data alone.",
                one.component,
            )


def _attributes(instance: Any) -> dict[str, Any]:
    """Its plain attributes, copied."""
    return {name: copy.deepcopy(value) for name, value in getattr(instance, "__dict__", {}).items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    """Whether a value can be compared, and is small: a copy of it is kept for an epoch."""
    if isinstance(value, str | bytes | list | tuple | set | dict | np.ndarray):
        size = value.size if isinstance(value, np.ndarray) else len(value)
        if size > _LARGEST:
            return False
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list | tuple | set):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, _PLAIN)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return bool(np.array_equal(one, other))
    try:
        return type(one) is type(other) and bool(one == other or one != one)
    except ValueError:  # arrays inside a container
        return repr(one) == repr(other)
