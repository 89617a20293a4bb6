"""`tapeworks worker`, `doctor`, `replay` and parts of `component`: what this package adds to the CLI.

`replay` ends with 0 where the step is not finite again, 1 where it is, 8 for a damaged file.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from tapeworks import archives
from tapeworks.cli.assets.packages import component
from tapeworks.cli.console import ExitCode, Json, out, session_of, show_json
from tapeworks.cli.extras import require
from tapeworks.errors import BundleError
from tapeworks_workers.cli.authoring import author_commands
from tapeworks_workers.cli.worker import log_to_stderr, worker
from tapeworks_workers.processes.children import clean_environment


def register(app: typer.Typer) -> None:
    """Add `worker`, `doctor` and `replay` to the CLI, and `new` and `test` to its `component`."""
    for command in (worker, doctor, replay):
        app.command()(command)
    author_commands(component)


def doctor(json: Json = False) -> None:
    """Look at this machine: versions, devices, and the layers in which uploaded packages would run.

    With TAPEWORKS_WORKER_CONNECTIONS_FILE each of its databases is asked for one row. Ends with 1 where a layer of the
    sandbox is missing or a database does not answer.
    """
    require("psutil", "worker", "tapeworks doctor")
    from tapeworks_workers.cli.doctor import examine

    log_to_stderr()  # standard output is the report alone
    examine(json=json)


def replay(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A job's blackbox.tar.", exists=True, dir_okay=False)],
    as_json: Json = False,
) -> None:
    """Take the step that was not finite again, and name the operation that began it.

    The step runs on the CPU in a process of its own, with the components that the black box holds: their code is run.
    """
    require("tensorflow", "worker", "tapeworks replay")
    with tempfile.TemporaryDirectory(prefix="tapeworks-replay-") as folder:
        try:
            archives.extract(file, Path(folder))
        except archives.UnsafeArchive as error:
            raise BundleError(f"{file} is not a black box: {error}") from error
        if not (Path(folder) / "black_box.json").exists():
            raise BundleError(f"{file} is not a black box: it has no black_box.json")
        report = _replayed(Path(folder))
    if "failure" in report:
        raise BundleError(f"the step cannot be replayed: {report['failure']['message']}")
    if session_of(context).json:
        show_json(report)
    else:
        _tell(report)
    if not report["reproduced"]:
        raise typer.Exit(ExitCode.NO)


def _replayed(folder: Path) -> dict[str, Any]:
    """The report of a fresh process: TensorFlow is not imported in this one."""
    command = [sys.executable, "-m", "tapeworks_workers.verification.replay", str(folder)]
    environment = {**clean_environment(), "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    try:
        report: dict[str, Any] = json.loads(lines[-1])
    except (IndexError, ValueError):
        raise BundleError(f"the replaying process ended with {done.returncode}: {done.stderr[-2000:]}") from None
    return report


def _tell(report: dict[str, Any]) -> None:
    console = out()
    console.print(f"step {report['step']}, epoch {report['epoch']}: {report['what']}", markup=False)
    found = report["found"]
    if not report["reproduced"]:
        console.print("Replayed, the step is finite: the failure depends on the device or on chance.")
    if found is not None:
        counts = ", ".join(f"{count} {kind}" for kind, count in found["elements"].items())
        operation = f"{found['operation']} ({counts})" if counts else found["operation"]
        console.print(f"the first value that is not finite: {operation}", markup=False)
        if (at := found["location"]) is not None:
            component = f" ({at['component']})" if at["component"] else ""
            console.print(f"  {at['file']}:{at['line']}{component}\n    {at['code']}", markup=False)
    for name, norm in report["gradient_norms"].items():
        console.print(f"gradient norm {norm if isinstance(norm, str) else format(norm, '.6g')}  {name}", markup=False)
    if report["without_norms"]:
        console.print(f"no gradient norms: {report['without_norms']}", markup=False)
