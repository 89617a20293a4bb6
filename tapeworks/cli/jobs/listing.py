"""`tapeworks jobs`: the list, filtered by the service, sorted and filtered by metric here.

A metric is no column of the service's tables: with `--sort` or `--where` the newest `MOST_READ` jobs are read that the
other filters leave.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated

import typer
from rich.text import Text

from tapeworks.cli.console import Json, err, labels, one_line, out, session_of, show_json, table
from tapeworks.cli.jobs.progress import age, duration, number
from tapeworks.cli.jobs.report import device, elapsed
from tapeworks.schemas.jobs import Job, JobKind, State

MOST_READ = 1000
_COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, "<=": operator.le, "!=": operator.ne, "==": operator.eq, "=": operator.eq,
    ">": operator.gt, "<": operator.lt,
}  # fmt: skip
_CONDITION = re.compile(r"\s*(.+?)\s*(>=|<=|!=|==|=|>|<)\s*(\S+)\s*")
_TEXTS: Mapping[str, Callable[[Job], str | None]] = {
    "name": lambda job: job.name,
    "state": lambda job: job.state.value,
    "owner": lambda job: job.owner,
}
_NUMBERS: Mapping[str, Callable[[Job], float | None]] = {
    "created": lambda job: job.created_at.timestamp(),
    "duration": elapsed,
    "step": lambda job: job.progress.step,
    "epoch": lambda job: job.progress.epoch,
    "priority": lambda job: job.priority,
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(jobs)


def jobs(
    context: typer.Context,
    state: Annotated[list[State] | None, typer.Option(help="Only jobs in this state; may be repeated.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="Only jobs with this label, KEY=VALUE.")] = None,
    name: Annotated[str | None, typer.Option(help="Only jobs of this name.")] = None,
    kind: Annotated[JobKind, typer.Option(help="Only jobs of this kind.")] = JobKind.TRAIN,
    owner: Annotated[str | None, typer.Option(help="Only jobs that the key of this name submitted.")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(help="Only jobs with 'val_accuracy>0.9': a metric, duration, step or epoch; may be repeated."),
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(
            help="A metric, created, duration, name, owner, state, step, epoch or priority; -NAME: descending."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="The maximum number of jobs to list.")] = 20,
    json: Json = False,
) -> None:
    """List jobs, newest first."""
    conditions = [_condition(text) for text in where or ()]
    reads_all = bool(conditions) or sort is not None
    with session_of(context).client() as client:
        found = client.list(state=state or None, kind=kind.value, label=labels(label or []), name=name, owner=owner)
        shown = list(islice(found, MOST_READ + 1 if reads_all else limit))
    if len(shown) > MOST_READ:
        err().print(f"only the newest {MOST_READ} jobs were compared: narrow them with --state, --label or --name")
        shown = shown[:MOST_READ]
    for condition in conditions:
        _check_known(condition.name, shown, "--where")
    shown = [job for job in shown if all(condition.holds(job) for condition in conditions)]
    shown = (shown if sort is None else _sorted(shown, sort))[:limit]
    if json:
        show_json(shown)
        return
    _print(shown, [condition.name for condition in conditions] + ([sort.removeprefix("-")] if sort else []))


@dataclass(frozen=True)
class Condition:
    """A comparison that a job must satisfy."""

    name: str
    comparison: str
    bound: float

    def holds(self, job: Job) -> bool:
        """Whether the job has that value, and it compares so."""
        value = _value(job, self.name)
        return value is not None and _COMPARISONS[self.comparison](value, self.bound)


def _condition(text: str) -> Condition:
    parts = _CONDITION.fullmatch(text)
    try:
        if parts is not None:
            return Condition(parts[1], parts[2], float(parts[3]))
    except ValueError:
        pass
    raise typer.BadParameter(
        f"{text!r} is not a condition: write NAME, one of {' '.join(_COMPARISONS)}, and a number, such as "
        "'val_accuracy>0.9' (in quotes, because of the shell)", param_hint="--where",
    )  # fmt: skip


def _value(job: Job, name: str) -> float | None:
    """A metric's last value, or a field of that name."""
    if name in job.metrics:
        return job.metrics[name]
    return _NUMBERS[name](job) if name in _NUMBERS else None


def _check_known(name: str, found: Sequence[Job], option: str) -> None:
    """A name that no job has is a slip of the pen, not an empty list."""
    known = {metric for job in found for metric in job.metrics}
    if found and name not in known and name not in _NUMBERS:
        names = ", ".join(one_line(one) for one in sorted(known)) or "none yet"
        raise typer.BadParameter(f"none of these jobs has a metric {name!r}; they have: {names}", param_hint=option)


def _sorted(found: Sequence[Job], by: str) -> list[Job]:
    """By a field or a metric; what has no value, or NaN, comes last either way."""
    name, down = by.removeprefix("-"), by.startswith("-")
    if name in _TEXTS and not any(name in job.metrics for job in found):
        return _ordered(found, lambda job: _TEXTS[name](job) or None, down)
    _check_known(name, found, "--sort")
    return _ordered(found, lambda job: _finite_or_none(_value(job, name)), down)


def _finite_or_none(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def _ordered(found: Iterable[Job], key: Callable[[Job], str | float | None], down: bool) -> list[Job]:
    keyed = [(key(job), job) for job in found]
    present = [(value, job) for value, job in keyed if value is not None]
    present.sort(key=operator.itemgetter(0), reverse=down)
    return [job for _, job in present] + [job for value, job in keyed if value is None]


def _print(shown: Sequence[Job], extra: Sequence[str]) -> None:
    columns: dict[str, Callable[[Job], str]] = {
        "ID": lambda job: job.id,
        "NAME": lambda job: one_line(job.name or ""),
        "STATE": lambda job: job.state.value,
        "OWNER": lambda job: one_line(job.owner or ""),
        "STEP": _step,
        "LOSS": _metric_column("loss"),
        **{name: _metric_column(name) for name in extra if name not in {*_TEXTS, *_NUMBERS, "loss"}},
        "DURATION": lambda job: "" if (seconds := elapsed(job)) is None else duration(seconds),
        "DEVICE": device,
        "CREATED": lambda job: f"{age(job.created_at)} ago",
    }
    rows = table(*map(one_line, columns))
    for job in shown:
        rows.add_row(*(Text(text(job)) for text in columns.values()))
    out().print(rows)


def _step(job: Job) -> str:
    done = job.progress
    return f"{done.step}/{done.total_steps}" if done.total_steps else str(done.step or "")


def _metric_column(name: str) -> Callable[[Job], str]:
    return lambda job: number(job.metrics[name]) if name in job.metrics else ""
