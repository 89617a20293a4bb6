"""One list of classes for all sources of a job whose labels are names, such as those of folders.

    settle({"training": origin, "validation": origin, …})   before any dataset is built

The list is that of the training split: the `classes` of its config, else the names found there, in order of name
(`Source.class_order`). The
branches of `concatenate` and `sample` share a list; those of `zip` are fields of their own and have one each. Other
splits are numbered by the training list, and what it lacks is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tapeworks.components.interfaces import Source
from tapeworks.errors import FailureCode, JobFailure, Location
from tapeworks_workers.engine.data.sources import TRAINING, BranchNode, SourceNode

_SHOWN = 10
REPORTED_BYTES = 64 * 1024
"""Of the names in a job object and its event; a bundle's manifest has all."""
Field = tuple[str, ...]
"""The names of the branches of `zip` that lead to a source; empty without them."""


@dataclass(frozen=True)
class _Named:
    """A source whose labels are names."""

    origin: SourceNode
    found: list[str]

    @property
    def source(self) -> Source:
        return self.origin.source


def settle(origins: Mapping[str, SourceNode | BranchNode]) -> Any:
    """Give each source its list. Returns the list, or one by field; None where labels have no names.

    Raises JobFailure `invalid_data` for names that the training list lacks, lists that differ, and a single class.
    """
    fields: dict[Field, list[str]] = {}
    for split in sorted(origins, key=lambda name: name != TRAINING):
        found: dict[Field, list[_Named]] = {}
        for field, named in _named(origins[split]):
            found.setdefault(field, []).append(named)
        for field, sources in found.items():
            known = fields.get(field)
            names = fields.setdefault(field, _names(sources) if known is None else known)
            for named in sources:
                _check(named, names, split, trained=known is not None)
                named.source.classes = list(names)
            if split == TRAINING:
                _check_single(sources, names)
    if set(fields) <= {()}:
        return fields.get(())
    return {".".join(field) or "y": names for field, names in fields.items()}


def absent(origins: Mapping[str, SourceNode | BranchNode]) -> list[str]:
    """Classes of which a split of its own holds nothing, a message for each split; after `settle`."""
    messages = []
    for split, origin in origins.items():
        found: dict[Field, set[str]] = {}
        lists: dict[Field, list[str]] = {}
        for field, named in _named(origin):
            found.setdefault(field, set()).update(named.found)
            lists[field] = list(named.source.classes or ())
        for field, names in lists.items():
            if missing := [name for name in names if name not in found[field]]:
                messages.append(f"the {split} data has no example of {_listed(missing)}")
    return messages


def reported(names: Any) -> Any:
    """The list as a job object holds it; the number of classes alone where the names are too long for one."""
    if len(json.dumps(names)) <= REPORTED_BYTES:
        return names
    return {field: len(one) for field, one in names.items()} if isinstance(names, dict) else len(names)


def _named(origin: SourceNode | BranchNode, field: Field = ()) -> Iterator[tuple[Field, _Named]]:
    if isinstance(origin, SourceNode):
        names = origin.source.class_names()
        if names is not None:
            yield field, _Named(origin, list(names))
        return
    apart = isinstance(origin.source.sources, Mapping)
    for name, (branch, _, _) in origin.branches.items():
        yield from _named(branch, (*field, name) if apart else field)


def _names(sources: list[_Named]) -> list[str]:
    """The list that the first config gives, else all names found."""
    given = next((named.source.classes for named in sources if named.source.classes), None)
    if given is not None:
        return list(given)
    return sorted({name for named in sources for name in named.found}, key=sources[0].source.class_order)


def _check(named: _Named, names: list[str], split: str, *, trained: bool) -> None:
    own = named.source.classes
    if own is not None and list(own) != names:
        raise _refused(
            named,
            f"{named.origin.pointer}/config/classes: {_listed(list(own))} is not the list of the training split, "
            f"{_listed(names)}",
            "Give both the same classes in the same order, or leave the list out here.",
        )
    missing = [name for name in named.found if name not in names]
    if missing:
        where = "the training split has" if trained else "the list of classes has"
        raise _refused(
            named,
            f"{named.origin.pointer}: the {split} data holds {_listed(missing)}; {where} {_listed(names)}",
            'Remove these files or rows, or name every class in "classes" of the training source.',
        )


def _check_single(sources: list[_Named], names: list[str]) -> None:
    (named, *_), given = sources, any(isinstance(one.origin.reference.config.get("classes"), list) for one in sources)
    if len(names) > 1 or given:
        return
    what, hint = named.source.single_class(names[0]) if names else ("there is no label", "Give a source with rows.")
    raise _refused(named, f"{named.origin.pointer}: {what}, so all labels would be 0", hint)


def _listed(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:_SHOWN]))
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _refused(named: _Named, message: str, hint: str) -> JobFailure:
    place = Location(component=named.origin.reference.component)
    return JobFailure(FailureCode.INVALID_DATA, message, hint=hint, location=place)
