"""One runner and what passes between it and its agent.

`Relay.run` starts the runner, relays its frames until it ends, and says how it ended. Records and
lines of output go to `keep`; checkpoints to a queue, opened at once so that the runner may remove
their names. `certify` asks for the verification of the bundle (`verification.py`), `verify` for the test of a
checkpoint in a fresh process; the answer goes back. `stop` kills the runner and its verifiers; `command` tells it
something. Frames are typed (`messages`), counted and paced (`report_quota`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from tapeworks.errors import FailureCode, JobFailure
from tapeworks.schemas.jobs import State
from tapeworks.schemas.worker_protocol import CommandName
from tapeworks_workers.agent.checkpoint_queue import CheckpointFile, CheckpointQueue
from tapeworks_workers.agent.execution_environment import ExecutionEnvironment
from tapeworks_workers.agent.report_quota import ReportQuota
from tapeworks_workers.processes import frames
from tapeworks_workers.processes.children import Child, read_body
from tapeworks_workers.processes.launcher import LaunchFailed
from tapeworks_workers.processes.messages import (
    CertifyFrame,
    CheckpointFrame,
    CommandFrame,
    FinishFrame,
    InvalidFrame,
    RecordFrame,
    Reply,
    StartFrame,
    VerifierAnswer,
    VerifyFrame,
    parse,
)
from tapeworks_workers.processes.output_lines import Output
from tapeworks_workers.safe_files import UnsafePath, open_beneath
from tapeworks_workers.verification.verification import BundleVerification
from tapeworks_workers.verification.verifier_process import answer_of, end, refused, settle

LEAVE_SECONDS = 10.0
"""From a runner's last frame until its process must be gone."""
_STATES = frozenset(State)
_FOLDER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")

Record = Mapping[str, Any]
log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class RunnerExit:
    """How a runner ended: its last frame, or its exit status where it sent none."""

    finish: FinishFrame | None
    status: int
    out_of_memory: bool
    tail: tuple[str, ...]


