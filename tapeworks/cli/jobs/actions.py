"""Commands that change a job: cancel, pause, resume, retry, change, delete; and its checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from tapeworks.cli.console import JobId, Json, Yes, confirm, labels, one_line, session_of, show_json, show_list
from tapeworks.cli.jobs.progress import age
from tapeworks.cli.name_resolution import checkpoint_id_of, job_id_of
from tapeworks.schemas.jobs import Checkpoint, Job, Requested


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (cancel, pause, resume, retry, change, delete, checkpoints):
        app.command()(command)


def cancel(context: typer.Context, job_id: JobId, json: Json = False) -> None:
    """Ask a job to stop at its next call boundary."""
    with session_of(context).client() as client:
        _tell(client.cancel(job_id_of(client, job_id)), json=json)


def pause(context: typer.Context, job_id: JobId, json: Json = False) -> None:
    """Ask a job to save its state and stop until it is resumed."""
    with session_of(context).client() as client:
        _tell(client.pause(job_id_of(client, job_id)), json=json)


def resume(context: typer.Context, job_id: JobId, json: Json = False) -> None:
    """Queue a paused job again: it goes on where it stopped, on any worker."""
    with session_of(context).client() as client:
        _tell(client.resume(job_id_of(client, job_id)), json=json)


def retry(
    context: typer.Context,
    job_id: JobId,
    start: Annotated[
        str,
        typer.Option(
            "--from",
            help="scratch, or the checkpoint to resume from: latest, best, or its id or the first characters of it.",
        ),
    ] = "scratch",
    json: Json = False,
) -> None:
    """Run a finished job again, as a new job, and print its id."""
    with session_of(context).client() as client:
        source = job_id_of(client, job_id)
        job = client.retry(source, checkpoint_id_of(client, source, start))
    if json:
        show_json(job)
    else:
        typer.echo(job.id)


def change(
    context: typer.Context,
    job_id: JobId,
    name: Annotated[str | None, typer.Option(help="Another name.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="KEY=VALUE; replaces all labels of the job.")] = None,
    priority: Annotated[
        int | None, typer.Option(min=-100, max=100, help="Jobs with a higher priority run first.")
    ] = None,
    json: Json = False,
) -> None:
    """Change a job's name, labels or priority."""
    if name is None and not label and priority is None:
        raise typer.BadParameter("give --name, --label or --priority")
    with session_of(context).client() as client:
        changed = client.update(job_id_of(client, job_id), name=name, labels=labels(label or []), priority=priority)
    _tell(changed, json=json)


def delete(context: typer.Context, job_id: JobId, yes: Yes = False) -> None:
    """Delete a finished job with its checkpoints, artifacts and records. Asks on a terminal."""
    with session_of(context).client() as client:
        job_id = job_id_of(client, job_id)
        if not yes:
            job = client.get(job_id)
            what = f"{job.id}  {one_line(job.name or 'without a name')}  {job.state.value}  {age(job.created_at)} ago"
            confirm(f"{what}\nIts checkpoints, model, artifacts and records cannot be restored.", yes=False)
        client.delete(job_id)
    typer.echo(f"{job_id} is deleted")


def checkpoints(
    context: typer.Context,
    job_id: JobId,
    checkpoint: Annotated[
        str | None, typer.Argument(help="Download this one: its id, or the first characters of it.", show_default=False)
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file or folder to write to.")] = Path("."),
    json: Json = False,
) -> None:
    """List the checkpoints that a job keeps, or download one."""
    with session_of(context).client() as client:
        job_id = job_id_of(client, job_id)
        if checkpoint is not None:
            checkpoint = checkpoint_id_of(client, job_id, checkpoint)
            typer.echo(str(client.download_checkpoint(job_id, checkpoint, output)))
            return
        found = client.checkpoints(job_id)
    columns: dict[str, Callable[[Checkpoint], str]] = {
        "ID": lambda one: one.id,
        "STEP": lambda one: str(one.step),
        "EPOCH": lambda one: str(one.epoch),
        "MIB": lambda one: f"{one.bytes / 2**20:.1f}",
        "BEST": lambda one: "best" * one.best,
        "CREATED": lambda one: f"{age(one.created_at)} ago",
    }
    show_list(found, columns, json=json)


def _tell(job: Job, *, json: bool) -> None:
    if json:
        show_json(job)
    elif job.requested is Requested.NONE:
        typer.echo(f"{job.id} is {job.state.value}")
    else:
        wish = {Requested.CANCEL: "stop", Requested.PAUSE: "pause"}[job.requested]
        typer.echo(f"{job.id} was requested to {wish}; its state is {job.state.value}")
