"""The `tapeworks` command, assembled: a file for each noun, and what other packages add.

A package adds commands through the entry point group `tapeworks.commands`: each entry is a function
`register(app: typer.Typer) -> None`.
"""

from __future__ import annotations

from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from tapeworks.cli import components, examples, project, specs, workers
from tapeworks.cli.assets import bundles, datasets, packages
from tapeworks.cli.console import Commands, Session, err
from tapeworks.cli.jobs import actions, commands, comparison, listing, records, report

GROUP = "tapeworks.commands"
NOUNS = (
    commands, listing, report, records, comparison, actions, specs, components, datasets, packages,
    bundles, workers, project, examples,
)  # fmt: skip
"""Modules with commands, each with a function `register`."""


def print_version(asked: bool) -> None:
    """Print the installed version and exit, if asked to."""
    if asked:
        typer.echo(f"tapeworks {version('tapeworks')}")
        raise typer.Exit


def options(
    context: typer.Context,
    url: Annotated[
        str | None, typer.Option(envvar="TAPEWORKS_URL", help="The service's address; default http://127.0.0.1:8000.")
    ] = None,
    key: Annotated[str | None, typer.Option(envvar="TAPEWORKS_KEY", help="The API key, tw_….")] = None,
    key_file: Annotated[
        Path | None, typer.Option(envvar="TAPEWORKS_KEY_FILE", help="A file that contains the API key.")
    ] = None,
    asked_version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Training as a service for TensorFlow and Keras 3."""
    if key is None and key_file is not None:
        key = key_file.read_text(encoding="utf-8").strip()
    context.obj = Session(url=url, key=key)


def assemble() -> typer.Typer:
    """The application with every command that is installed."""
    app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=True)
    app.callback()(options)
    for noun in NOUNS:
        noun.register(app)
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            entry.load()(app)
        except Exception as error:  # a broken plug-in must not take the other commands with it
            err().print(Text(f"warning: the commands of {entry.value} cannot be loaded: {error!r}", style="yellow"))
    return app


app = assemble()

if __name__ == "__main__":
    app()
