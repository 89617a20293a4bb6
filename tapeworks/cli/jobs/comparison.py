"""`tapeworks compare`: jobs side by side, by the parameters that differ and the last value of each metric."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.text import Text

from tapeworks.cli.console import Json, one_line, out, session_of, show_json, table, value_text
from tapeworks.cli.jobs.progress import duration, number
from tapeworks.cli.jobs.report import elapsed
from tapeworks.cli.name_resolution import job_id_of
from tapeworks.schemas.jobs import Job, json_number

MOST_JOBS = 200
_SAME_JOB = ("name", "labels")
"""Fields of a spec that say which job it is."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(compare)


def compare(
    context: typer.Context,
    job_ids: Annotated[
        list[str],
        typer.Argument(metavar="ID…", help="Two or more jobs, by id, first characters or name.", show_default=False),
    ],
    json: Json = False,
) -> None:
    """Compare jobs: the parameters that differ, and the last value of each metric."""
    if not 2 <= len(job_ids) <= MOST_JOBS:
        raise typer.BadParameter(f"give 2 to {MOST_JOBS} jobs, got {len(job_ids)}", param_hint="ID")
    with session_of(context).client() as client:
        jobs = [client.get(job_id_of(client, one)) for one in job_ids]
    parameters = differing_parameters(jobs)
    metrics = {
        name: [job.metrics.get(name) for job in jobs] for name in sorted({m for job in jobs for m in job.metrics})
    }
    if json:
        shown = {
            name: [None if value is None else json_number(value) for value in row] for name, row in metrics.items()
        }
        show_json({"jobs": [job.id for job in jobs], "parameters": parameters, "metrics": shown})
        return
    rows = table("", *(one_line(job.name or job.id) for job in jobs))
    rows.add_row("id", *(job.id for job in jobs))
    rows.add_row("state", *(job.state.value for job in jobs))
    rows.add_row("duration", *("" if (s := elapsed(job)) is None else duration(s) for job in jobs))
    for name, values in parameters.items():
        rows.add_row(one_line(name), *(Text("" if value is None else one_line(value_text(value))) for value in values))
    for name, numbers in metrics.items():
        rows.add_row(Text(one_line(name), style="bold"), *("" if v is None else number(v) for v in numbers))
    out().print(rows)
    if not parameters:
        out().print("The specs of these jobs do not differ.")


def differing_parameters(jobs: Sequence[Job]) -> dict[str, list[Any]]:
    """Field of the spec, such as `data.pipeline.1.batch_size` → its value in each job (None: not there), where they
    differ. Name and labels are no parameters."""
    flat = [dict(_flattened({} if job.spec is None else job.spec.document())) for job in jobs]
    names = sorted({name for one in flat for name in one if name.partition(".")[0] not in _SAME_JOB})
    found = {name: [one.get(name) for one in flat] for name in names}
    return {name: values for name, values in found.items() if any(value != values[0] for value in values)}


def _flattened(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """A spec as path and value; a list of plain values is one value."""
    plain_list = isinstance(value, list) and not any(isinstance(one, (dict, list)) for one in value)
    if isinstance(value, (Mapping, list)) and value and not plain_list:
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for name, one in items:
            yield from _flattened(one, f"{path}.{name}".lstrip("."))
    else:
        yield path, value
