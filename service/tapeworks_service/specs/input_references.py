"""What a spec names as its inputs, and where."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tapeworks.errors import Finding, ProblemCode


@dataclass(frozen=True)
class InputReference:
    """A `from` of a spec, and its place in what the user wrote."""

    pointer: str
    value: str


_ID = re.compile(r"(job|ckpt|bundle)_[0-9A-Za-z]{1,57}")


def reference_finding(reference: InputReference) -> Finding | None:
    """What is wrong with a `from` at first sight."""
    if _ID.fullmatch(reference.value):
        return None
    hint = 'Name a job ("job_…"), one of its checkpoints ("ckpt_…"), or an uploaded bundle ("bundle_…").'
    if reference.value.startswith(("job_", "ckpt_", "bundle_")):
        return Finding(reference.pointer, ProblemCode.INVALID_VALUE, f"{reference.value[:100]!r} is not an id", hint)
    message = f"{reference.value[:100]!r}: this version starts from jobs, checkpoints and bundles only"
    return Finding(reference.pointer, ProblemCode.NOT_SUPPORTED, message, hint)
