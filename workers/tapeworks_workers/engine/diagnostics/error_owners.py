"""Whose code an exception concerns where no line of it ran: a signature that does not fit, a missing attribute.

`of_part` names the part of the job (a loss, a metric) that a block calls; `part_of` reads it from the exception.
`concerned` finds the user's class or function in what the exception itself carries.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from tapeworks.components.registry import registry

_ATTRIBUTE = "tapeworks_part"
_SIGNATURE = re.compile(r"^([\w.<>]+)\(\) (?:got |takes |missing )")


@dataclass(frozen=True)
class Part:
    """A part of the job, as messages name it."""

    what: str
    component: str


@contextlib.contextmanager
def of_part(what: str, component: str) -> Iterator[None]:
    """Exceptions of the block remember the innermost part that they passed through."""
    try:
        yield
    except Exception as error:
        if part_of(error) is None:
            with contextlib.suppress(AttributeError):
                setattr(error, _ATTRIBUTE, Part(what, component))
        raise


def shapes(y: Any, y_pred: Any) -> str:
    """What a loss or a metric is called with, where both are tensors."""
    known = [getattr(value, "shape", None) for value in (y, y_pred)]
    return "" if None in known else f"on y of shape {known[0]} and outputs of shape {known[1]}"


def part_of(error: BaseException) -> Part | None:
    """The part that an exception itself passed through."""
    part = getattr(error, _ATTRIBUTE, None)
    return part if isinstance(part, Part) else None


def concerned(error: BaseException, is_own: Callable[[str], bool]) -> tuple[str, int] | None:
    """File and line of the user's function or class that one exception concerns. `is_own`: of a file, whether."""
    found = [_called(error), type(error.obj) if isinstance(error, AttributeError) else None]
    found += [type(owner) for owner in reversed(list(owners(error.__traceback__)))]
    for target in filter(None, found):
        if (place := _defined(target)) is not None and is_own(place[0]):
            return place
    return None


def owners(trace: TracebackType | None) -> Iterator[Any]:
    """The `self` of each frame of a traceback, outermost first."""
    while trace is not None:
        if (owner := trace.tb_frame.f_locals.get("self")) is not None:
            yield owner
        trace = trace.tb_next


def _called(error: BaseException) -> Any:
    """The component's function or method whose signature a TypeError is about: it names it by its qualified name."""
    match = _SIGNATURE.match(str(error)) if isinstance(error, TypeError) else None
    if match is None:
        return None
    holder, _, method = match[1].rpartition(".")
    for component in registry:
        if component.shipped:
            continue
        name = component.target.__qualname__
        if name == match[1]:
            return component.target
        if name == holder and inspect.isclass(component.target):
            return getattr(component.target, method, None)
    return None


def _defined(target: Any) -> tuple[str, int] | None:
    """Where a class or function begins."""
    try:
        file = inspect.getsourcefile(inspect.unwrap(target))
        return (file, inspect.getsourcelines(inspect.unwrap(target))[1]) if file else None
    except (OSError, TypeError):
        return None
