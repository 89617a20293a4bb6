"""`tapeworks component new` and `component test`: for authors, on a machine with the worker's packages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from tapeworks.cli.extras import require
from tapeworks.errors import ComponentError
from tapeworks.spec.references import Kind
from tapeworks_workers.authoring.scaffold import write_package


def author_commands(group: typer.Typer) -> None:
    """Add them to a group."""
    group.command()(new)
    group.command("test")(try_out)


def new(
    name: Annotated[str, typer.Argument(help="package/Name, such as acme/WarmLoss.", show_default=False)],
    kind: Annotated[Kind, typer.Option(help="The kind of component.", show_default=False)],
    folder: Annotated[
        Path | None, typer.Option(help="The folder to write; default: a folder of that name in the current folder.")
    ] = None,
) -> None:
    """Write a package to start from: a component, a test of it and an example job."""
    try:
        written = write_package(name, kind, folder)
    except ComponentError as error:
        raise typer.BadParameter(str(error)) from None
    typer.echo(f"{written} holds a {kind.value}, a test and a job. Next:")
    typer.echo(f"  tapeworks component test {written}")
    typer.echo(f"  tapeworks serve --components {written}")
    typer.echo(f"  tapeworks submit {written / 'job.json'} --watch")


def try_out(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH…", help="Files or folders with components.", exists=True, show_default=False),
    ],
    data_root: Annotated[list[Path] | None, typer.Option(help="A folder that sources may read.", exists=True)] = None,
    json: Annotated[bool, typer.Option("--json", help="Print only JSON.")] = False,
) -> None:
    """Build, save, reload and train every component of a path in a small job, and validate the jobs beside them.

    Prints what would fail as a job; ends with 1 if anything would.
    """
    require("tensorflow", "worker", "tapeworks component test")
    command = [sys.executable, "-m", "tapeworks_workers.authoring.component_test", *map(str, paths)]
    command += [part for root in data_root or () for part in ("--data-root", str(root))]
    raise typer.Exit(subprocess.run([*command, *(["--json"] if json else [])]).returncode)
