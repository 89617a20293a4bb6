"""One verifier's process, from its begin to its answer, and the end of a process whatever it does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from tapeworks.errors import FailureCode
from tapeworks_workers.processes import exit_failures
from tapeworks_workers.processes.children import Child
from tapeworks_workers.processes.frames import FrameError
from tapeworks_workers.processes.messages import VerifierAnswer
from tapeworks_workers.processes.output_lines import Output

MAX_SAID = 2_000
"""Characters of an error in a verifier's answer, which may quote it."""
OUTPUT_SECONDS = 2.0
"""From a process's end until its pipes are given up: something that it started may hold them open."""


async def answer_of(
    child: Child,
    what: str,
    *,
    keep: Callable[[Mapping[str, Any]], None],
    seconds: float,
    oom_kills: Callable[[], int] = exit_failures.oom_kills,
) -> VerifierAnswer:
    """Let a held process do its work: its answer, or a failure that says how it ended without one.

    `keep` takes what it prints; `oom_kills` counts the kernel's kills for memory where it runs. The process is gone
    afterwards, after `seconds` at the latest.
    """
    kills = oom_kills()
    child.begin()
    lines = Output(keep)
    printing = [
        asyncio.create_task(lines.relay(child.stdout, "stdout")),
        asyncio.create_task(lines.relay(child.stderr, "stderr")),
    ]
    try:
        async with asyncio.timeout(seconds):
            answer = await child.result()
            status = await child.handle.wait()
        await settle(printing)
        if answer is not None:
            return VerifierAnswer.model_validate(answer)
    except (FrameError, ValidationError) as error:
        said = f"the verifier {what!r} sent a report that cannot be read: {error}"
        return refused(FailureCode.INTERNAL, said[:MAX_SAID])
    except TimeoutError:
        return refused(FailureCode.TIMEOUT, f"the verifier {what!r} took more than {seconds:g} s")
    finally:
        for task in printing:
            task.cancel()
        await end(child)
    ended = exit_failures.of_exit(status, out_of_memory=status == -9 and oom_kills() > kills, tail=lines.tail)
    return VerifierAnswer(ok=False, failure=ended)


def refused(code: FailureCode, message: str) -> VerifierAnswer:
    """The answer to a request that failed."""
    return VerifierAnswer(ok=False, failure=exit_failures.failure(code, message))


async def settle(printing: list[asyncio.Task[None]]) -> None:
    """Let the last lines come; then give the pipes up."""
    await asyncio.wait(printing, timeout=OUTPUT_SECONDS)
    for task in printing:
        task.cancel()


async def end(child: Child) -> None:
    """Make sure that the process is gone, and what it started; also while this task is being cancelled."""
    child.handle.kill_group()
    try:
        await child.handle.wait()
    except asyncio.CancelledError:
        await child.handle.wait()  # killed: it takes a moment
        raise


def discard(held: asyncio.Task[Child]) -> None:
    """End a process that nobody needs any more, once it has been started."""
    if not held.cancelled() and held.exception() is None:
        held.result().discard()
