"""One runner and what passes between it and its agent.

`Relay.run` starts the runner, relays its frames until it ends, and says how it ended. Records and
lines of output go to `keep`; checkpoints to a queue, opened at once so that the runner may remove
their names. `certify` asks for the verification of the bundle (`verification.py`), `verify` for the test of a
checkpoint in a fresh process; the answer goes back. `stop` kills the runner and its verifiers; `command` tells it
something.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from tapeworks.errors import FailureCode
from tapeworks.jobs import State
from tapeworks_workers import endings, frames
from tapeworks_workers.files import OpenFile, UnsafePath, open_beneath
from tapeworks_workers.launcher import LaunchFailed
from tapeworks_workers.output import Output
from tapeworks_workers.place import Place
from tapeworks_workers.processes import Child, read_frame
from tapeworks_workers.verification import BundleVerification
from tapeworks_workers.verifier_process import answer_of, end, refused, settle

LEAVE_SECONDS = 10.0
"""From a runner's last frame until its process must be gone."""
_FOLDER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")

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
    verification: BundleVerification | None = None
    """Of the bundle, where the job exports one; known once the place is settled."""
    checkpoints: asyncio.Queue[CheckpointFile] = field(default_factory=asyncio.Queue)
    state: State = State.STARTING
    phase: str | None = None
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
                await settle(printing)
        finally:
            await end(child)
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
                if (asked := self._requests().get(str(message.get("type")))) is not None:
                    verifying.add(group.create_task(asked(message)))
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
            if self.verification is not None:
                self.verification.close()

    def _requests(self) -> dict[str, Callable[[dict[str, Any]], Coroutine[Any, Any, None]]]:
        return {"certify": self._certify, "verify": self._verify}

    def _take(self, message: dict[str, Any]) -> None:
        kind = message.get("type")
        if kind == "record" and isinstance(message.get("record"), dict):
            record = message["record"]
            if record.get("record") == "state" and record.get("state") in set(State):
                self.state, self.phase = State(record["state"]), record.get("phase")
                if self.state is State.EXPORTING and self.verification is not None:
                    self.verification.hold()
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

    async def _certify(self, message: dict[str, Any]) -> None:
        if self.verification is None:
            answer = refused(FailureCode.INTERNAL, "this job exports no bundle that could be verified")
        else:
            answer = await self.verification.run()
        self._reply(message, answer)

    async def _verify(self, message: dict[str, Any]) -> None:
        """Test a checkpoint for the runner: what it makes of the answer is a diagnostic of its own."""
        which, folder = str(message.get("verifier")), str(message.get("bundle"))
        if which != "resume" or not _FOLDER.fullmatch(folder):
            answer = refused(FailureCode.INTERNAL, f"no verifier {which!r} of {folder!r}")
        else:
            place = self.place
            try:
                child = await place.launcher.verifier(
                    which, {"bundle": str(place.folder / folder)}, environment=place.environment, folder=place.folder
                )
                answer = await answer_of(child, which, keep=self.keep, seconds=self.verify_seconds)
            except LaunchFailed as error:
                answer = refused(FailureCode.WORKER_LOST, f"the verifier {which!r} could not be started: {error}")
        self._reply(message, answer)

    def _reply(self, message: dict[str, Any], answer: dict[str, Any]) -> None:
        if self._writer is not None:
            self._writer.write(frames.encode({**answer, "reply": message.get("id")}))


def note(message: str) -> dict[str, Any]:
    """A record that tells something in words."""
    return {"record": "event", "type": "note", "data": {"message": message}}


def diagnostic(code: FailureCode, message: str) -> dict[str, Any]:
    """A record of something wrong that does not end the job."""
    return {"record": "event", "type": "diagnostic", "data": {"code": code.value, "message": message}}


async def _leave(child: Child) -> int:
    """The exit status; a process that said its last word and stays is killed."""
    try:
        async with asyncio.timeout(LEAVE_SECONDS):
            return await child.handle.wait()
    except TimeoutError:
        child.handle.kill_group()
        return await child.handle.wait()
