"""What is wrong with `data.validation` and `data.test`, as far as the source's schema and config say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tapeworks.errors import Finding, ProblemCode
from tapeworks.schemas.jobs import ComponentEntry
from tapeworks.spec.job_spec import JobSpec
from tapeworks.spec.references import Kind, ReferenceFields
from tapeworks.spec.splits import FilesSplit, FoldersSplit, Split
from tapeworks_service.specs.data_flow import branch_arguments

Found = Callable[[Kind, str], ComponentEntry | None]
"""The catalogue's entry that a job uses."""


def split_datasets(spec: JobSpec) -> Iterator[tuple[str, str]]:
    """Pointer and id of every dataset that a split by file names."""
    for name in ("validation", "test"):
        given = getattr(spec.data, name)
        if isinstance(given, FilesSplit):
            for pattern in given.patterns:
                if pattern.startswith("ds_"):
                    yield f"/data/{name}/files", pattern.partition("/")[0]


def split_findings(spec: JobSpec, found: Found) -> Iterator[Finding]:
    """Splits that the source of the job cannot give."""
    entry = found(Kind.SOURCE, spec.data.source.component)
    if entry is None:
        return
    for name in ("validation", "test"):
        given, pointer = getattr(spec.data, name), f"/data/{name}"
        if isinstance(given, FilesSplit | FoldersSplit):
            yield from _by_file(given, entry, pointer)
        elif isinstance(given, Split):
            yield from _by_field(given, entry, spec.data.source, pointer)


def _by_file(split: FilesSplit | FoldersSplit, entry: ComponentEntry, pointer: str) -> Iterator[Finding]:
    files = _properties(entry).get("files")
    if not isinstance(files, dict) or files.get("x-files") is not True:
        place = f"{pointer}/{'files' if isinstance(split, FilesSplit) else 'split'}"
        message = f"the source {entry.name!r} has no `files` to split"
        yield Finding(place, ProblemCode.INVALID_VALUE, message, "Use a fraction, or give the split its own source.")


def _by_field(split: Split, entry: ComponentEntry, source: ReferenceFields, pointer: str) -> Iterator[Finding]:
    held = [source.config.get(name) for name in branch_arguments(entry.config_schema)]
    if any(isinstance(one, list | dict) and len(one) > 1 for one in held):
        for argument, how in (("group", "group"), ("by", "time")):
            if getattr(split, argument) is not None:
                message = f"a split by {how} cuts one source, and {entry.name!r} has several"
                hint = "Give the split a source of its own."
                yield Finding(f"{pointer}/{argument}", ProblemCode.INVALID_VALUE, message, hint)
    for use in ("stratify", "group", "by"):
        field = getattr(split, use)
        if field is not None and (missing := _missing(field, entry, source.config)) is not None:
            yield Finding(f"{pointer}/{use}", ProblemCode.INVALID_VALUE, *missing)


def _missing(field: str, entry: ComponentEntry, config: dict[str, Any]) -> tuple[str, str] | None:
    """What is wrong with a field, and the remedy, by arguments that tables have; None where nothing can be said."""
    known = _properties(entry)
    part = field.partition(".")[0]
    for name, argument in (("y", "labels"), ("sample_weight", "weight")):
        optional = isinstance(known.get(argument), dict) and known[argument].get("default", "") is None
        if part == name and optional and config.get(argument) is None:
            return f"{field!r}: {entry.name!r} gives no {name}", f'Name its column in "{argument}" of the config.'
    return None


def _properties(entry: ComponentEntry) -> dict[str, Any]:
    properties = entry.config_schema.get("properties")
    return properties if isinstance(properties, dict) else {}
