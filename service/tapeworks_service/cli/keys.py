"""`tapeworks keys create | list | revoke`: who may call the service."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from tapeworks.cli.console import Json, out, table
from tapeworks.cli.extras import require

if TYPE_CHECKING:
    from tapeworks_service.database.engine import Transaction

T = TypeVar("T")
DataDir = Annotated[
    Path | None, typer.Option(help="The service's data folder. Default: TAPEWORKS_DATA_DIR, or ./tapeworks-data; "
    "TAPEWORKS_DATABASE_URL applies.")
]  # fmt: skip
app = typer.Typer(
    help="Manage API keys in the service's database, whether or not the service runs.", no_args_is_help=True
)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="A name that describes the key's purpose.")],
    project: Annotated[
        str, typer.Option(help="The project that the key can access; created if it does not exist.")
    ] = "default",
    scope: Annotated[
        list[str] | None, typer.Option(help="read, submit, admin or worker; may be repeated. Default: read, submit.")
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Make a key. Its text is shown now and never again."""
    _require_service()
    from tapeworks_service.auth import keys

    scopes = tuple(scope) if scope else ("read", "submit")
    key, text = _do(data_dir, lambda tx: keys.create(tx, name=name, project=project, scopes=scopes))
    if as_json:
        typer.echo(json.dumps({**key.document(), "key": text}))
        return
    typer.echo(f"{key.id}: {', '.join(key.scopes)} in the project {key.project!r}", err=True)
    typer.echo(text)


@app.command("list")
def list_(data_dir: DataDir = None, as_json: Json = False) -> None:
    """All keys, when they were made and last used."""
    _require_service()
    from tapeworks_service.auth import keys

    found = _do(data_dir, keys.listed)
    if as_json:
        typer.echo(json.dumps([key.document() for key in found]))
        return
    rows = table("id", "project", "name", "scopes", "created", "last used", "revoked")
    for key in found:
        shown = key.document()
        times = (shown["created_at"], shown["last_used_at"] or "never", shown["revoked_at"] or "")
        rows.add_row(key.id, key.project, key.name, ", ".join(key.scopes), *times)
    out().print(rows)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="KEY_ID", help="The key's id, from `tapeworks keys list`.")],
    last: Annotated[bool, typer.Option("--last", help="Revoke the key even if it is the last one.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Let a key open nothing any more; a service that runs hears of it within a second."""
    _require_service()
    from tapeworks_service.auth import keys

    try:
        key = _do(data_dir, lambda tx: keys.revoke(tx, key_id, last=last))
    except keys.LastKey as refused:
        raise keys.KeyRefused(f"{refused} (use --last to revoke it anyway)") from refused
    typer.echo(f"{key.id} ({key.name}) is revoked")


def _require_service() -> None:
    require("fastapi", "service", "tapeworks keys")


def _do(data_dir: Path | None, work: Callable[[Transaction], Awaitable[T]]) -> T:
    """Work in a transaction of its own."""
    from tapeworks_service.settings import read_settings

    settings = read_settings({} if data_dir is None else {"data_dir": data_dir})

    async def main() -> T:
        from tapeworks_service.auth.keys import opened

        async with opened(settings) as database, database.write() as tx:
            return await work(tx)

    return asyncio.run(main())
