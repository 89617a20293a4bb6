"""`tapeworks worker`, `doctor`, `replay` and parts of `component`: what this package adds to the CLI.

`worker` (`python -m tapeworks_workers` is the same) ends with 0 after SIGTERM or SIGINT, 2 for a wrong option, 1 where
it cannot start. `replay` ends with 0 where the step is not finite again, 1 where it is, 8 for a damaged file.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer

from tapeworks.cli.console import ExitCode, Json, out, session_of, show_json
from tapeworks.cli.packages import component
from tapeworks.errors import ApiError, BundleError
from tapeworks_workers.authoring.commands import author_commands
from tapeworks_workers.doctor import doctor
from tapeworks_workers.launcher import LaunchFailed
from tapeworks_workers.processes import clean_environment
from tapeworks_workers.settings import WorkerSettings


def register(app: typer.Typer) -> None:
    """Add `worker`, `doctor` and `replay` to the CLI, and `new` and `test` to its `component`."""
    for command in (worker, doctor, replay):
        app.command()(command)
    author_commands(component)


def worker(
    server: Annotated[str | None, typer.Option(help="URL of the service.")] = None,
    key_file: Annotated[Path | None, typer.Option(help="File with a key of scope worker.")] = None,
    worker_id: Annotated[
        str | None, typer.Option("--id", help="Name of this worker; default: the host's, and a mark of --work-dir.")
    ] = None,
    work_dir: Annotated[Path | None, typer.Option(help="Folder for attempts and the cached catalogue.")] = None,
    components: Annotated[list[Path] | None, typer.Option(help="File or folder of your own components.")] = None,
    data_root: Annotated[list[Path] | None, typer.Option(help="Folder that sources may read below.")] = None,
    cpu_slots: Annotated[int | None, typer.Option(min=0, help="Jobs at once on the CPU.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="name=value, for resources.worker_labels.")] = None,
) -> None:
    """Run a worker: lease jobs from a service, train, verify and hand back models.

    Every option can be given as TAPEWORKS_WORKER_NAME in the environment too. SIGTERM writes a last checkpoint of
    running jobs, hands them back to the queue and stops.
    """
    given: dict[str, Any] = {
        "server": server,
        "key_file": key_file,
        "id": worker_id,
        "work_dir": work_dir,
        "components": components,
        "data_roots": data_root,
        "cpu_slots": cpu_slots,
        "labels": ",".join(label) if label else None,
    }
    try:
        settings = WorkerSettings(**{name: value for name, value in given.items() if value not in (None, [])})
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    log_to_stderr()
    from tapeworks_workers.agent import Agent, WorkFolderTaken

    try:
        asyncio.run(Agent(settings).run())
    except (LaunchFailed, WorkFolderTaken, ApiError, OSError) as error:
        structlog.get_logger(__name__).error("the worker cannot start", reason=str(error))
        raise typer.Exit(1) from error


def log_to_stderr() -> None:
    """Lines of JSON, or coloured text in a terminal."""
    logging.getLogger("httpx").setLevel(logging.WARNING)
    terminal = os.isatty(2)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info if not terminal else structlog.processors.StackInfoRenderer(),
            structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def replay(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A job's blackbox.tar.", exists=True, dir_okay=False)],
    as_json: Json = False,
) -> None:
    """Take the step that was not finite again, and name the operation that began it.

    The step runs on the CPU in a process of its own, with the components that the black box holds: their code is run.
    """
    with tempfile.TemporaryDirectory(prefix="tapeworks-replay-") as folder:
        try:
            with tarfile.open(file) as archive:
                archive.extractall(folder, filter="data")
        except (tarfile.TarError, EOFError) as error:
            raise BundleError(f"{file} is no black box: {error}") from error
        if not (Path(folder) / "black_box.json").exists():
            raise BundleError(f"{file} is no black box: it holds no black_box.json")
        report = _replayed(Path(folder))
    if "failure" in report:
        raise BundleError(f"the step cannot be taken again: {report['failure']['message']}")
    if session_of(context).json:
        show_json(report)
    else:
        _tell(report)
    if not report["reproduced"]:
        raise typer.Exit(ExitCode.NO)


def _replayed(folder: Path) -> dict[str, Any]:
    """The report of a fresh process: TensorFlow is not imported in this one."""
    command = [sys.executable, "-m", "tapeworks_workers.engine.replay", str(folder)]
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
        console.print("Taken again, the step is finite: what went wrong depends on the device or on chance.")
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
