"""One runner and what passes between it and its agent.

`Relay.run` starts the runner, relays its frames until it ends, and says how it ended. Records and
lines of output go to `keep`; checkpoints to a queue, opened at once so that the runner may remove
their names; verify requests to a fresh process, whose answer goes back. `stop` kills the runner and
its verifiers; `command` tells it something.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from tapeworks.errors import FailureCode
from tapeworks.jobs import State
from tapeworks_workers import endings, frames
from tapeworks_workers.files import OpenFile, UnsafePath, open_beneath
from tapeworks_workers.launcher import VERIFIERS, LaunchFailed
from tapeworks_workers.output import Output
from tapeworks_workers.place import Place
from tapeworks_workers.processes import Child, read_frame

LEAVE_SECONDS = 10.0
"""From a runner's last frame until its process must be gone."""
OUTPUT_SECONDS = 2.0
"""From a process's end until its pipes are given up: something that it started may hold them open."""
_BUNDLE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")

Record = Mapping[str, Any]
log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class CheckpointFile:
    """A checkpoint that the runner wrote: its announcement, and the open file."""

    file: OpenFile
    path: str
    step: int
    epoch: int
    metrics: dict[str, Any]
    best: bool


@dataclass(frozen=True)
class Ended:
    """How a runner ended: its last frame, or its exit status where it sent none."""

    finish: dict[str, Any] | None
    status: int
    out_of_memory: bool
    tail: tuple[str, ...]


@dataclass
class Relay:
    """The runner of one attempt."""

    place: Place
    keep: Callable[[Record], None]
    verify_seconds: float
    checkpoints: asyncio.Queue[CheckpointFile] = field(default_factory=asyncio.Queue)
    state: State = State.STARTING
    phase: str | None = None
    _held: dict[str, asyncio.Task[Child]] = field(default_factory=dict)
    """Verifiers that have loaded what they need and wait for the bundle."""
    _writer: asyncio.StreamWriter | None = None
    _finish: dict[str, Any] | None = None
    _stopped: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, start: Mapping[str, Any]) -> Ended:
        """Start the runner, send it `start`, and relay until it ends. Raises LaunchFailed."""
        kills = endings.oom_kills()
        output = Output(self.keep)
        place = self.place
        child = await place.launcher.runner(environment=place.environment, folder=place.folder)
        try:
            async with asyncio.TaskGroup() as group:
                printing = [
                    group.create_task(output.relay(child.stdout, "stdout")),
                    group.create_task(output.relay(child.stderr, "stderr")),
                ]
                stopping = group.create_task(self._kill_when_stopped(child))
                await self._relay(child, dict(start), group)
                status = await _leave(child)
                stopping.cancel()
                await _settle(printing)
        finally:
            await _end(child)
        out_of_memory = status == -9 and endings.oom_kills() > kills
        return Ended(self._finish, status, out_of_memory, tuple(output.tail))

    def command(self, name: str) -> bool:
        """Tell the runner; whether there is one to tell."""
        if self._writer is None or self._writer.is_closing():
            return False
        self._writer.write(frames.encode({"type": "command", "command": name}))
        return True

    @property
    def finished(self) -> bool:
        """Whether the runner has said its last word."""
        return self._finish is not None

    def stop(self) -> None:
        """Kill the runner now, and its verifiers."""
        self._stopped.set()

    def close(self) -> None:
        """Close checkpoints that nobody uploaded."""
        while not self.checkpoints.empty():
            self.checkpoints.get_nowait().file.close()

    async def _kill_when_stopped(self, child: Child) -> None:
        await self._stopped.wait()
        child.handle.kill_group()

    async def _relay(self, child: Child, start: dict[str, Any], group: asyncio.TaskGroup) -> None:
        reader, self._writer = await asyncio.open_unix_connection(sock=child.sock)
        closing = asyncio.create_task(child.close_when_gone(self._writer))
        verifying: set[asyncio.Task[None]] = set()
        try:
            self._writer.write(frames.encode({"type": "start", **start}))
            while (message := await read_frame(reader)) is not None:
                if message.get("type") == "verify":
                    verifying.add(group.create_task(self._verify(message)))
                else:
                    self._take(message)
                await self._writer.drain()
        except (frames.FrameError, ConnectionError) as error:
            log.warning("the runner's frames cannot be read", error=str(error))
            child.handle.kill_group()
        finally:
            closing.cancel()
            for task in verifying:
                task.cancel()
            self._writer.close()
            for held in self._held.values():
                held.add_done_callback(_discard)

    def _take(self, message: dict[str, Any]) -> None:
        kind = message.get("type")
        if kind == "record" and isinstance(message.get("record"), dict):
            record = message["record"]
            if record.get("record") == "state" and record.get("state") in set(State):
                self.state, self.phase = State(record["state"]), record.get("phase")
                if self.state is State.EXPORTING:
                    self._hold_verifiers()
            self.keep(record)
        elif kind == "checkpoint":
            self._take_checkpoint(message)
        elif kind == "finish":
            self._finish = message
        else:
            log.warning("the runner sent a frame of unknown type", type=kind)

    def _take_checkpoint(self, message: dict[str, Any]) -> None:
        try:
            file = open_beneath(self.place.folder, str(message.get("path")))
        except UnsafePath as error:
            self.keep(note(f"a checkpoint could not be taken: {error}"))
            return
        self.checkpoints.put_nowait(
            CheckpointFile(
                file,
                path=str(message["path"]),
                step=int(message["step"]),
                epoch=int(message["epoch"]),
                metrics=dict(message.get("metrics") or {}),
                best=bool(message.get("best")),
            )
        )

    # ── verification ─────────────────────────────────────────────────────────────────────────────

    def _hold_verifiers(self) -> None:
        """Start them while the bundle is written."""
        for which in VERIFIERS:
            if which not in self._held:
                self._held[which] = asyncio.create_task(self._verifier(which, frames.BUNDLE))

    async def _verifier(self, which: str, bundle: str) -> Child:
        place = self.place
        return await place.launcher.verifier(
            which, place.folder / bundle, environment=place.environment, folder=place.folder
        )

    async def _verify(self, message: dict[str, Any]) -> None:
        which, bundle = str(message.get("verifier")), str(message.get("bundle"))
        if which not in {*VERIFIERS, "resume"} or not _BUNDLE.fullmatch(bundle):
            answer = _refused(FailureCode.INTERNAL, f"no verifier {which!r} of {bundle!r}")
        else:
            try:
                answer = await self._verified(which, bundle)
            except LaunchFailed as error:
                answer = _refused(FailureCode.WORKER_LOST, f"the verifier {which!r} could not be started: {error}")
        if self._writer is not None:
            self._writer.write(frames.encode({**answer, "reply": message.get("id")}))

    async def _verified(self, which: str, bundle: str) -> dict[str, Any]:
        """The answer of a verifier, or a failure that says how it ended without one."""
        kills = endings.oom_kills()
        held = self._held.pop(which, None) if bundle == frames.BUNDLE else None
        child = await (held or self._verifier(which, bundle))
        child.begin()
        lines = Output(self.keep)
        printing = [
            asyncio.create_task(lines.relay(child.stdout, "stdout")),
            asyncio.create_task(lines.relay(child.stderr, "stderr")),
        ]
        try:
            async with asyncio.timeout(self.verify_seconds):
                answer = await child.result()
                status = await child.handle.wait()
            await _settle(printing)
        except TimeoutError:
            return _refused(FailureCode.TIMEOUT, f"the verifier {which!r} took more than {self.verify_seconds:g} s")
        finally:
            for task in printing:
                task.cancel()
            await _end(child)
        if answer is not None:
            return answer
        ended = endings.of_exit(status, out_of_memory=status == -9 and endings.oom_kills() > kills, tail=lines.tail)
        return {"ok": False, "failure": ended.model_dump(mode="json")}