@dataclass
class Relay:
    """The runner of one attempt."""

    place: ExecutionEnvironment
    keep: Callable[[Record], None]
    verify_seconds: float
    verification: BundleVerification | None = None
    """Of the bundle, where the job exports one; known once the place is settled."""
    quota: ReportQuota = field(default_factory=ReportQuota)
    room: Callable[[], Awaitable[None]] | None = None
    """Waits while too many records are on their way: the runner waits with us."""
    checkpoints: CheckpointQueue = field(default_factory=CheckpointQueue)
    state: State = State.STARTING
    phase: str | None = None
    _writer: asyncio.StreamWriter | None = None
    _finish: FinishFrame | None = None
    _stopped: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, start: StartFrame) -> RunnerExit:
        """Start the runner, send it `start`, and relay until it ends. Raises LaunchFailed."""
        kills = self.place.oom_kills()
        output = Output(self.keep)
        place = self.place
        child = await place.launcher.runner(environment=place.environment, folder=place.folder)
        place.started(child.handle)
        try:
            async with asyncio.TaskGroup() as group:
                printing = [
                    group.create_task(output.relay(child.stdout, "stdout")),
                    group.create_task(output.relay(child.stderr, "stderr")),
                ]
                stopping = group.create_task(self._kill_when_stopped(child))
                await self._relay(child, start, group)
                status = await _leave(child)
                stopping.cancel()
                await settle(printing)
        finally:
            await end(child)
        out_of_memory = status == -9 and self.place.oom_kills() > kills
        return RunnerExit(self._finish, status, out_of_memory, tuple(output.tail))

    def command(self, name: CommandName) -> bool:
        """Tell the runner; whether there is one to tell."""
        if self._writer is None or self._writer.is_closing():
            return False
        self._write(CommandFrame(command=name))
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
        self.checkpoints.close()

    async def _kill_when_stopped(self, child: Child) -> None:
        await self._stopped.wait()
        child.handle.kill_group()

    async def _relay(self, child: Child, start: StartFrame, group: asyncio.TaskGroup) -> None:
        reader, self._writer = await asyncio.open_unix_connection(sock=child.sock)
        closing = asyncio.create_task(child.close_when_gone(self._writer))
        verifying: set[asyncio.Task[None]] = set()
        try:
            self._write(start)
            while self._finish is None and (body := await read_body(reader)) is not None:
                await self._pace(len(body))
                try:
                    frame = parse(body)
                except InvalidFrame as error:
                    self.quota.count("invalid_frames")
                    self.keep(note(f"the runner sent a frame that is not valid: {str(error)[:500]}"))
                    continue
                if isinstance(frame, CertifyFrame | VerifyFrame):
                    self.quota.count("verifications")
                    verifying.add(group.create_task(self._answer(frame)))
                else:
                    self._take(frame)
                await self._writer.drain()
        except frames.FrameError as error:
            raise JobFailure(FailureCode.QUOTA_EXCEEDED, f"the runner sent {error}", retryable=False) from error
        except ConnectionError as error:
            log.warning("the runner's frames cannot be read", error=str(error))
            child.handle.kill_group()
        finally:
            closing.cancel()
            for task in verifying:
                task.cancel()
            self._writer.close()
            if self.verification is not None:
                self.verification.close()

    async def _pace(self, size: int) -> None:
        """A runner that reports faster than it may, or than its records are stored, waits."""
        await self.quota.pace(size)
        if self.room is not None:
            await self.room()

    def _write(self, message: StartFrame | CommandFrame | Reply) -> None:
        if self._writer is not None:
            self._writer.write(frames.encode(message.document(), limit=frames.MAX_MESSAGE_BYTES))

    def _take(self, frame: RecordFrame | CheckpointFrame | FinishFrame) -> None:
        if isinstance(frame, CheckpointFrame):
            self.quota.count("checkpoints")
            self._take_checkpoint(frame)
        elif isinstance(frame, FinishFrame):
            self._finish = frame
        else:
            self._take_record(frame.record)

    def _take_record(self, record: dict[str, Any]) -> None:
        state, phase = record.get("state"), record.get("phase")
        if record.get("record") == "state" and isinstance(state, str) and state in _STATES:
            self.state, self.phase = State(state), phase if isinstance(phase, str) else None
            if self.state is State.EXPORTING and self.verification is not None:
                self.verification.hold()
        self.keep(record)

    def _take_checkpoint(self, frame: CheckpointFrame) -> None:
        try:
            file = open_beneath(self.place.folder, frame.path)
        except UnsafePath as error:
            self.keep(note(f"a checkpoint could not be received: {error}"))
            return
        parts = frame.model_dump(exclude={"type"})
        superseded = self.checkpoints.put(CheckpointFile(file, **parts))
        if superseded is not None:
            self.keep(note(f"The checkpoint of step {superseded.step} was not uploaded: newer ones had been written."))

    # ── verification ─────────────────────────────────────────────────────────────────────────────

    async def _answer(self, request: CertifyFrame | VerifyFrame) -> None:
        answer = await (self._certify() if isinstance(request, CertifyFrame) else self._verify(request))
        self._write(answer.reply_to(request.id))

    async def _certify(self) -> VerifierAnswer:
        if self.verification is None:
            return refused(FailureCode.INTERNAL, "this job exports no bundle that could be verified")
        return await self.verification.run()

    async def _verify(self, request: VerifyFrame) -> VerifierAnswer:
        """Test a checkpoint for the runner: what it makes of the answer is a diagnostic of its own."""
        which, folder, place = request.verifier, request.bundle, self.place
        if which != "resume" or not _FOLDER.fullmatch(folder):
            return refused(FailureCode.INTERNAL, f"no verifier {which!r} of {folder!r}")
        try:
            child = await place.launcher.verifier(
                which, {"bundle": str(place.folder / folder)}, environment=place.environment, folder=place.folder
            )
        except LaunchFailed as error:
            return refused(FailureCode.WORKER_LOST, f"the verifier {which!r} could not be started: {error}")
        place.started(child.handle)
        return await answer_of(child, which, keep=self.keep, seconds=self.verify_seconds, oom_kills=place.oom_kills)


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
