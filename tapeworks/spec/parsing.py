"""From the JSON that a user wrote to a canonical `JobSpec`, or to findings that point into that JSON.

The singular forms are one thing with the plural ones: `fold` moves `model` to `models.model` and
remembers it, so that a finding about `/models/model/config` is reported at `/model/config`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from pydantic import BaseModel, ValidationError

from tapeworks.bounds import OUT_OF_BOUNDS
from tapeworks.errors import Finding, ProblemCode, SpecInvalid
from tapeworks.spec.references import escape
from tapeworks.spec.shorthand import _SINGULAR, Folded, fold
from tapeworks.spec.spelling import remedy

if TYPE_CHECKING:
    from tapeworks.spec.job_spec import JobSpec

MAX_FINDINGS = 50
"""More mistakes of one spec than these are not listed."""
MAX_CONTAINERS = 100_000
"""Objects and lists of one document: each costs a hundred times the two bytes that it takes to write."""
MAX_ENTRIES = 10_000
"""Fields and list items of one spec outside the configs of components."""
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
"""U+0000 as json.dumps writes it, told apart from an escaped backslash before `u0000`."""


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON: write null, or leave the field out")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = min(name for name, count in counts.items() if count > 1)
        raise ValueError(f"the key {twice[:100]!r} appears twice in one object")
    return result


def parse_json(text: str | bytes) -> Any:
    """JSON without NaN, Infinity, duplicate keys, lone surrogates or U+0000.

    Raises `SpecInvalid` with the code `invalid_json`.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        if text.count("[") + text.count("{") > MAX_CONTAINERS:
            raise ValueError(f"it has more than {MAX_CONTAINERS} objects and lists")
        value = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_duplicates)
        rendered = json.dumps(value, ensure_ascii=False, allow_nan=False)
        rendered.encode("utf-8")
    except RecursionError:
        raise SpecInvalid([Finding("", ProblemCode.INVALID_JSON, "the document is nested too deeply")]) from None
    except ValueError as error:
        raise SpecInvalid([Finding("", ProblemCode.INVALID_JSON, f"not valid JSON: {error}")]) from error
    if _NUL.search(rendered):
        raise SpecInvalid([Finding("", ProblemCode.INVALID_JSON, "the document holds the character U+0000")])
    return value


def _entries(value: Any) -> int:
    """Fields and items that a spec's own models look at, and may each be wrong."""
    count, left = 0, [value]
    while left:
        inside = left.pop()
        count += len(inside)
        items = inside.items() if isinstance(inside, dict) else enumerate(inside)
        left += [item for key, item in items if isinstance(item, dict | list) and key != "config"]
    return count


def parse_spec(document: Any) -> JobSpec:
    """Validate a decoded JSON document. Raises `SpecInvalid` with a finding for every wrong place."""
    from tapeworks.spec.job_spec import JobSpec

    if not isinstance(document, dict):
        kind = type(document).__name__
        raise SpecInvalid([Finding("", ProblemCode.INVALID_SPEC, f"a job spec is a JSON object, not {kind}")])
    if _entries(document) > MAX_ENTRIES:
        message = f"the spec has more than {MAX_ENTRIES} fields and list items outside the configs of its components"
        raise SpecInvalid([Finding("", ProblemCode.INVALID_SPEC, message)])
    folded = fold(document)
    try:
        return JobSpec.model_validate(folded.document)
    except ValidationError as error:
        raise SpecInvalid(findings(error, folded, JobSpec)) from error


def findings(error: ValidationError, folded: Folded, model: type[BaseModel]) -> list[Finding]:
    """Pydantic's errors as findings at JSON pointers of the user's document."""
    found: dict[tuple[str, str], Finding] = {}
    bounded: set[str] = set()
    for item in error.errors(include_url=False)[:MAX_FINDINGS]:
        pointer = folded.original(_pointer(item["loc"], folded.document, item["type"]))
        code, hint = _code_and_hint(item, model)
        message = _described(item)
        if item["type"] == "extra_forbidden":
            message = f"unknown field {item['loc'][-1]!r}"
        elif item["type"] == "model_type":
            message = "expected an object (or a component's name as a string)"
        elif item["type"] == "missing":
            message = f"the field {item['loc'][-1]!r} is missing"
        found.setdefault((pointer, message), Finding(pointer, code, message, hint))
        if item["type"] == OUT_OF_BOUNDS:
            bounded.add(pointer)
    # A number out of bounds is also no other member of a union: what is said of those helps nobody.
    return [finding for (pointer, _), finding in found.items() if pointer not in bounded or finding.hint]


_NOT_NAMES = frozenset({"int", "float", "str", "bool", "plain"})
"""Steps of pydantic's locations that name a member of a union."""


def _described(item: Any) -> str:
    """What is wrong with a value: its field, what is expected, what was given."""
    message, given = str(item["msg"]).removeprefix("Value error, "), item["input"]
    names = [step for step in item["loc"] if isinstance(step, str) and step.isidentifier() and step not in _NOT_NAMES]
    last = item["loc"][-1] if item["loc"] else ""
    name = (names[-1] if names else "the value") + (f"[{last}]" if isinstance(last, int) else "")
    if item["type"] == OUT_OF_BOUNDS:
        return message if "at" in item["ctx"] else f"{name} {message}"
    if message.startswith("Input should ") and isinstance(given, str | int | float | None):
        return f"{name} must {message.removeprefix('Input should ')}, got {json.dumps(given)[:100]}"
    return message


def _pointer(location: Sequence[int | str], document: Any, kind: str) -> str:
    """Pydantic's `loc` names union members too: keep the steps that exist in the document."""
    pointer, value = "", document
    for position, step in enumerate(location):
        last = position == len(location) - 1
        if isinstance(value, dict) and isinstance(step, str) and (step in value or (last and kind == "missing")):
            pointer, value = f"{pointer}/{escape(step)}", value.get(step)
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            pointer, value = f"{pointer}/{step}", value[step]
    return pointer


def _code_and_hint(item: Any, model: type[BaseModel]) -> tuple[ProblemCode, str]:
    kind, location = item["type"], item["loc"]
    if kind == "extra_forbidden":
        singular = _SINGULAR if "models" in model.model_fields else ()
        return ProblemCode.UNKNOWN_FIELD, remedy(str(location[-1]), location[:-1], model, singular)
    if kind == "missing":
        return ProblemCode.MISSING_FIELD, f"Add {location[-1]!r}."
    if kind == "int_type" and isinstance(item["input"], float):
        return ProblemCode.INVALID_VALUE, "Write an integer, without a decimal point or exponent."
    reason = item.get("ctx", {}).get("reason") if kind == OUT_OF_BOUNDS else None
    return ProblemCode.INVALID_VALUE, f"{reason[0].upper()}{reason[1:]}." if reason else ""
