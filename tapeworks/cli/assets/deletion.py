"""An upload is deleted: its name is resolved, a person is asked."""

from __future__ import annotations

import typer

from tapeworks.cli.console import confirm, one_line
from tapeworks.cli.name_resolution import asset_id_of
from tapeworks.client.assets import A, AssetClient


def delete_asset(assets: AssetClient[A], kind: str, text: str, *, yes: bool) -> None:
    """Delete the upload that `text` stands for, after a question, and say so.

    `kind`: what ids begin with: `ds`, `pkg`, `bundle`. Raises `NotFound`, `Ambiguous`, `Conflict`, BadParameter.
    """
    found = assets.get(asset_id_of(assets, kind, text))
    confirm(f"{found.id}  {one_line(found.name)} version {one_line(found.version)}", yes=yes)
    assets.delete(found.id)
    typer.echo(f"{found.id} is deleted")
