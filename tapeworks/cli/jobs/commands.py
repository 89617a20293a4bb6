"""Commands about jobs: submit, watch, logs, download."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.text import Text

from tapeworks.cli.console import (
    ExitCode,
    JobId,
    Json,
    Session,
    err,
    out,
    session_of,
    show_json,
    show_json_line,
    visible,
)
from tapeworks.cli.jobs import progress as job_progress
from tapeworks.cli.name_resolution import job_id_of
from tapeworks.client.client import Client
from tapeworks.errors import TapeworksError
from tapeworks.schemas.jobs import Job, State

HERE = Path("job.json")
"""What `submit` takes where no file is named."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (submit, watch, logs, download):
        app.command()(command)


def submit(
    context: typer.Context,
    file: Annotated[
        Path | None,
        typer.Argument(help="A job spec, JSON; default: ./job.json.", exists=True, dir_okay=False, show_default=False),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the job until it has finished.")] = False,
    json: Json = False,
) -> None:
    """Queue a job and print its id."""
    session = session_of(context)
    if file is None and not HERE.is_file():
        raise typer.BadParameter("give one: there is no job.json here (`tapeworks init` writes one)", param_hint="FILE")
    with session.client() as client:
        job = client.submit(file or HERE)
        if watch:
            if not json:
                err().print(Text(job.id))
            _watch(client, job, session)
        elif json:
            show_json(job)
        else:
            typer.echo(job.id)


def watch(context: typer.Context, job_id: JobId, json: Json = False) -> None:
    """Show a job until it has finished. Ctrl-C leaves it running."""
    session = session_of(context)
    with session.client() as client:
        _watch(client, client.get(job_id_of(client, job_id)), session)


def logs(
    context: typer.Context,
    job_id: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Follow the log until the job has finished.")] = False,
    json: Json = False,
) -> None:
    """Print what the job's runner printed. With --json: one object for each line."""
    with session_of(context).client() as client:
        job_id = job_id_of(client, job_id)
        with detaching(job_id, f"tapeworks logs --follow {job_id}"):
            for line in client.logs(job_id, follow=follow):
                show_json_line(line) if json else typer.echo(visible(line.text))


def download(
    context: typer.Context,
    job_id: Annotated[
        str | None, typer.Argument(help="The job's id or name; default: the last job that succeeded.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file or folder to write to.")] = Path("."),
    format: Annotated[Literal["keras", "saved_model"] | None, typer.Option(help="Only this part.")] = None,
    json: Json = False,
) -> None:
    """Fetch a job's model bundle, checked against its digest."""
    if not output.parent.is_dir():
        raise typer.BadParameter(f"folder not found: {str(output.parent)!r}", param_hint="--output")
    with session_of(context).client() as client:
        if job_id is None:
            last = next(client.list(state=State.SUCCEEDED), None)
            if last is None:
                raise TapeworksError("no job has succeeded yet")
            job_id = last.id
        else:
            job_id = job_id_of(client, job_id)
        file = client.download(job_id, output, format)
    if json:
        show_json({"job_id": job_id, "path": str(file), "bytes": file.stat().st_size})
    else:
        typer.echo(str(file))


def _watch(client: Client, job: Job, session: Session) -> None:
    """Show the job to its end, and end with what became of it."""
    with detaching(job.id, f"tapeworks watch {job.id}"):
        if session.json:
            job = client.wait(job.id)
        else:
            earlier = client.metrics(job.id, points=200).get("loss")
            with job_progress.display(out(), [value for _, value, _ in earlier.points] if earlier else []) as show:
                job = client.wait(job.id, on_change=show)
    if session.json:
        show_json(job)
    elif job.state is State.SUCCEEDED and job.model is not None:
        out().print(Text(f"model: tapeworks download {job.id}"))
    elif job.failure is not None:
        out().print(Text(f"hint: {job.failure.hint}"))
    if job.state is not State.SUCCEEDED:
        raise typer.Exit(ExitCode.NO)


class detaching:
    """Ctrl-C ends the command, not the job, and says how to come back."""

    def __init__(self, job_id: str, command: str) -> None:
        self.job_id, self.command = job_id, command

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            err().print(Text(f"\n{self.job_id} is still running. Follow it again with: {self.command}"))
            raise typer.Exit(ExitCode.DETACHED) from None
