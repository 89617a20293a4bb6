"""What `tapeworks component test` runs in a process of its own: components first, then the jobs beside them.

A component without a fault is part of a small job of its own (`component_jobs`). A job goes through the runner as a
validation: built, traced, two seconds of its steps, exported and reloaded. Prints a line for each component and job and
what would fail, or JSON with `--json`; the exit code is 1 if anything would.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tapeworks.components.registry import registry
from tapeworks.errors import FailureCode, SpecInvalid, TapeworksError
from tapeworks.schemas.jobs import JobKind
from tapeworks.spec.parsing import parse_json, parse_spec
from tapeworks.spec.references import Kind
from tapeworks_workers.authoring.attempts import Attempts
from tapeworks_workers.authoring.component_jobs import failure_message, try_jobs
from tapeworks_workers.engine.admission.component_test import Finding, try_components
from tapeworks_workers.processes.component_loading import units_of


def main(arguments: Sequence[str]) -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(prog="tapeworks component test")
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--data-root", type=Path, action="append", default=[])
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    with redirect_stdout(sys.stderr):  # what components print
        findings = found_in(given.paths, given.data_root)
    if given.json:
        sys.stdout.write(json.dumps([asdict(one) for one in findings], indent=2) + "\n")
    else:
        sys.stdout.writelines(_lines(findings))
    return 1 if any(one.problems for one in findings) else 0


def found_in(
    paths: Sequence[Path], data_roots: Sequence[Path] = (), *, attempts: Attempts | None = None
) -> list[Finding]:
    """Every component and job of these files and folders, tried."""
    with nullcontext(attempts) if attempts is not None else Attempts() as running:
        refused = running.refusals([path.resolve() for path in paths])
        left = [Path(unit) for unit in units_of([path.resolve() for path in paths]) if unit not in refused]
        findings = [_refused(unit, reason) for unit, reason in refused.items()]
        try:
            return [*findings, *_tried(paths, left, data_roots, running)] if left else findings
        except TapeworksError as error:
            return [*findings, Finding(", ".join(map(str, paths)), "path", problems=[str(error)])]


def _refused(unit: str, reason: Mapping[str, str]) -> Finding:
    """A module that no worker would serve."""
    return Finding(unit, "module", problems=[f"{reason['code']}: {reason['reason']}. {reason['hint']}"])


def _tried(
    paths: Sequence[Path], modules: Sequence[Path], data_roots: Sequence[Path], attempts: Attempts
) -> list[Finding]:
    """What these modules of the paths register, and the jobs beside them. Raises TapeworksError."""
    findings = try_components(modules)
    by_name = {(Kind(one.kind), one.name): one for one in findings}
    components = [one for one in registry if (one.kind, one.name) in by_name]
    folders = dict.fromkeys(path if path.is_dir() else path.parent for path in paths)
    files = [job for at in folders for job in sorted(at.glob("*.json"))]
    try_jobs(components, by_name, attempts)
    jobs = [rehearse_job(file, data_roots=data_roots, attempts=attempts) for file in files]
    named = "".join(file.read_text(errors="replace") for file in files)
    for component in components:
        if component.kind is Kind.STEP and f'"{component.name}"' not in named:
            by_name[component.kind, component.name].notes.append(
                "no job of the component was tried: put a job spec, NAME.json, beside its file"
            )
    return findings + jobs


def rehearse_job(file: Path, *, data_roots: Sequence[Path] = (), attempts: Attempts | None = None) -> Finding:
    """Validate a job as a worker would; where it has callbacks or evaluators, run its first steps as an epoch too.

    Its failure, if there is one, is the finding's problem; that another job must be done first is a note.
    """
    finding = Finding(str(file), "job")
    try:
        spec = parse_spec(parse_json(file.read_bytes()))
    except SpecInvalid as error:
        finding.problems += [f"{one.pointer or '/'}: {one.message}. {one.hint}" for one in error.findings]
        return finding
    roots = [str(root.resolve()) for root in data_roots]
    with nullcontext(attempts) if attempts is not None else Attempts() as running:
        finish = _run(spec.document(), JobKind.VALIDATE, roots, running)
        if finish["failure"] is None:
            finding.notes += [warning["message"] for warning in finish["result"]["warnings"]]
            if spec.callbacks or spec.evaluators:
                finish = _run(_first_epoch(spec.document()), JobKind.TRAIN, roots, running)
    failure = finish["failure"]
    if failure is not None and failure["code"] == FailureCode.DEPENDENCY_FAILED:
        finding.notes.append(f"tried up to the job that it starts from: {failure['message']}")
    elif failure is not None:
        finding.problems.append(failure_message(failure))
    return finding


FIRST_STEPS = 4


def _first_epoch(document: dict[str, Any]) -> dict[str, Any]:
    """The job's first steps as a whole training: its epoch ends, with all that is called then."""
    training = {**document["training"], "epochs": 1, "max_steps": FIRST_STEPS}
    return {**document, "training": training, "export": None}


def _run(document: dict[str, Any], kind: JobKind, data_roots: Sequence[str], attempts: Attempts) -> dict[str, Any]:
    """The finish frame of an attempt."""
    lease = {"kind": kind, "attempt": 1, "spec": document}
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as folder:
        return attempts.run({"lease": lease, "folder": folder, "data_roots": data_roots})[-1]


def _lines(findings: Sequence[Finding]) -> Iterator[str]:
    for one in findings:
        yield f"{'FAILS' if one.problems else 'ok   '} {one.kind} {one.name}\n"
        yield from (f"        {problem}\n" for problem in one.problems)
        yield from (f"        note: {note}\n" for note in one.notes)
    wrong = sum(bool(one.problems) for one in findings)
    yield f"{len(findings)} tried, {wrong} would fail as a job\n" if findings else "no component was found\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
