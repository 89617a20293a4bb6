"""The commands that the service adds: `serve`, the service with a worker beside it; `backup`, `restore`, `keys`.

Imports of the service's own dependencies stand inside: the command line must work, and say what is
missing, where only the client is installed.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tapeworks.cli.extras import require
from tapeworks_service.cli import keys

if TYPE_CHECKING:
    from tapeworks_service.embedded import WorkerOptions
    from tapeworks_service.settings import ServiceSettings


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (serve, backup, restore):
        app.command()(command)
    app.add_typer(keys.app, name="keys")


def serve(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="Default: TAPEWORKS_HOST, or 127.0.0.1.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="0 selects a free port. Default: TAPEWORKS_PORT, or 8000.")
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="The folder for all data of the service. Default: TAPEWORKS_DATA_DIR, or ./tapeworks-data."),
    ] = None,
    components: Annotated[
        list[Path] | None, typer.Option(help="A file or folder with your own components; may be repeated.", exists=True)
    ] = None,
    data_root: Annotated[
        list[Path] | None,
        typer.Option(help="A folder that sources may read; may be repeated.", exists=True, file_okay=False),
    ] = None,
    remote_files: Annotated[
        list[str] | None, typer.Option(help="Address below which jobs may read: s3://BUCKET/, https://HOST/PATH/.")
    ] = None,
    connections_file: Annotated[
        Path | None, typer.Option(help="TOML file of databases for the source sql.", exists=True, dir_okay=False)
    ] = None,
    cpu_slots: Annotated[int | None, typer.Option(min=1, help="The number of concurrent jobs without a GPU.")] = None,
    no_worker: Annotated[bool, typer.Option("--no-worker", help="Start only the service, without a worker.")] = False,
    open_page: Annotated[
        bool, typer.Option("--open", help="Open the page in a browser as soon as the server is ready.")
    ] = False,
) -> None:
    """Run the service and one worker on this machine, until SIGTERM or Ctrl-C."""
    require("fastapi", "service", "tapeworks serve")
    if not no_worker:
        require("tensorflow", "worker", "the worker beside it (--no-worker: only the service)")
    from tapeworks_service.embedded import WorkerOptions, claimed

    settings = _settings(host, port, data_dir)
    folder = settings.data_dir.absolute()
    with claimed(folder):
        _check_door(settings)
        options = WorkerOptions(
            components=[path.absolute() for path in components or ()],
            data_roots=[path.absolute() for path in data_root or ()],
            remote_files=remote_files or [],
            connections_file=connections_file.absolute() if connections_file else None,
            cpu_slots=cpu_slots,
            key_file=None if no_worker else _key_file(settings, folder),
        )
        given = {param.opts[0]: context.params.get(param.name) for param in context.command.params if param.name}
        _run(settings, folder, None if no_worker else options, given)


def backup(
    target: Annotated[Path, typer.Argument(help="The backup's folder, which must not exist yet.")],
    data_dir: Annotated[Path | None, typer.Option(help="Default: TAPEWORKS_DATA_DIR, or ./tapeworks-data.")] = None,
) -> None:
    """Copy an instance on SQLite: database, models, checkpoints. The service may go on running."""
    require("fastapi", "service", "tapeworks backup")
    from tapeworks_service.backup import back_up

    folder = _settings(None, None, data_dir).data_dir.absolute()
    copied = back_up(folder, target.absolute())
    typer.echo(f"{target}: the database and {copied.files} files, {copied.bytes} bytes")


def restore(
    source: Annotated[
        Path, typer.Argument(help="A folder written by `tapeworks backup`.", exists=True, file_okay=False)
    ],
    data_dir: Annotated[Path | None, typer.Option(help="Default: TAPEWORKS_DATA_DIR, or ./tapeworks-data.")] = None,
) -> None:
    """Put a backup into an empty folder, for `tapeworks serve` to go on with."""
    require("fastapi", "service", "tapeworks restore")
    from tapeworks_service.backup import restore as put_back

    folder = _settings(None, None, data_dir).data_dir.absolute()
    copied = put_back(source.absolute(), folder)
    typer.echo(f"{folder}: the database and {copied.files} files, {copied.bytes} bytes")


def _settings(host: str | None, port: int | None, data_dir: Path | None) -> ServiceSettings:
    """Options over the environment. Raises `StartRefused` for a value that is none."""
    from tapeworks_service.settings import read_settings

    given = {"host": host, "port": port, "data_dir": data_dir}
    return read_settings({key: value for key, value in given.items() if value is not None})


def _check_door(settings: ServiceSettings) -> None:
    """Raises `StartRefused` for an open address without a key."""
    from tapeworks_service.auth.keys import a_user_has_one
    from tapeworks_service.settings import StartRefused

    if settings.loopback or settings.first_key() is not None or asyncio.run(a_user_has_one(settings)):
        return
    raise StartRefused(
        f"without a key the service listens on a loopback address only, not on {settings.host}: "
        "make one with `tapeworks keys create`, set TAPEWORKS_API_KEY_FILE, or use --host 127.0.0.1"
    )


def _key_file(settings: ServiceSettings, folder: Path) -> Path | None:
    """A file with the key for the worker, readable by this user alone. Without a key of the settings it has its own:
    keys that are made later lock it out no more than they would if it ran elsewhere."""
    from tapeworks_service.auth.keys import worker_key

    if settings.api_key_file is not None:
        return settings.api_key_file
    file = folder / "worker.key"
    known = file.read_text() if file.is_file() else None
    key = settings.first_key() or asyncio.run(worker_key(settings, known))
    file.touch(mode=0o600)
    file.write_text(key)
    return file


def _run(settings: ServiceSettings, folder: Path, options: WorkerOptions | None, given: Mapping[str, Any]) -> None:
    """`given`: the options of the command line with their values."""
    from tapeworks_service.app import create_app
    from tapeworks_service.cli.first_steps import command_with, introduce, listening_socket
    from tapeworks_service.embedded import (
        DRAIN_SECONDS,
        EmbeddedServer,
        EmbeddedWorker,
        announced,
    )
    from tapeworks_service.http.connections import allow_many_files
    from tapeworks_service.observability.logging import configure
    from tapeworks_service.server import configured, tune_gc
    from tapeworks_service.settings import StartRefused

    configure(settings)
    allow_many_files()

    logs = folder / "logs"
    stopped = threading.Event()
    with (
        listening_socket(settings.host, settings.port, partial(command_with, given)) as listening,
        announced(folder) as announce,
    ):
        port = listening.getsockname()[1]
        url = f"http://{f'[{settings.host}]' if ':' in settings.host else settings.host}:{port}"
        settings = settings.model_copy(update={"port": port})
        worker = None
        if options is not None:
            command = options.command(_reachable(url, settings.host), folder / "worker")
            worker = EmbeddedWorker(
                command,
                logs / "worker.log",
                lambda text: typer.echo(text, err=True),
                silence_seconds=settings.worker_silence_seconds,
            )

        def started() -> None:
            announce(url)
            typer.echo(f"Tapeworks listens on {url} and stores its data in {folder}")
            ready = "/healthz" if worker is None else "/readyz"
            introduce(_reachable(url, settings.host), ready if given.get("--open") else None, stopped)

        app = create_app(settings)
        config = configured(app, timeout_graceful_shutdown=DRAIN_SECONDS)
        server = EmbeddedServer(config, app.state.hub, worker, started)
        tune_gc()
        try:
            server.run(sockets=[listening])
        finally:
            stopped.set()
        if not server.started:
            raise StartRefused("the service did not start: see its log")
        if worker is not None and worker.given_up.is_set():
            raise StartRefused(f"the worker did not start: see {logs / 'worker.log'}")


def _reachable(url: str, host: str) -> str:
    """Where a process of this machine reaches the service."""
    return url.replace(host, "127.0.0.1") if host == "0.0.0.0" else url.replace("[::]", "[::1]")  # noqa: S104