def note(message: str) -> dict[str, Any]:
    """A record that tells something in words."""
    return {"record": "event", "type": "note", "data": {"message": message}}


def diagnostic(code: FailureCode, message: str) -> dict[str, Any]:
    """A record of something wrong that does not end the job."""
    return {"record": "event", "type": "diagnostic", "data": {"code": code.value, "message": message}}


def _refused(code: FailureCode, message: str) -> dict[str, Any]:
    return {"ok": False, "failure": endings.failure(code, message).model_dump(mode="json")}


def _discard(held: asyncio.Task[Child]) -> None:
    """End a process that nobody needs any more."""
    if not held.cancelled() and held.exception() is None:
        held.result().discard()


async def _leave(child: Child) -> int:
    """The exit status; a process that said its last word and stays is killed."""
    try:
        async with asyncio.timeout(LEAVE_SECONDS):
            return await child.handle.wait()
    except TimeoutError:
        child.handle.kill_group()
        return await child.handle.wait()


async def _settle(printing: list[asyncio.Task[None]]) -> None:
    """Let the last lines come; then give the pipes up."""
    await asyncio.wait(printing, timeout=OUTPUT_SECONDS)
    for task in printing:
        task.cancel()


async def _end(child: Child) -> None:
    """Make sure that the process is gone, and what it started; also while this task is being cancelled."""
    child.handle.kill_group()
    try:
        await child.handle.wait()
    except asyncio.CancelledError:
        await child.handle.wait()  # killed: it takes a moment
        raise
