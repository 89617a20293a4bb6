"""A small job for each component, run to its end: a few steps, export, reload, and the rest again from a checkpoint.

Interface: `try_jobs(components, findings, attempts)` adds to each finding what would fail as a job. What fails on
values that are not the author's is a note.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tapeworks.components.registry import Component
from tapeworks.errors import FailureCode, SpecInvalid, TapeworksError
from tapeworks.schemas.jobs import JobKind
from tapeworks.spec.parsing import parse_spec
from tapeworks.spec.references import Kind
from tapeworks_workers.authoring.attempts import Attempts
from tapeworks_workers.authoring.trial_jobs import TrialJob, trial_job
from tapeworks_workers.engine.admission.component_test import Finding
from tapeworks_workers.engine.data.example_tensors import NotTried

_OF_VALUES = frozenset({FailureCode.NON_FINITE, FailureCode.INVALID_DATA})
_WHILE_VALUES_RUN = frozenset({"training", "validating", "testing"})
_CERTAIN = re.compile(r"(^|: )(AttributeError|NameError|UnboundLocalError|TypeError|ImportError): ")
"""Errors of code, whatever job it stands in; a step may expect tensors of other types, so a TypeError of its own is
not certain."""
_NOTICED = frozenset({FailureCode.NO_GRADIENT})
TOLERANCE = 1e-6


def try_jobs(components: Iterable[Component], findings: Mapping[Any, Finding], attempts: Attempts) -> None:
    """Try each component that has no problem yet; `findings` by (kind, name)."""
    for component in components:
        finding = findings[component.kind, component.name]
        if finding.problems or any(note.startswith("not tried") for note in finding.notes):
            continue
        try:
            job = trial_job(component)
            spec = parse_spec(job.spec).document()
        except (NotTried, SpecInvalid, TapeworksError, ValueError):
            continue  # admission has reported what is wrong with the example, if anything
        _try(component, job, spec, finding, attempts)


def _try(component: Component, job: TrialJob, spec: dict[str, Any], finding: Finding, attempts: Attempts) -> None:
    with tempfile.TemporaryDirectory(prefix="trial-") as name:
        first, second = Path(name) / "first", Path(name) / "second"
        frames = _run(spec, first, attempts)
        failure = frames[-1]["failure"]
        if failure is not None:
            _tell(component, job, failure, finding)
            return
        finding.notes += _warnings(frames)
        checkpoint = next((frame["path"] for frame in frames if frame["type"] == "checkpoint"), None)
        if checkpoint is None or component.kind is Kind.CALLBACK:
            return  # what a callback does to the second half depends on what it saw of the first
        again = _run({**spec, "export": None}, second, attempts, resume=first / checkpoint)
        if again[-1]["failure"] is not None:
            _tell(component, job, again[-1]["failure"], finding, how="after a resume from a checkpoint")
        elif where := _apart(frames[-1]["metrics"], again[-1]["metrics"]):
            finding.problems.append(
                f"a job that is resumed from a checkpoint trains otherwise: {where}. Something that matters is not in "
                "a variable: draw random numbers from `seed` or a keras.random.SeedGenerator of a layer, and keep "
                "state in variables"
            )


def _run(spec: dict[str, Any], folder: Path, attempts: Attempts, *, resume: Path | None = None) -> list[dict[str, Any]]:
    folder.mkdir(parents=True, exist_ok=True)
    lease = {"kind": JobKind.TRAIN, "attempt": 1 if resume is None else 2, "spec": spec, "timeout_seconds": None}
    checkpoints = [] if resume is None else [{"path": str(resume)}]
    return attempts.run({"lease": lease, "folder": str(folder), "resume": checkpoints})


def _tell(component: Component, job: TrialJob, failure: Mapping[str, Any], finding: Finding, *, how: str = "") -> None:
    """A failure is a problem unless it hangs on values or on a job that its author may never run."""
    message = failure_message(failure)
    of_values = failure["code"] in _OF_VALUES or (
        failure["code"] == FailureCode.COMPONENT_ERROR and failure["phase"] in _WHILE_VALUES_RUN
    )
    error = _CERTAIN.search(failure["message"])
    certain = error is not None and not (component.kind is Kind.STEP and error[2] == "TypeError")
    if failure["code"] in _NOTICED or (job.invented and of_values) or (job.guessed and not certain):
        if any(note.startswith("on invented values") for note in finding.notes):
            return  # admission has reported it
        on = "a small job of iris" if job.guessed else "a small job on invented values"
        finding.notes.append(f"in {on}{how and f', {how}'}: {message}")
    else:
        finding.problems.append(f"in a small job{how and f', {how}'}: {message}")


def failure_message(failure: Mapping[str, Any]) -> str:
    """A failure in a line or two: code, message, place and hint."""
    place = failure.get("location") or {}
    where = f" ({place['file']}, line {place['line']})" if place.get("file") else ""
    return f"{failure['code']}: {failure['message']}{where}. {failure['hint']}"


def _warnings(frames: Iterable[Mapping[str, Any]]) -> list[str]:
    """Diagnostics of the job that are no failures."""
    records = [frame["record"] for frame in frames if frame["type"] == "record"]
    found = [record["data"] for record in records if record["record"] == "event" and record["type"] == "diagnostic"]
    return list(dict.fromkeys(f"in a small job: {one['message']}" for one in found))


def _apart(one: Mapping[str, float], other: Mapping[str, float]) -> str | None:
    """The first metric that differs, with both values."""
    for name, value in one.items():
        found = other.get(name, math.nan)
        if not (value == found or abs(value - found) <= TOLERANCE * max(1.0, abs(value))):
            return f"{name} is {value:.7g} without a pause and {found:.7g} with one"
    return None
