"""`tapeworks data`: push, list, show and delete datasets."""

from __future__ import annotations

import json as json_text
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from tapeworks.cli.assets.deletion import delete_asset
from tapeworks.cli.assets.upload_progress import sending
from tapeworks.cli.console import ExitCode, Json, Yes, out, session_of, show_json, show_list, table
from tapeworks.cli.name_resolution import asset_id_of
from tapeworks.schemas.assets import DataFormat, Dataset
from tapeworks.spec.reading_options import from_texts

data = typer.Typer(no_args_is_help=True, help="Upload datasets and list them.")

DatasetId = Annotated[
    str, typer.Argument(metavar="DATASET", help="The dataset's id, its name or NAME@VERSION.", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(data, name="data")


@data.command()
def push(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="A file, an archive or a folder.", exists=True, show_default=False)],
    name: Annotated[str | None, typer.Option(help="Default: the file's name.")] = None,
    format: Annotated[DataFormat | None, typer.Option(help="Default: derived from the file names.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            "--csv",
            metavar="NAME=VALUE",
            help="A reading option of the format, as in the source: delimiter=';', header=false; or a JSON object.",
        ),
    ] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait for a worker to inspect it.")] = False,
    json: Json = False,
) -> None:
    """Upload a file or folder as a version of a dataset. A push that was cut goes on where it ended."""
    try:
        options = from_texts(option or [])
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--option") from error
    with session_of(context).client() as client:
        with sending(path.name) as progress:
            dataset = client.datasets.push(path, name=name, format=format, options=options, progress=progress)
        if not no_wait:
            dataset = client.datasets.settled(dataset)
    show_json(dataset) if json else _show(dataset)
    if dataset.state == "refused":
        raise typer.Exit(ExitCode.NO)


@data.command("list")
def list_(
    context: typer.Context,
    name: Annotated[str | None, typer.Option(help="Only versions of this dataset.")] = None,
    json: Json = False,
) -> None:
    """List datasets, newest first."""
    with session_of(context).client() as client:
        found = list(client.datasets.list(name))
    columns: dict[str, Callable[[Dataset], str]] = {
        "ID": lambda one: one.id,
        "NAME": lambda one: one.name,
        "VERSION": lambda one: one.version,
        "FORMAT": lambda one: one.format.value,
        "STATE": lambda one: one.state,
        "ROWS": lambda one: "" if one.content is None or one.content.rows is None else f"{one.content.rows:,}",
        "BYTES": lambda one: f"{one.bytes:,}",
    }
    show_list(found, columns, json=json)


@data.command()
def show(context: typer.Context, dataset: DatasetId, json: Json = False) -> None:
    """Show a dataset: its columns and first rows."""
    with session_of(context).client() as client:
        found = client.datasets.get(asset_id_of(client.datasets, "ds", dataset))
    show_json(found) if json else _show(found)


@data.command()
def delete(context: typer.Context, dataset: DatasetId, yes: Yes = False) -> None:
    """Delete a dataset; refused while an unfinished job reads it."""
    with session_of(context).client() as client:
        delete_asset(client.datasets, "ds", dataset, yes=yes)


def _show(dataset: Dataset) -> None:
    console = out()
    console.print(Text(f"{dataset.id}  {dataset.name} version {dataset.version}: {dataset.state}", style="bold"))
    if dataset.failure is not None:
        console.print(Text(f"{dataset.failure.code.value}: {dataset.failure.message}", style="red"))
        console.print(Text(dataset.failure.hint, style="dim"))
        return
    if dataset.options:
        console.print(Text(f"read with {json_text.dumps(dataset.options, ensure_ascii=False)}"))
    if (content := dataset.content) is not None:
        counted = "rows not counted" if content.rows is None else f"{content.rows:,} rows"
        console.print(f"{counted} in {content.files:,} files, {dataset.bytes:,} bytes")
        columns = table("COLUMN", "DTYPE", "SHAPE")
        for column in content.columns:
            dtype = column.dtype if column.unit is None else f"{column.dtype}, {column.unit}"
            columns.add_row(column.name, dtype, json_text.dumps(column.shape) if column.shape else "")
        console.print(columns)
        for column in content.columns:
            if column.unreadable is not None:
                console.print(Text(f"a job cannot read column {column.name!r}: {column.unreadable}", style="yellow"))
        for name, count in content.classes.items():
            console.print(Text(f"  {name}: {count:,}"))
        if content.left_out:
            others = ", ".join(f"{count:,} {suffix}" for suffix, count in content.left_out.items())
            console.print(Text(f"skipped, files of other formats: {others}", style="yellow"))
        for note in content.notes:
            console.print(Text(note, style="yellow"))
        for row in content.preview:
            console.print(Text(json_text.dumps(row, ensure_ascii=False), style="dim"))
    source = json_text.dumps({"component": dataset.source, "config": {"files": dataset.id}})
    console.print(Text(f'in a spec: "source": {source}'))
