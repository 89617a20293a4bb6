"""Processes with TensorFlow in them, as the agent sees them: what they do, their channels, their environment.

`ChildTask` says what a process does, `Child` is the process: its handle, its frame socket and its output.
`start_base` starts `base.py`, as a zygote or for one piece of work; `ChildPipes` are the channels that a
child is given.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tapeworks.schemas.report_limits import MAX_FRAME_BYTES
from tapeworks_workers.processes import frames
from tapeworks_workers.processes.handles import Handle, Process

BASE = Path(__file__).with_name("base_zygote.py")
LAST_WORDS_SECONDS = 2.0
"""What a process that has ended wrote is read for so long."""


@dataclass(frozen=True)
class ChildTask:
    """What a child does: see `base.py` for the fields of its request."""

    target: str
    arguments: dict[str, Any] = field(default_factory=dict)
    frame: bool = False
    held: bool = False
    bar: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None

    def request(self) -> dict[str, Any]:
        """The request that a zygote takes."""
        return {
            "target": self.target,
            "arguments": self.arguments,
            "frame": self.frame,
            "held": self.held,
            "bar": self.bar,
            "path": [] if self.bar else [entry for entry in sys.path if entry],
            "environment": dict(self.environment),
            "folder": str(self.folder) if self.folder else None,
        }


_ending: set[asyncio.Future[int]] = set()
"""Discarded processes that have not ended yet."""


@dataclass
class Child:
    """A process of ours, its frame socket, and the reading ends of its output."""

    handle: Process
    sock: socket.socket
    stdout: int
    stderr: int

    def close(self) -> None:
        """Close our ends of its channels."""
        self.sock.close()
        os.close(self.stdout)
        os.close(self.stderr)

    def discard(self) -> None:
        """End a process that nobody needs. It is waited for in the background: until then its descriptors stay open."""
        self.handle.kill_group()
        self.close()
        ending = asyncio.ensure_future(self.handle.wait())
        _ending.add(ending)
        ending.add_done_callback(_ending.discard)

    def begin(self) -> None:
        """Let a process that is `held` do its work. One that has ended already has said why: `result` tells."""
        with suppress(BrokenPipeError):
            self.sock.send(b"g")

    async def result(self, *, limit: int = MAX_FRAME_BYTES) -> dict[str, Any] | None:
        """The one frame that a process with `frame` sends; None where it ended without one.

        Raises FrameError where it sends something else, or more bytes than the limit."""
        reader, writer = await asyncio.open_unix_connection(sock=self.sock)
        closing = asyncio.create_task(self.close_when_gone(writer))
        try:
            return await read_frame(reader, limit=limit)
        finally:
            closing.cancel()
            writer.close()

    async def close_when_gone(self, writer: asyncio.StreamWriter) -> None:
        """Close a channel some moments after the process has ended: what it started may hold the other end open."""
        await self.handle.wait()
        await asyncio.sleep(LAST_WORDS_SECONDS)
        writer.close()


async def read_body(reader: asyncio.StreamReader, *, limit: int = MAX_FRAME_BYTES) -> bytes | None:
    """The next frame's bytes, or None at the end of the stream, in the middle of a frame too.

    Raises FrameError above the limit: then nothing that follows can be read."""
    try:
        (length,) = frames.HEADER.unpack(await reader.readexactly(frames.HEADER.size))
        if length > limit:
            raise frames.FrameError(f"a frame of {length} bytes was announced, at most {limit} are allowed")
        return await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionResetError):
        return None


async def read_frame(reader: asyncio.StreamReader, *, limit: int = MAX_FRAME_BYTES) -> frames.Message | None:
    """The next message, or None at the end of the stream. Raises FrameError."""
    body = await read_body(reader, limit=limit)
    if body is None:
        return None
    if limit <= MAX_FRAME_BYTES:
        frames.check_structure(body)
    return await asyncio.to_thread(frames.decode, body)


def clean_environment() -> dict[str, str]:
    """The environment of every process with TensorFlow in it: ours without Tapeworks' settings, keys among them.

    TensorFlow's own log is off by default: without a GPU each process would report an error of CUDA's. oneDNN is on:
    TensorFlow leaves it off on processors without AVX-512, where convolutions and attention gain half as much again.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TAPEWORKS_")}
    kept.pop("TF_USE_LEGACY_KERAS", None)
    defaults = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "1"}
    return {**defaults, **kept, "KERAS_BACKEND": "tensorflow", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}


class DeathPipe:
    """The pipe whose end tells every descendant that the agent is gone."""

    def __init__(self) -> None:
        self.reading, self._writing = os.pipe()

    def close(self) -> None:
        """End what still holds on to it."""
        os.close(self.reading)
        os.close(self._writing)


def start_base(lifeline: DeathPipe, arguments: Sequence[str], inherited: Sequence[int]) -> Handle:
    """Start `base.py` as a plain child that inherits these descriptors, under their numbers, and nothing else."""
    command = [sys.executable, "-I", str(BASE), "--agent", str(os.getpid()), "--lifeline", str(lifeline.reading)]
    return start([*command, *arguments], [lifeline.reading, *inherited], clean_environment())


def start(
    command: Sequence[str], descriptors: Sequence[int], environment: Mapping[str, str], *, output: int | None = None
) -> Handle:
    """Start a program in a session of its own, with these descriptors; `output`: where it writes what it prints."""
    actions: list[tuple[Any, ...]] = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
    if output is not None:
        actions += [(os.POSIX_SPAWN_DUP2, output, stream) for stream in (1, 2)]
    for descriptor in descriptors:
        os.set_inheritable(descriptor, True)
    try:
        pid = os.posix_spawn(command[0], list(command), dict(environment), file_actions=actions, setsid=True)
    finally:
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
    return Handle(pid)


@dataclass
class ChildPipes:
    """The three channels of a child to be: our ends, and the ones it is given."""

    ours: socket.socket
    theirs: socket.socket
    stdout: tuple[int, int]
    stderr: tuple[int, int]

    @classmethod
    def open(cls) -> ChildPipes:
        """A socket pair and two pipes."""
        ours, theirs = socket.socketpair()
        return cls(ours, theirs, os.pipe(), os.pipe())

    def given(self) -> list[int]:
        """The descriptors that the child is given: socket, stdout, stderr."""
        return [self.theirs.fileno(), self.stdout[1], self.stderr[1]]

    def child(self, handle: Process) -> Child:
        """The child that holds the other ends."""
        return Child(handle, self.ours, self.stdout[0], self.stderr[0])

    def close_given(self) -> None:
        """The child has them, or there is none."""
        self.theirs.close()
        os.close(self.stdout[1])
        os.close(self.stderr[1])

    def close_ours(self) -> None:
        """There is no child."""
        self.ours.close()
        os.close(self.stdout[0])
        os.close(self.stderr[0])
