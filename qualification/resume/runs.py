"""One setup trained in real runner processes: whole, and once more with a pause and a SIGKILL in between.

Runners are forked from a real zygote and talk frames, as under an agent. What is compared is the last checkpoint
(weights, optimizer, metrics, random streams, counters) and the metric series as a user reads it.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qualification.resume.setups import Setup
from tapeworks_workers.engine.checkpoints.files import opened
from tapeworks_workers.processes import frames
from tapeworks_workers.processes.children import Child, read_frame
from tapeworks_workers.processes.handles import become_subreaper
from tapeworks_workers.processes.launcher import ForkLauncher

PARTS = Path(__file__).with_name("parts.py")
SECONDS = 240.0
"""In which an attempt ends, or it hangs."""
Frame = dict[str, Any]


class Broken(Exception):
    """A job ended otherwise than it should."""


@dataclass
class Series:
    """The metric values of a job by name and step, the newest attempt's where steps were taken twice."""

    values: dict[tuple[str, int], Any] = field(default_factory=dict)

    def take(self, frame: Frame) -> None:
        record = frame.get("record", {})
        if record.get("record") == "metric":
            self.values |= {(name, record["step"]): value for name, value in record["values"].items()}


@dataclass
class Attempted:
    """One runner's frames, and the checkpoints that it announced, newest first."""

    outcome: str | None
    """None: it was killed."""
    frames: list[Frame]
    checkpoints: list[Path]
    step: int
    """The last step that it reported."""


class Runners:
    """The zygotes from which runners are forked; `with` starts and ends them."""

    def __enter__(self) -> Runners:
        become_subreaper()
        self._loop = asyncio.Runner()
        self._launcher = ForkLauncher()
        self._loop.run(self._launcher.start())
        self._loop.run(self._launcher.load([PARTS]))
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run(self._launcher.close())
        self._loop.close()

    def attempt(self, spec: Frame, folder: Path, **options: Any) -> Attempted:
        """One attempt in a runner of its own."""
        try:
            return self._loop.run(asyncio.wait_for(self._attempt(spec, folder, **options), SECONDS))
        except TimeoutError as error:
            raise Broken(f"the runner did not end within {SECONDS:g} s, {options}") from error

    async def _attempt(
        self, spec: Frame, folder: Path, *, number: int = 1, resume: list[Path] | None = None,
        pause_at: int | None = None, kill_at: int | None = None,
    ) -> Attempted:  # fmt: skip
        folder.mkdir(parents=True)
        child = await self._launcher.runner(environment={}, folder=folder)
        reader, writer = await asyncio.open_unix_connection(sock=child.sock)
        lease = {"kind": "train", "attempt": number, "spec": spec, "timeout_seconds": None}
        start = {"lease": lease, "folder": str(folder), "data_roots": [], "inputs": []}
        resumed = [{"path": str(path)} for path in resume or []]
        writer.write(frames.encode({"type": "start", **start, "resume": resumed}))
        done = Attempted(None, [], [], 0)
        try:
            while (frame := await read_frame(reader)) is not None:
                done.frames.append(frame)
                if frame["type"] == "finish":
                    done.outcome = frame["outcome"]
                    break
                done.step = max(done.step, _step(frame))
                if frame["type"] == "checkpoint":
                    done.checkpoints.insert(0, folder / frame["path"])
                if pause_at is not None and done.step >= pause_at:
                    writer.write(frames.encode({"type": "command", "command": "pause"}))
                    pause_at = None
                if kill_at is not None and done.step >= kill_at and done.checkpoints:
                    break
        finally:
            child.handle.kill_group()
            await child.handle.wait()
            writer.close()
            printed = _printed(child)
        if done.outcome is None and kill_at is None:
            raise Broken(f"the runner ended without a word: {printed}")
        return done


def _step(frame: Frame) -> int:
    record = frame.get("record", {})
    return int(record["step"]) if record.get("record") == "metric" else int(frame.get("step", 0))


def _printed(child: Child) -> str:
    """The end of what a process that has ended wrote to its standard error."""
    os.set_blocking(child.stderr, False)
    try:
        text = os.read(child.stderr, 1 << 20).decode(errors="replace")
    except BlockingIOError:
        text = ""
    os.close(child.stdout)
    os.close(child.stderr)
    return text[-2000:]


def check(setup: Setup, runners: Runners, *, say: Callable[[str], None] = lambda line: None) -> list[str]:
    """Train a setup whole and interrupted; what differs. Raises Broken where a job does not succeed."""
    with tempfile.TemporaryDirectory(prefix="resume-") as name:
        folder = Path(name)
        whole = runners.attempt(setup.spec, folder / "whole")
        _check_ended(whole, "succeeded")
        total = whole.step
        pause, kill = max(1, int(total * setup.pause)), max(2, int(total * setup.kill))
        attempts = [runners.attempt(setup.spec, folder / "1", pause_at=pause)]
        if attempts[-1].outcome == "paused":
            attempts.append(_next(setup, runners, folder, attempts, kill_at=kill))
        while attempts[-1].outcome in (None, "paused"):
            attempts.append(_next(setup, runners, folder, attempts))
        _check_ended(attempts[-1], "succeeded")
        say(", ".join(f"{one.outcome or 'killed'} after {one.step}" for one in attempts) + f" of {total} steps")
        return [*_differing(whole, attempts), *_differing_series([whole], attempts)]


def _next(setup: Setup, runners: Runners, folder: Path, attempts: list[Attempted], **options: Any) -> Attempted:
    kept = [path for attempt in reversed(attempts) for path in attempt.checkpoints if path.exists()]
    number = len(attempts) + 1
    return runners.attempt(setup.spec, folder / str(number), number=number, resume=kept, **options)


def _check_ended(attempt: Attempted, outcome: str) -> None:
    if attempt.outcome != outcome:
        raise Broken(f"{attempt.outcome}: {attempt.frames[-1].get('failure')}")


def _differing(whole: Attempted, attempts: list[Attempted]) -> list[str]:
    """The names of what the last checkpoints hold otherwise."""
    last = next(path for attempt in reversed(attempts) for path in attempt.checkpoints)
    with opened(whole.checkpoints[0]) as (expected, _), opened(last) as (got, _):
        names = [name for name in {**expected.values, **got.values} if not _same(expected.values, got.values, name)]
        counters = [f"counters/{key}" for key, value in expected.counters.items() if got.counters.get(key) != value]
    return names + counters


def _same(expected: Any, got: Any, name: str) -> bool:
    return name in expected and name in got and expected[name].tobytes() == got[name].tobytes()


def _differing_series(whole: list[Attempted], attempts: list[Attempted]) -> list[str]:
    series = []
    for one in (whole, attempts):
        series.append(Series())
        for frame in (frame for attempt in one for frame in attempt.frames):
            series[-1].take(frame)
    expected, got = (one.values for one in series)
    differing = [key for key in {**expected, **got} if expected.get(key) != got.get(key)]
    return [f"metric {name} at step {step}" for name, step in differing]
