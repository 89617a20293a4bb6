"""Commands about what a job reported and left: metrics, events, artifacts."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from tapeworks.cli.console import (
    JobId,
    Json,
    one_line,
    out,
    session_of,
    show_json,
    show_json_line,
    show_list,
    table,
    value_text,
)
from tapeworks.cli.jobs.commands import detaching
from tapeworks.cli.jobs.progress import age, number, plot
from tapeworks.cli.name_resolution import artifact_path_of, job_id_of
from tapeworks.schemas.jobs import Artifact, Event, MetricSeries

PLOT_WIDTH, PLOT_HEIGHT = 60, 8
TABLE_POINTS = 20


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (metrics, events, artifacts):
        app.command()(command)


def metrics(
    context: typer.Context,
    job_id: JobId,
    name: Annotated[list[str] | None, typer.Option(help="Only this metric; may be repeated.")] = None,
    points: Annotated[
        int | None,
        typer.Option(min=2, max=10_000, help="At most this many points of each metric. Default: 20; all with --csv."),
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV: a row for each step, every digit.")] = False,
    as_plot: Annotated[bool, typer.Option("--plot", help="Draw a curve of each metric.")] = False,
    json: Json = False,
) -> None:
    """Print the metrics of a job by step: a table, CSV or curves."""
    if as_csv + as_plot + json > 1:
        raise typer.BadParameter("choose one of --csv, --plot and --json")
    wanted = points if points is not None or as_csv or json else PLOT_WIDTH if as_plot else TABLE_POINTS
    with session_of(context).client() as client:
        found = client.metrics(job_id_of(client, job_id), points=wanted)
    unknown = [one for one in name or () if one not in found]
    if unknown:
        known = ", ".join(map(one_line, found)) or "none yet"
        raise typer.BadParameter(f"the job has no metric {unknown[0]!r}; it has: {known}", param_hint="--name")
    shown = {one: series for one, series in found.items() if not name or one in name}
    if json:
        show_json(list(shown.values()))
    elif as_csv:
        _csv(shown)
    elif as_plot:
        _plots(out(), shown)
    else:
        rows = table("STEP", *map(one_line, shown))
        for step, values in by_step(shown):
            rows.add_row(str(step), *("" if value is None else number(value) for value in values))
        out().print(rows)


def by_step(found: Mapping[str, MetricSeries]) -> list[tuple[int, list[float | None]]]:
    """Each step with the values of all metrics there, None where one was not reported."""
    values = {name: {step: value for step, value, _ in series.points} for name, series in found.items()}
    steps = sorted({step for points in values.values() for step in points})
    return [(step, [points.get(step) for points in values.values()]) for step in steps]


def _csv(found: Mapping[str, MetricSeries]) -> None:
    written = csv.writer(sys.stdout, lineterminator="\n")
    written.writerow(["step", *map(one_line, found)])
    for step, values in by_step(found):
        written.writerow([step, *("" if value is None else repr(value) for value in values)])


def _plots(console: Console, found: Mapping[str, MetricSeries]) -> None:
    for name, series in found.items():
        values = [value for _, value, _ in series.points]
        finite = [value for value in values if value == value and abs(value) != float("inf")]
        steps = f"steps {series.points[0][0]} to {series.points[-1][0]}" if series.points else "no points"
        console.print(Text(f"{one_line(name)}  last {number(values[-1]) if values else '-'}  {steps}", style="bold"))
        edges = {0: max(finite, default=None), PLOT_HEIGHT - 1: min(finite, default=None)}
        for at, row in enumerate(plot(values, PLOT_WIDTH, PLOT_HEIGHT)):
            edge = edges.get(at)
            console.print(Text.assemble(f"{'' if edge is None else number(edge):>10} ", (row, "magenta")))


def events(
    context: typer.Context,
    job_id: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Follow until the job has finished.")] = False,
    type_: Annotated[list[str] | None, typer.Option("--type", help="Only this type; may be repeated.")] = None,
    json: Json = False,
) -> None:
    """Print what happened to a job, one line for each event. With --json: one object for each line."""
    with session_of(context).client() as client:
        job_id = job_id_of(client, job_id)
        with detaching(job_id, f"tapeworks events --follow {job_id}"):
            for event in client.events(job_id, follow=follow):
                if not type_ or event.type in type_:
                    show_json_line(event) if json else typer.echo(event_line(event))


def event_line(event: Event) -> str:
    """`12:03:04  1  epoch  epoch=2 step=90 …`: the time of day in UTC, the attempt, the type, the data."""
    words = (f"{name}={_compact(value)}" for name, value in event.data.items() if value is not None)
    return one_line("  ".join([f"{event.at:%H:%M:%S}", str(event.attempt), event.type, " ".join(words)]).rstrip())


def _compact(value: object) -> str:
    return number(value) if isinstance(value, float) else value_text(value)


def artifacts(
    context: typer.Context,
    job_id: JobId,
    name: Annotated[
        str | None, typer.Argument(help="Download this file: its path, or the end of it.", show_default=False)
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file or folder to write to.")] = Path("."),
    json: Json = False,
) -> None:
    """List the files that a job left, or download one."""
    if not output.parent.is_dir():
        raise typer.BadParameter(f"folder not found: {str(output.parent)!r}", param_hint="--output")
    with session_of(context).client() as client:
        job_id = job_id_of(client, job_id)
        found = client.artifacts(job_id)
        if name is None:
            _list(found, json=json)
            return
        path = artifact_path_of(found, job_id, name)
        file = client.download_artifact(job_id, path, output)
    if json:
        show_json({"job_id": job_id, "artifact": path, "path": str(file), "bytes": file.stat().st_size})
    else:
        typer.echo(one_line(str(file)))


def _list(found: Sequence[Artifact], *, json: bool) -> None:
    columns = {
        "PATH": lambda one: one_line(one.path),
        "BYTES": lambda one: f"{one.bytes:,}",
        "CREATED": lambda one: f"{age(one.created_at)} ago",
    }
    show_list(found, columns, json=json)
