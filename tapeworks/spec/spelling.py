"""Names that may stand at one place of a spec, so that a hint about an unknown one can be followed."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Tag


def remedy(name: str, location: Sequence[int | str], model: type[BaseModel], extra: Iterable[str] = ()) -> str:
    """What to do about an unknown field `name` of the place that pydantic's `location` names, without the name.

    `extra`: names that may stand beside the model's own at its root.
    """
    known = sorted({*_names(location, model), *([] if location else extra)})
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"Remove it; expected one of {', '.join(known)}." if known else "Remove it."


def _names(location: Sequence[int | str], model: type[BaseModel]) -> set[str]:
    """The fields of whatever models may stand at a location: its union tags choose among them where they are there."""
    places: list[Any] = [model]
    for step in location:
        alternatives = [one for place in places for one in _alternatives(place)]
        inner = [one for place in alternatives for one in _inside(place, step)]
        places = inner or [one for one in alternatives if _tagged(one, step)] or alternatives
    found = (one for place in places for one in _alternatives(place))
    models = [one for one in map(_bare, found) if isinstance(one, type) and issubclass(one, BaseModel)]
    return {field.alias or name for one in models for name, field in one.model_fields.items()}


def _alternatives(annotation: Any) -> list[Any]:
    """The members of a union, each with its own metadata."""
    bare = _bare(annotation)
    if typing.get_origin(bare) in (typing.Union, types.UnionType):
        return [one for member in typing.get_args(bare) for one in _alternatives(member)]
    return [annotation]


def _bare(annotation: Any) -> Any:
    while typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    return annotation


def _inside(annotation: Any, step: int | str) -> list[Any]:
    bare = _bare(annotation)
    origin, arguments = typing.get_origin(bare), typing.get_args(bare)
    if origin is list and isinstance(step, int):
        return [arguments[0]]
    if origin is dict and isinstance(step, str):
        return [arguments[1]]
    if isinstance(bare, type) and issubclass(bare, BaseModel):
        return [field.annotation for name, field in bare.model_fields.items() if step in (name, field.alias)]
    return []


def _tagged(annotation: Any, step: int | str) -> bool:
    """Whether a member of a union is the one that pydantic's step names: by its tag, `op`, or class."""
    if typing.get_origin(annotation) is Annotated:
        tags = [mark.tag for mark in typing.get_args(annotation)[1:] if isinstance(mark, Tag)]
        if tags:
            return step in tags
    bare = _bare(annotation)
    if not (isinstance(bare, type) and issubclass(bare, BaseModel)):
        return False
    op = bare.model_fields.get("op")
    if op is not None and typing.get_origin(op.annotation) is Literal:
        return step in typing.get_args(op.annotation)
    return step == bare.__name__
