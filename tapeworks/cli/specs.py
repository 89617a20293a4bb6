"""Commands about specs: validate, schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from tapeworks.cli.console import ExitCode, Json, Session, err, out, session_of, show_json
from tapeworks.cli.jobs import progress as job_progress
from tapeworks.cli.jobs import validation_report
from tapeworks.schemas.jobs import State
from tapeworks.spec.job_spec import editor_schema


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(validate)
    app.command()(schema)


def validate(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A job spec, JSON.", exists=True, dir_okay=False, show_default=False)],
    trace: Annotated[
        bool, typer.Option("--trace", help="Have a worker build and trace the job and run a few steps.")
    ] = False,
    json: Json = False,
) -> None:
    """Check a spec against its schema and what the workers can build. With --json: its canonical form.

    With --trace a worker builds and traces it too, and says what a step needs and how long the job may take.
    """
    if trace:
        _trace(session_of(context), file)
        return
    with session_of(context).client() as client:
        result = client.validate(file)
    if json:
        show_json(result)
        return
    for warning in result.warnings:
        err().print(f"warning: {warning}", markup=False)
    typer.echo(f"{file} is valid")


def _trace(session: Session, file: Path) -> None:
    """Wait for the validation and show what it found; Ctrl-C ends it too, since nobody else reads it."""
    with session.client() as client:
        job = client.validate(file, trace=True)
        try:
            with job_progress.display(err()) as show:
                quiet = None if session.json else lambda seen: show(seen.model_copy(update={"failure": None}))
                job = client.wait(job.id, on_change=quiet)
        except KeyboardInterrupt:
            client.cancel(job.id)
            err().print(Text(f"\n{job.id} was requested to stop"))
            raise typer.Exit(ExitCode.DETACHED) from None
    if session.json:
        show_json(job)
    elif job.failure is not None:
        validation_report.show_failure(err(), job.failure)
    elif job.state is State.SUCCEEDED:
        validation_report.show_result(out(), job.result or {})
        typer.echo(f"{file} is valid")
    if job.state is not State.SUCCEEDED:
        raise typer.Exit(ExitCode.NO)


def schema() -> None:
    """Print the JSON Schema of a spec, for editors."""
    show_json(editor_schema())
