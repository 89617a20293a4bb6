"""A progress bar for what goes up; nothing of it where standard error is no terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from tapeworks.cli.console import err
from tapeworks.client import uploads


@contextmanager
def sending(what: str) -> Iterator[uploads.Progress]:
    """Shows a bar while the block runs; gives what an upload tells its progress to."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = err()
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
