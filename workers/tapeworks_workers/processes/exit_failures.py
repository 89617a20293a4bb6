"""Why an attempt ended, where its runner cannot say it: what its exit, the cgroup and the disk tell."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from pathlib import Path

from tapeworks.errors import FAILURES, FailureCode, JobFailure
from tapeworks.schemas.jobs import Failure, FailureLocation
from tapeworks_workers.safe_files import NO_SPACE

CGROUPS = Path("/sys/fs/cgroup")


def failure(
    code: FailureCode, message: str, *, hint: str | None = None, retryable: bool | None = None, tail: Iterable[str] = ()
) -> Failure:
    """A failure document; hint and retryable default to what the code says."""
    info = FAILURES[code]
    return Failure(
        code=code,
        message=message,
        hint=info.hint if hint is None else hint,
        retryable=info.retryable if retryable is None else retryable,
        traceback_tail="\n".join(tail) or None,
    )


def of_exception(error: JobFailure) -> Failure:
    """The document of a failure that was raised."""
    at = error.location
    return Failure(
        code=error.code,
        message=error.message,
        hint=error.hint,
        retryable=error.retryable,
        location=FailureLocation(file=at.file, line=at.line, component=at.component) if at else None,
    )


def of_disk(error: OSError) -> Failure:
    """The worker could not write or read its own folder."""
    code = FailureCode.STORAGE_FULL if error.errno in NO_SPACE else FailureCode.STORAGE_UNAVAILABLE
    return failure(code, f"the worker's folder: {error.strerror or error}")


def of_exit(status: int, *, out_of_memory: bool, tail: Iterable[str]) -> Failure:
    """A runner ended without its last word. `status` is negative for a signal; `tail`: its last lines on stderr."""
    if out_of_memory:
        return failure(
            FailureCode.OUT_OF_MEMORY, "the kernel killed the runner because memory was exhausted", tail=tail
        )
    if status >= 0:
        return failure(FailureCode.WORKER_LOST, f"the runner ended with status {status} and no result", tail=tail)
    return failure(FailureCode.WORKER_LOST, f"the runner was killed by {signal_name(-status)}", tail=tail)


def signal_name(number: int) -> str:
    """SIGKILL for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def oom_kills() -> int:
    """How many processes of our cgroup the kernel killed for memory; 0 where no cgroup tells."""
    for file in _counters():
        try:
            pairs = (line.split() for line in file.read_text().splitlines())
            return next(int(pair[1]) for pair in pairs if pair and pair[0] == "oom_kill")
        except (OSError, StopIteration):
            continue  # this hierarchy does not count, the other may
    return 0


def _counters() -> Iterable[Path]:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            yield CGROUPS / path.lstrip("/") / "memory.events"
            yield CGROUPS / "memory.events"
        elif "memory" in controllers.split(","):
            yield CGROUPS / "memory" / path.lstrip("/") / "memory.oom_control"
            yield CGROUPS / "memory" / "memory.oom_control"
