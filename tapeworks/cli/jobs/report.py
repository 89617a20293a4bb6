"""`tapeworks show`: one job as text: state, durations, metrics, certificate in words, failure with its hint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from tapeworks.cli.console import JobId, Json, one_line, out, session_of, show_json, table, value_text
from tapeworks.cli.jobs.certificate import sentences
from tapeworks.cli.jobs.progress import age, duration, headline, number, progress_words
from tapeworks.cli.jobs.validation_report import show_failure, show_result
from tapeworks.cli.name_resolution import job_id_of
from tapeworks.schemas.jobs import Job, JobKind, State


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(show)


def show(context: typer.Context, job_id: JobId, json: Json = False) -> None:
    """Show a job: state, durations, metrics, what its certificate says, and why it failed."""
    with session_of(context).client() as client:
        job = client.get(job_id_of(client, job_id))
    show_json(job) if json else _print(out(), job)


def elapsed(job: Job) -> float | None:
    """Seconds since the first start, to the end or to now; None where it has not started."""
    if job.started_at is None:
        return None
    return max(0.0, ((job.finished_at or datetime.now(UTC)) - job.started_at).total_seconds())


def device(job: Job) -> str:
    """What the newest attempt computes on: `NVIDIA H200`, `cpu`; empty before it is known."""
    known = job.lineage.get("device")
    if not isinstance(known, dict):
        return ""
    names = known.get("names")
    if known.get("kind") == "gpu" and isinstance(names, list) and names:
        first = str(names[0])
        return one_line(first if len(names) == 1 else f"{len(names)} × {first}")
    return one_line(str(known.get("kind", "")))


def _print(console: Console, job: Job) -> None:
    console.print(headline(job))
    rows = table("JOB", "")
    for name, value in _facts(job):
        rows.add_row(name, Text(value))
    console.print(rows)
    _metrics(console, job)
    if job.kind is JobKind.VALIDATE and job.result:
        show_result(console, job.result)
    if job.model is not None:
        console.print(Text("The exported model was loaded again and compared:", style="bold"))
        for sentence in sentences(job.model.verified):
            console.print(Text(f"  {one_line(sentence)}"))
        console.print(Text(f"model: tapeworks download {job.id}"))
    if job.failure is not None:
        show_failure(console, job.failure)
        if job.failure.traceback_tail:
            console.print(Text(job.failure.traceback_tail, style="dim"))
    if job.state is State.PAUSED:
        console.print(Text(f"continue with: tapeworks resume {job.id}"))


def _facts(job: Job) -> Iterator[tuple[str, str]]:
    """What there is to say, as name and value."""
    yield "id", job.id
    if job.requested.value != "none":
        yield "requested", job.requested.value
    if job.waiting_for:
        yield "waits for", ", ".join(job.waiting_for)
    if job.unschedulable is not None:
        yield "waits", one_line(job.unschedulable.reason)
    if job.owner:
        yield "owner", one_line(job.owner)
    if job.labels:
        yield "labels", one_line(", ".join(f"{key}={value}" for key, value in job.labels.items()))
    if job.priority:
        yield "priority", str(job.priority)
    yield "created", f"{job.created_at:%Y-%m-%d %H:%M:%S %Z}, {age(job.created_at)} ago"
    if (seconds := elapsed(job)) is not None:
        yield "duration", duration(seconds)
    if job.phase and not job.finished:
        yield "phase", job.phase
    if job.progress.step:
        yield "progress", progress_words(job)
    if job.worker:
        yield "worker", " on ".join(part for part in (one_line(job.worker), device(job)) if part)
    if job.attempt > 1 or job.failed_attempts:
        yield "attempt", f"{job.attempt} ({job.failed_attempts} failed, of at most {job.max_attempts})"
    if job.checkpoints.latest is not None:
        steps = [f"latest at step {job.checkpoints.latest.step}"]
        if job.checkpoints.best is not None:
            steps.append(f"best at step {job.checkpoints.best.step}")
        yield "checkpoints", ", ".join(steps)
    if job.model is not None:
        yield "model", f"{job.model.bytes:,} bytes: {', '.join(job.model.formats)}"
    for name, value in job.diagnostics.items():
        yield one_line(name.replace("_", " ")), one_line(value_text(value))


def _metrics(console: Console, job: Job) -> None:
    if not job.metrics:
        return
    rows = table("METRIC", "LAST")
    for name, value in job.metrics.items():
        rows.add_row(one_line(name), number(value))
    console.print(rows)
    if job.best:
        console.print(Text(f"best: {one_line(_words(job.best))}"))


def _words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {number(value) if isinstance(value, float) else value_text(value)}"
                     for name, value in values.items())  # fmt: skip
