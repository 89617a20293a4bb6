"""Commands about specs: validate, schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tapeworks.cli.console import Json, err, session_of, show_json
from tapeworks.spec import editor_schema


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(validate)
    app.command()(schema)


def validate(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A job spec, JSON.", exists=True, dir_okay=False, show_default=False)],
    json: Json = False,
) -> None:
    """Check a spec against its schema and what the workers can build. With --json: its canonical form."""
    with session_of(context).client() as client:
        result = client.validate(file)
    if json:
        show_json(result)
        return
    for warning in result.warnings:
        err().print(f"warning: {warning}", markup=False)
    typer.echo(f"{file} is valid")


def schema() -> None:
    """Print the JSON Schema of a spec, for editors."""
    show_json(editor_schema())
