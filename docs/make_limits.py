"""Writes docs/limits.md from `tapeworks.spec.job_spec` and `tapeworks.schemas.report_limits`: `make docs`.

A test checks that the page is up to date.
"""

from __future__ import annotations

import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tapeworks.bounds import INT64, Bound
from tapeworks.schemas.report_limits import (
    LIMITS,
    MAX_DOCUMENT_BYTES,
    MAX_FRAME_BYTES,
    MAX_FRAME_CONTAINERS,
    MAX_FRAME_ITEMS,
    MAX_METRIC_NAMES,
    MAX_RECORD_BYTES,
    reasons,
)
from tapeworks.spec.job_spec import JobSpec
from tapeworks.spec.splits import MAX_GROUP_BYTES, MAX_GROUPS

PAGE = Path(__file__).with_name("limits.md")

HEAD = """<!-- Made by docs/make_limits.py from tapeworks/bounds.py and report_limits.py: `make docs`. -->
# Bounds of the numbers of a job

A number outside its bounds is refused when the job is submitted, with this reason. Integers in the `config` of a
component have 64 bits at most; a component may have narrower bounds of its own, which
`GET /v1/components/{kind}/{name}` shows.

A job without `limits.timeout_seconds` gets the service's default, a week: [operations.md](operations.md).

| number | bounds | reason |
|---|---|---|
"""


def bounds(annotation: Any, place: str, seen: tuple[type, ...] = ()) -> Iterator[tuple[str, Bound]]:
    """Every bound below an annotation, with the place in the spec."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if annotation in seen:
            return
        op = annotation.model_fields.get("op")
        base = f"{place}.{typing.get_args(op.annotation)[0]}" if op is not None else place
        for name, field in annotation.model_fields.items():
            inner = f"{base}.{field.alias or name}".lstrip(".")
            for mark in field.metadata:
                if isinstance(mark, Bound):
                    yield inner, mark
            yield from bounds(field.annotation, inner, (*seen, annotation))
        return
    for part in typing.get_args(annotation):
        if isinstance(part, Bound):
            yield place, part
        else:
            yield from bounds(part, place, seen)


REPORTS = """
## What an attempt may report

The worker counts what one attempt sends, the service what a job has stored over all its attempts. Where the last column
says so, further ones are dropped with a diagnostic and the job continues, or the job waits; otherwise the attempt ends
with `quota_exceeded`. The limits of the service are settings: `TAPEWORKS_MAX_JOB_EVENTS`, `…_EVENT_BYTES`,
`…_LOG_LINES`, `…_LOG_BYTES`, `…_POINTS` and `TAPEWORKS_MAX_ATTEMPT_UPLOADS`.

| what | limit | reason |
|---|---|---|
"""
SIZES = {
    "one frame to the agent": (MAX_FRAME_BYTES, "bytes; the service takes no longer body"),
    "one frame with a record or checkpoint": (MAX_RECORD_BYTES, "bytes; larger results belong into files"),
    "arrays and objects in a frame": (MAX_FRAME_CONTAINERS, "parsing time grows with them"),
    "items in a frame": (MAX_FRAME_ITEMS, "parsing time grows with them"),
    "metric names of a job": (MAX_METRIC_NAMES, "each is a series of its own; the job object has the last of each"),
    "facts of a job": (MAX_DOCUMENT_BYTES, "bytes of best, diagnostics and lineage, which the job object holds"),
}


def reports() -> Iterator[str]:
    """A row for each limit of `tapeworks.schemas.report_limits`."""
    for what, (limit, reason) in SIZES.items():
        yield f"| {what} | {limit} | {reason} |\n"
    for name, reason in reasons().items():
        yield f"| {name.replace('_', ' ')} | {getattr(LIMITS, name)} | {reason} |\n"


SPLITS = f"""
## What a split keeps in memory

A split by class, group or time takes up to 50 bytes for each element of the source while the job starts, and the
different values of the field; then a byte for each element and split. Rows themselves are not kept: a streamed source
is read once for it.

| what | limit | reason |
|---|---|---|
| different classes or groups | {MAX_GROUPS} | each is a Python object while the job starts |
| bytes of them, where they are texts | {MAX_GROUP_BYTES} | they are in memory together |
"""


def page() -> str:
    """The whole page."""
    rows = dict.fromkeys(
        f"| `{place}` | {_readable(bound)} | {bound.reason} |\n" for place, bound in bounds(JobSpec, "")
    )
    return HEAD + "".join(rows) + REPORTS + "".join(reports()) + SPLITS


_POWERS = {INT64: "2^63 - 1", -INT64 - 1: "-2^63", 2**64 - 1: "2^64 - 1"}


def _readable(bound: Bound) -> str:
    if bound.low not in _POWERS and bound.high not in _POWERS:
        return str(bound)
    return f"between {_POWERS.get(int(bound.low), bound.low)} and {_POWERS.get(int(bound.high), bound.high)}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"wrote {PAGE.name}\n")
