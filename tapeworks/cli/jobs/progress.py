"""How a running job looks: a block that rich redraws on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tapeworks.cli.console import one_line
from tapeworks.schemas.jobs import Job, State

_BARS = "▁▂▃▄▅▆▇█"
_STYLES = {State.SUCCEEDED: "green", State.FAILED: "red", State.CANCELLED: "yellow"}
_WIDTH = 40

Show = Callable[[Job], None]


@contextmanager
def display(console: Console, losses: Iterable[float] = ()) -> Iterator[Show]:
    """Something that shows a job each time it has changed. `losses`: what was reported before."""
    curve = list(losses)
    if not console.is_terminal:
        yield _lines(console)
        return
    with Live(console=console, auto_refresh=False, transient=False) as live:
        seen = -1

        def show(job: Job) -> None:
            nonlocal seen
            if "loss" in job.metrics and job.progress.step != seen:
                seen = job.progress.step
                curve.append(job.metrics["loss"])
            live.update(block(job, curve), refresh=True)

        yield show


def _lines(console: Console) -> Show:
    shown: tuple[object, ...] = ()

    def show(job: Job) -> None:
        nonlocal shown
        now = (job.attempt, job.state, job.phase, job.progress.epoch, job.unschedulable, job.waiting_for)
        if now != shown:
            console.print(Text(line(job)))
            shown = now

    return show


def headline(job: Job) -> Text:
    """The name of a job, or its id, and its state in the state's colour."""
    return Text.assemble(
        (one_line(job.name or job.id), "bold"), "  ", (job.state.value, _STYLES.get(job.state, "cyan"))
    )


def line(job: Job) -> str:
    """A job in one line: state, progress, last metrics."""
    words = [job.id, job.state.value]
    if job.phase:
        words.append(job.phase)
    if job.progress.step:
        words.append(progress_words(job))
    words += [f"{one_line(name)}={number(value)}" for name, value in job.metrics.items()]
    if job.waiting_for:
        words.append(f"waits for {', '.join(job.waiting_for)}")
    if job.unschedulable is not None:
        words.append(f"waits: {job.unschedulable.reason}")
    if job.failure is not None:
        words.append(f"{job.failure.code.value}: {job.failure.message}")
    return "  ".join(words)


def block(job: Job, losses: list[float]) -> RenderableType:
    """A job in a few lines: state, bar and ETA, metrics, the curve of the loss."""
    head = headline(job)
    for word in (job.phase, f"attempt {job.attempt}" if job.attempt > 1 else None, job.worker):
        if word:
            head.append(f"  {word}", style="dim")
    parts: list[RenderableType] = [head]
    if job.waiting_for:
        parts.append(Text(f"waits for {', '.join(job.waiting_for)}", style="yellow"))
    if job.unschedulable is not None:
        parts.append(Text(job.unschedulable.reason, style="yellow"))
    if job.progress.step:
        row = Table.grid(padding=(0, 1))
        total = job.progress.total_steps
        row.add_row(
            ProgressBar(total=total, completed=min(job.progress.step, total or 0), width=_WIDTH), progress_words(job)
        )
        parts.append(row)
    if job.metrics:
        parts.append(Text("  ".join(f"{one_line(name)} {number(value)}" for name, value in job.metrics.items())))
    if len(losses) > 1:
        parts.append(Text(f"loss {sparkline(losses)}", style="magenta"))
    if job.failure is not None:
        parts.append(Text(f"{job.failure.code.value}: {job.failure.message}", style="red"))
        parts.append(Text(job.failure.hint, style="dim"))
    return Group(*parts)


def sparkline(values: Sequence[float], width: int = _WIDTH) -> str:
    """The values as a row of bars of their own range, the last one exact; a value that is not finite is `×`."""
    (row,) = plot(values, width, 1)
    return row


def plot(values: Sequence[float], width: int, height: int) -> list[str]:
    """The same as bars over several rows, from the top; a value that is not finite is `×` in the lowest row."""
    every = max(1, math.ceil(len(values) / width))
    shown = values[::-1][::every][::-1]
    finite = [value for value in shown if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    steps = height * len(_BARS) - 1
    scale = steps / (high - low) if high > low else 0.0
    levels = [round((value - low) * scale) if math.isfinite(value) else None for value in shown]
    return [
        "".join(_bar(level, row * len(_BARS), lowest=row == 0) for level in levels) for row in reversed(range(height))
    ]


def _bar(level: int | None, base: int, *, lowest: bool) -> str:
    """What a row that begins at `base` shows of a bar of this height."""
    if level is None:
        return "×" if lowest else " "
    return _BARS[min(level - base, len(_BARS) - 1)] if level >= base else " "


def number(value: Any) -> str:
    """Four significant digits; all digits of a whole number below a million."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if float(value).is_integer() and abs(value) < 1e6:
        return str(int(value)) if isinstance(value, int) else f"{value:g}"
    return f"{value:.4g}"


def duration(seconds: float) -> str:
    """`42 s`, `3:05`, `1:02:09`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def about(seconds: float) -> str:
    """A time left in steps that do not flicker: `about 45 s`, `about 3:10`, `about 1:02:00`; the page has the same."""
    if seconds < 5:
        return "a few seconds"
    if seconds < 60:
        return f"about {duration(math.ceil(seconds / 5) * 5)}"
    grain = 10 if seconds < 600 else 60
    return f"about {duration(math.floor(seconds / grain + 0.5) * grain)}"


def age(at: datetime) -> str:
    """How long ago."""
    return duration(max(0.0, (datetime.now(UTC) - at).total_seconds()))


def progress_words(job: Job) -> str:
    """Step, epoch, speed and, while it runs, the time left."""
    done = job.progress
    words = [f"step {done.step}" + (f"/{done.total_steps}" if done.total_steps else "")]
    if done.epochs:
        words.append(f"epoch {done.epoch}/{done.epochs}")
    if done.examples_per_second:
        words.append(f"{done.examples_per_second:,.0f} examples/s")
    if done.eta_seconds is not None and not job.finished:
        words.append(f"ETA {about(done.eta_seconds)}")
    return "  ".join(words)
