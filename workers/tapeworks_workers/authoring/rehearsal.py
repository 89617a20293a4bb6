"""What `tapeworks component test` runs in a process of its own: components first, then the jobs beside them.

A job goes through the runner as a validation: built, traced, two seconds of its steps. Prints a line for each component
and job and what would fail, or JSON with `--json`; the exit code is 1 if anything would.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tapeworks.canonical import parse_json, parse_spec
from tapeworks.errors import FailureCode, SpecInvalid, TapeworksError
from tapeworks.jobs import JobKind
from tapeworks_workers import runner
from tapeworks_workers.engine.rehearsal import Finding, rehearse
from tapeworks_workers.frames import Channel


def main(arguments: Sequence[str]) -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(prog="tapeworks component test")
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--data-root", type=Path, action="append", default=[])
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    with redirect_stdout(sys.stderr):  # what components print
        findings = _findings(given.paths, given.data_root)
    if given.json:
        sys.stdout.write(json.dumps([asdict(one) for one in findings], indent=2) + "\n")
    else:
        sys.stdout.writelines(_lines(findings))
    return 1 if any(one.problems for one in findings) else 0


def _findings(paths: Sequence[Path], data_roots: Sequence[Path]) -> list[Finding]:
    try:
        findings = rehearse(paths)
    except TapeworksError as error:
        return [Finding(", ".join(map(str, paths)), "path", problems=[str(error)])]
    folders = dict.fromkeys(path if path.is_dir() else path.parent for path in paths)
    return findings + [rehearse_job(job, data_roots=data_roots) for at in folders for job in sorted(at.glob("*.json"))]


def rehearse_job(file: Path, *, data_roots: Sequence[Path] = ()) -> Finding:
    """Validate a job as a worker would. Its failure, if there is one, is the finding's problem; that another job must
    be done first is a note."""
    finding = Finding(str(file), "job")
    try:
        spec = parse_spec(parse_json(file.read_bytes()))
    except SpecInvalid as error:
        finding.problems += [f"{one.pointer or '/'}: {one.message}. {one.hint}" for one in error.findings]
        return finding
    lease = {"kind": JobKind.VALIDATE, "attempt": 1, "spec": spec.document()}
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as folder:
        finish = _run({"lease": lease, "folder": folder, "data_roots": [str(root.resolve()) for root in data_roots]})
    if finish["failure"] is not None and finish["failure"]["code"] == FailureCode.DEPENDENCY_FAILED:
        finding.notes.append(f"tried as far as the job that it goes on from: {finish['failure']['message']}")
    elif finish["failure"] is not None:
        finding.problems.append(_told(finish["failure"]))
    else:
        finding.notes += [warning["message"] for warning in finish["published"]["result"]["warnings"]]
    return finding


def _run(start: dict[str, Any]) -> dict[str, Any]:
    """The finish frame of a runner in this process."""
    ours, theirs = socket.socketpair()
    with theirs:
        with closing(Channel(ours)) as channel:
            channel.send({"type": "start", **start})
            working = threading.Thread(target=runner.main, args=(theirs,), daemon=True)
            working.start()
            while (message := channel.receive()) is not None and message["type"] != "finish":
                pass
            working.join()
        for reader in [thread for thread in threading.enumerate() if thread.name == "frames"]:
            reader.join()  # it hears that our end is closed, before its own is
    if message is None:
        raise RuntimeError("the runner ended without a last word")
    return message


def _told(failure: dict[str, Any]) -> str:
    place = failure["location"] or {}
    where = f" ({place['file']}, line {place['line']})" if place.get("file") else ""
    return f"{failure['code']}: {failure['message']}{where}. {failure['hint']}"


def _lines(findings: Sequence[Finding]) -> Iterator[str]:
    for one in findings:
        yield f"{'FAILS' if one.problems else 'ok   '} {one.kind} {one.name}\n"
        yield from (f"        {problem}\n" for problem in one.problems)
        yield from (f"        note: {note}\n" for note in one.notes)
    wrong = sum(bool(one.problems) for one in findings)
    yield f"{len(findings)} tried, {wrong} would fail as a job\n" if findings else "no component was found\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
