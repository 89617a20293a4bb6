"""What a job's sources inherit from the datasets that they read: the options with which these were pushed.

The spec that is stored holds them, so that a job says by itself how it reads its files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tapeworks.errors import Finding, ProblemCode, SpecInvalid
from tapeworks.spec.reading_options import OPTIONS_OF
from tapeworks.spec.references import escape
from tapeworks_service.queue.inputs import Input


def inherit(document: dict[str, Any], inputs: Sequence[Input]) -> None:
    """Add to each source of a canonical document, in place, the options of its datasets that its config lacks.

    Raises SpecInvalid where a source reads datasets whose options differ.
    """
    options = {one.reference: one.options for one in inputs}
    if not any(options.values()):
        return
    findings = [
        finding
        for pointer, source in _sources(document["data"], "/data")
        if (finding := _inherit(source, pointer, options)) is not None
    ]
    if findings:
        raise SpecInvalid(findings)


def _inherit(source: dict[str, Any], pointer: str, options: Mapping[str, Mapping[str, Any]]) -> Finding | None:
    config = source["config"]
    files = config["files"]
    named = [one.partition("/")[0] for one in ([files] if isinstance(files, str) else files) if isinstance(one, str)]
    stored = {one: options.get(one, {}) for one in named}
    found: dict[str, Any] = {}
    for name in sorted(OPTIONS_OF[source["component"]] - set(config)):
        if name == "names" and "header" in config:
            continue  # they are the names of files without a header
        values = [(one, given.get(name)) for one, given in stored.items()]
        other = next((one for one in values if one[1] != values[0][1]), None)
        if other is not None:
            message = f"{values[0][0]} was pushed with {name} {values[0][1]!r}, {other[0]} with {other[1]!r}"
            hint = f"Give {name} in the config, or read each dataset with its own source (concatenate)."
            return Finding(f"{pointer}/config/files", ProblemCode.INVALID_VALUE, message, hint)
        if values and values[0][1] is not None:
            found[name] = values[0][1]
    config.update(found)
    return None


def _sources(value: Any, pointer: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The references to built-in sources of files, wherever they stand."""
    if isinstance(value, list):
        for index, one in enumerate(value):
            yield from _sources(one, f"{pointer}/{index}")
    elif isinstance(value, dict):
        config = value.get("config")
        if value.get("component") in OPTIONS_OF and isinstance(config, dict) and "files" in config:
            yield pointer, value
            return
        for name, one in value.items():
            yield from _sources(one, f"{pointer}/{escape(str(name))}")
