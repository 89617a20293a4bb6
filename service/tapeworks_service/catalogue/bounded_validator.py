"""A JSON Schema validator for strangers' schemas and strangers' values: every step counts, and no message is long.

jsonschema compares each item of an array with each other one for `uniqueItems` where they cannot be sorted, and puts
the whole value into each of its messages: both are replaced here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import extend
from referencing import Registry

from tapeworks_service.http.work_budget import spend

LONGEST_MESSAGE = 300
Keyword = Callable[[Any, Any, Any, Any], Any]


def bounded_validator(schema: Any) -> Validator:
    """A validator whose checks raise WorkExceeded beyond the budget."""
    # An empty registry: without one a `$ref` to another server is fetched.
    validator: Validator = _Bounded(schema, registry=Registry())
    return validator


def _counted(keyword: Keyword) -> Keyword:
    def check(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        spend()
        for error in keyword(validator, value, instance, schema) or ():
            if len(error.message) > LONGEST_MESSAGE:
                error.message = f"{error.message[:LONGEST_MESSAGE]}…"
            yield error

    return check


def _unique_items(validator: Any, wanted: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if wanted and validator.is_type(instance, "array"):
        seen = {json.dumps(item, sort_keys=True) for item in instance}
        if len(seen) < len(instance):
            yield ValidationError("the items are not all different")


_KEYWORDS: dict[str, Keyword] = {**Draft202012Validator.VALIDATORS, "uniqueItems": _unique_items}
_Bounded: Any = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator, {name: _counted(keyword) for name, keyword in _KEYWORDS.items()}
)
