"""Checks a component's config against the JSON Schema that its worker announced."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import structlog
from jsonschema.exceptions import ValidationError, best_match

from tapeworks.errors import Finding, ProblemCode
from tapeworks.schemas.jobs import ComponentEntry
from tapeworks.spec.references import Kind, escape
from tapeworks_service.catalogue.catalogue import Catalogue
from tapeworks_service.http.work_budget import WorkExceeded, spend

log = structlog.get_logger(__name__)


def config_findings(catalogue: Catalogue, entry: ComponentEntry, config: Any, pointer: str) -> Iterator[Finding]:
    """What is wrong with a config of a catalogue's entry, each with a pointer below `pointer`."""
    try:
        for error in catalogue.validator(entry).iter_errors(config):
            yield from _findings(entry, error, pointer)
    except WorkExceeded:
        raise
    except Exception as error:  # a package's schema is a stranger's: whatever it raises is said of it
        log.warning("a component's schema cannot be evaluated", component=entry.name, error=repr(error)[:500])
        message = f"the JSON Schema of {entry.name!r} cannot be evaluated"
        yield Finding(pointer, ProblemCode.INVALID_CONFIG, message, "Upload a corrected version of its package.")


def named_datasets(schema: Mapping[str, Any], config: Mapping[str, Any], pointer: str) -> Iterator[tuple[str, str]]:
    """Pointer and id of every dataset in the arguments that take files (`x-files`): `ds_…`, `ds_…/GLOB`."""
    properties = schema.get("properties")
    for argument, described in properties.items() if isinstance(properties, dict) else ():
        if not isinstance(described, dict) or described.get("x-files") is not True:
            continue
        at, given = f"{pointer}/{escape(argument)}", config.get(argument)
        items = [(at, given)] if isinstance(given, str) else [(f"{at}/{n}", one) for n, one in enumerate(given or ())]
        for place, value in items:
            if isinstance(value, str) and value.startswith("ds_"):
                yield place, value.partition("/")[0]


def kind_in_schema(schema: dict[str, Any], argument: str) -> Kind | None:
    """The kind that references in an argument must have, by the schema's `x-kind`; None where it does not say."""
    properties = schema.get("properties")
    described = properties.get(argument) if isinstance(properties, dict) else None
    found = {kind for kind in _kinds(described, schema.get("$defs", {})) if kind in {one.value for one in Kind}}
    return Kind(found.pop()) if len(found) == 1 else None


def _kinds(schema: Any, definitions: dict[str, Any]) -> Iterator[str]:
    if isinstance(schema, list):
        for item in schema:
            yield from _kinds(item, definitions)
    elif isinstance(schema, dict):
        if isinstance(schema.get("x-kind"), str):
            yield schema["x-kind"]
        for key in ("items", "prefixItems", "anyOf", "oneOf", "allOf", "additionalProperties"):
            yield from _kinds(schema.get(key), definitions)


def _findings(entry: ComponentEntry, error: ValidationError, pointer: str) -> Iterable[Finding]:
    at = pointer + "".join(f"/{escape(str(step))}" for step in error.absolute_path)
    known = entry.config_schema.get("properties")
    names = sorted(known) if isinstance(known, dict) else []
    if error.validator == "additionalProperties" and not error.absolute_path and isinstance(error.instance, dict):
        for name in [name for name in error.instance if name not in names]:
            spend()
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"Its arguments: {', '.join(names) or 'no arguments'}."
            message = f"{entry.name!r} has no argument {name!r}"
            yield Finding(f"{at}/{escape(name)}", ProblemCode.INVALID_CONFIG, message, hint)
        return
    if error.validator == "required" and not error.absolute_path:
        name = error.message.partition("' is a required")[0].lstrip("'")
        yield Finding(at, ProblemCode.INVALID_CONFIG, f"{entry.name!r} needs the argument {name!r}", "Add it.")
        return
    inner = best_match(error.context) if error.context else None
    message = inner.message if inner is not None and inner.absolute_path == error.absolute_path else error.message
    yield Finding(at, ProblemCode.INVALID_CONFIG, f"{entry.name!r}: {_short(message)}")


def _short(message: str) -> str:
    return message if len(message) <= 300 else f"{message[:300]}…"
