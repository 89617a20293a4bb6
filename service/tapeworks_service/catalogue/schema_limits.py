"""What the JSON Schema of an uploaded component may be, so that checking a config against it stays cheap.

A schema comes out of a sandbox. References that multiply (`$defs` that name each other twice, forty times) make one
check take longer than the universe lasts; a reference to itself makes it endless. What authoring makes of a typed
`__init__` is a few dozen nodes without a cycle.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

MAX_NODES = 5_000
"""Schema objects that one check may come to, every `$ref` counted as what it stands for."""
MAX_DEPTH = 100
_REFERENCE = "#/$defs/"


class SchemaRefused(ValueError):
    """A schema that a config cannot be checked against in reasonable time; the message says why."""


def check_schema(schema: Any) -> None:
    """Raises SchemaRefused where a schema is no JSON Schema, refers to itself, or unfolds to more than MAX_NODES."""
    if (reason := _why_refused(json.dumps(schema))) is not None:
        raise SchemaRefused(reason)


@lru_cache(maxsize=2_000)
def _why_refused(text: str) -> str | None:
    """By the schema's text: a package is read again and again."""
    try:
        _check(json.loads(text))
    except SchemaRefused as refused:
        return str(refused)
    return None


def _check(schema: Any) -> None:
    if not isinstance(schema, dict):
        raise SchemaRefused("it is not a JSON object")
    definitions = schema.get("$defs", {})
    if not isinstance(definitions, dict):
        raise SchemaRefused("its $defs is not a JSON object")
    nodes = _Nodes(definitions)
    if nodes.count(schema, 0) > MAX_NODES:
        raise SchemaRefused(f"it expands to more than {MAX_NODES} parts")
    try:
        Draft202012Validator.check_schema(schema)
    except (SchemaError, RecursionError) as error:
        raise SchemaRefused(f"it is not a valid JSON Schema: {str(getattr(error, 'message', error))[:200]}") from error


class _Nodes:
    """Counts the objects that a check may come to; each definition once."""

    def __init__(self, definitions: dict[str, Any]) -> None:
        self._definitions = definitions
        self._counted: dict[str, int] = {}
        self._open: set[str] = set()

    def count(self, value: Any, depth: int) -> int:
        """Raises SchemaRefused at a cycle, at an unknown reference and below MAX_DEPTH."""
        if depth > MAX_DEPTH:
            raise SchemaRefused(f"it is nested more than {MAX_DEPTH} deep")
        if isinstance(value, list):
            return sum(self.count(item, depth + 1) for item in value)
        if not isinstance(value, dict):
            return 0
        inside = sum(self.count(item, depth + 1) for key, item in value.items() if key != "$defs")
        reference = value.get("$ref")
        return 1 + inside + (0 if reference is None else self._referred(reference, depth))

    def _referred(self, reference: Any, depth: int) -> int:
        name = reference.removeprefix(_REFERENCE) if isinstance(reference, str) else None
        if name is None or not reference.startswith(_REFERENCE) or name not in self._definitions:
            raise SchemaRefused(f"it refers to {str(reference)[:100]!r}, which is not in its $defs")
        if name in self._open:
            raise SchemaRefused(f"its definition {name[:100]!r} refers to itself")
        if name not in self._counted:
            self._open.add(name)
            self._counted[name] = self.count(self._definitions[name], depth + 1)
            self._open.discard(name)
        return self._counted[name]
