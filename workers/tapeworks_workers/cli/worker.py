"""`tapeworks worker`, and the same without the rest of the CLI: `python -m tapeworks_workers`.

It ends with 0 after SIGTERM or SIGINT, 2 for a wrong option, 1 where it cannot start. With `--supervise` it starts an
agent as a child process, and another one whenever that ends or stops answering.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer

from tapeworks.cli.extras import require
from tapeworks.errors import ApiError
from tapeworks.supervisor import USAGE, Supervisor
from tapeworks_workers.processes.launcher import LaunchFailed
from tapeworks_workers.settings import WorkerSettings

OPTIONS = {
    "--server": "server", "--key-file": "key_file", "--id": "id", "--work-dir": "work_dir",
    "--components": "components", "--data-root": "data_roots", "--cpu-slots": "cpu_slots", "--label": "label",
    "--remote-files": "remote_files", "--connections-file": "connections_file",
}  # fmt: skip
"""Options of the command → its values here."""


def worker(
    server: Annotated[str | None, typer.Option(help="URL of the service.")] = None,
    key_file: Annotated[Path | None, typer.Option(help="File with a key of scope worker.")] = None,
    worker_id: Annotated[
        str | None, typer.Option("--id", help="Name of this worker; default: the host's, and a mark of --work-dir.")
    ] = None,
    work_dir: Annotated[Path | None, typer.Option(help="Folder for attempts and the cached catalogue.")] = None,
    components: Annotated[list[Path] | None, typer.Option(help="File or folder of your own components.")] = None,
    data_root: Annotated[list[Path] | None, typer.Option(help="Folder that sources may read.")] = None,
    cpu_slots: Annotated[int | None, typer.Option(min=0, help="Number of concurrent jobs on the CPU.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="name=value, for resources.worker_labels.")] = None,
    remote_files: Annotated[
        list[str] | None, typer.Option(help="Address below which jobs may read: s3://BUCKET/, https://HOST/PATH/.")
    ] = None,
    connections_file: Annotated[Path | None, typer.Option(help="TOML file of databases for the source sql.")] = None,
    supervise: Annotated[
        bool, typer.Option("--supervise", help="Run it as a child process; restart it when it ends or hangs.")
    ] = False,
) -> None:
    """Run a worker: lease jobs from a service, train, verify and hand back models.

    Every option can be given as TAPEWORKS_WORKER_NAME in the environment too. SIGTERM writes a last checkpoint of
    running jobs, hands them back to the queue and stops.
    """
    require("tensorflow", "worker", "tapeworks worker")
    given: dict[str, Any] = {
        "server": server,
        "key_file": key_file,
        "id": worker_id,
        "work_dir": work_dir,
        "components": components,
        "data_roots": data_root,
        "cpu_slots": cpu_slots,
        "remote_files": remote_files,
        "connections_file": connections_file,
        "labels": ",".join(label) if label else None,
    }
    try:
        settings = WorkerSettings(**{name: value for name, value in given.items() if value not in (None, [])})
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if supervise:
        raise typer.Exit(_supervised(given, label or [], settings.silence_seconds))
    log_to_stderr()
    from tapeworks_workers.agent.agent import Agent, WorkFolderTaken
    from tapeworks_workers.processes import handles

    handles.become_subreaper()  # before it starts its first process: orphans would go to a supervisor
    try:
        asyncio.run(Agent(settings).run())
    except (LaunchFailed, WorkFolderTaken, ApiError, OSError) as error:
        structlog.get_logger(__name__).error("the worker cannot start", reason=str(error))
        raise typer.Exit(1) from error


def _supervised(given: Mapping[str, Any], labels: Sequence[str], silence_seconds: float) -> int:
    """Keep an agent with these options running until SIGTERM or SIGINT; the exit code."""
    command = [sys.executable, "-m", "tapeworks_workers"]
    for option, name in OPTIONS.items():
        values = labels if name == "label" else given[name]
        for value in values if isinstance(values, (list, tuple)) else [values]:
            command += [option, str(value)] if value is not None else []
    done = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: done.set())
    log_to_stderr()
    tell = structlog.get_logger(__name__).warning
    supervisor = Supervisor(command, log=None, tell=tell, give_up=done.set, silence_seconds=silence_seconds)
    supervisor.start()
    done.wait()
    supervisor.stop()
    return USAGE if supervisor.given_up.is_set() else 0


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
        # The process' own stream: a caller in the same process may have replaced sys.stderr, and close it later.
        logger_factory=structlog.PrintLoggerFactory(sys.__stderr__),
    )
