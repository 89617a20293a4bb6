"""`tapeworks bundle`: uploaded model bundles, to go on from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from tapeworks.cli.assets.deletion import delete_asset
from tapeworks.cli.assets.upload_progress import sending
from tapeworks.cli.console import Json, Yes, out, session_of, show_json, show_list
from tapeworks.schemas.assets import Bundle

bundle = typer.Typer(no_args_is_help=True, help="Upload model bundles to start jobs from.")

BundleId = Annotated[
    str, typer.Argument(metavar="BUNDLE", help="The bundle's id, its name or NAME@VERSION.", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(bundle, name="bundle")


@bundle.command()
def push(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="A bundle.tar.gz.", exists=True, dir_okay=False, show_default=False)],
    name: Annotated[str | None, typer.Option(help="Default: the file's name.")] = None,
    json: Json = False,
) -> None:
    """Upload what a job left, here or elsewhere."""
    with session_of(context).client() as client, sending(path.name) as progress:
        made = client.bundles.push(path, name=name, progress=progress)
    if json:
        show_json(made)
        return
    out().print(Text(f"{made.id}  {made.name} version {made.version}: {', '.join(made.roles) or 'no models'}"))
    out().print(Text(f'in a spec: "initial_state": {{"from": "{made.id}"}}'))


@bundle.command("list")
def list_(
    context: typer.Context,
    name: Annotated[str | None, typer.Option(help="Only versions of this bundle.")] = None,
    json: Json = False,
) -> None:
    """List uploaded bundles, newest first."""
    with session_of(context).client() as client:
        found = list(client.bundles.list(name))
    columns: dict[str, Callable[[Bundle], str]] = {
        "ID": lambda one: one.id,
        "NAME": lambda one: one.name,
        "VERSION": lambda one: one.version,
        "MODELS": lambda one: ", ".join(one.roles),
        "BYTES": lambda one: f"{one.bytes:,}",
    }
    show_list(found, columns, json=json)


@bundle.command()
def delete(context: typer.Context, bundle: BundleId, yes: Yes = False) -> None:
    """Delete an uploaded bundle; refused while an unfinished job reads it."""
    with session_of(context).client() as client:
        delete_asset(client.bundles, "bundle", bundle, yes=yes)
