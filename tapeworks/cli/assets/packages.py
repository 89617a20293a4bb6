"""`tapeworks component push` and what belongs to it: uploaded component packages.

The worker's package adds `new` and `test` to the same group.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from tapeworks.cli.assets.deletion import delete_asset
from tapeworks.cli.assets.upload_progress import sending
from tapeworks.cli.console import ExitCode, Json, Yes, out, session_of, show_json, show_list
from tapeworks.cli.name_resolution import asset_id_of
from tapeworks.schemas.assets import Package

component = typer.Typer(no_args_is_help=True, help="Write, test and upload your own components.")

PackageId = Annotated[
    str, typer.Argument(metavar="PACKAGE", help="The package's id, its name or NAME@VERSION.", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(component, name="component")


@component.command()
def push(
    context: typer.Context,
    path: Annotated[
        Path,
        typer.Argument(
            help="A wheel, a zip, a project folder, or files with @component.", exists=True, show_default=False
        ),
    ],
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait for the trial to finish.")] = False,
    json: Json = False,
) -> None:
    """Upload a package of components. A worker tries every one of them; ends with 1 where something keeps it out."""
    with session_of(context).client() as client:
        with sending(path.name) as progress:
            package = client.packages.push(path, progress=progress)
        if not no_wait:
            package = client.packages.settled(package)
    show_json(package) if json else _show(package)
    if package.state == "refused":
        raise typer.Exit(ExitCode.NO)


@component.command("packages")
def packages(
    context: typer.Context,
    name: Annotated[str | None, typer.Option(help="Only versions of this package.")] = None,
    json: Json = False,
) -> None:
    """List uploaded packages, newest first."""
    with session_of(context).client() as client:
        found = list(client.packages.list(name))
    columns: dict[str, Callable[[Package], str]] = {
        "ID": lambda one: one.id,
        "NAME": lambda one: one.name,
        "VERSION": lambda one: one.version,
        "STATE": lambda one: one.state,
        "COMPONENTS": lambda one: ", ".join(part.name for part in one.components),
    }
    show_list(found, columns, json=json)


@component.command("show")
def show(context: typer.Context, package: PackageId, json: Json = False) -> None:
    """Show an uploaded package: its components, or what keeps it out."""
    with session_of(context).client() as client:
        found = client.packages.get(asset_id_of(client.packages, "pkg", package))
    show_json(found) if json else _show(found)


@component.command("delete")
def delete(context: typer.Context, package: PackageId, yes: Yes = False) -> None:
    """Delete an uploaded package; refused while an unfinished job uses it."""
    with session_of(context).client() as client:
        delete_asset(client.packages, "pkg", package, yes=yes)


def _show(package: Package) -> None:
    console = out()
    console.print(Text(f"{package.id}  {package.name} {package.version}: {package.state}", style="bold"))
    for part in package.components:
        console.print(Text(f"  {part.kind.value} {part.name} version {part.version}"))
    for warning in package.warnings:
        console.print(Text(f"warning: {warning}", style="yellow"))
    for one in package.refused:
        kind = f"{one.kind.value} " if one.kind is not None else ""
        console.print(Text(f"refused: {kind}{one.name}: {one.reason}", style="red"))
    if package.failure is not None:
        console.print(Text(f"{package.failure.code.value}: {package.failure.message}", style="red"))
        console.print(Text(package.failure.hint, style="dim"))
