"""A process that forks for us, seen from the agent: `Zygote.launch` asks for a child and gives its channels.

Question and answer are datagrams (see `base.py`), one at a time. A zygote in a sandbox answers with descriptors of its
child, which cannot be waited for from here. What such a zygote answers may be anything: it is typed, bounded and
checked, and a zygote that answers something else is not asked again.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

from tapeworks_workers.processes.children import Child, ChildPipes, ChildTask
from tapeworks_workers.processes.handles import Handle, Process
from tapeworks_workers.processes.sandboxed_process import SandboxDescriptorRefused, SandboxedProcess

LOAD_SECONDS = 180.0
"""What importing TensorFlow, or all components, may take."""


class LaunchFailed(Exception):
    """No process could be started; the message says why."""


class NoAnswer(LaunchFailed):
    """A process gave no answer in time."""


class Zygote:
    """A process that forks for us. Its first datagram says that it is ready.

    `belongs`: of a zygote in a sandbox, whether a pid lives in that sandbox; None for one outside, which is trusted.
    """

    def __init__(
        self, handle: Process, control: socket.socket, *, belongs: Callable[[int], bool] | None = None
    ) -> None:
        self.handle = handle
        self._belongs = belongs
        self._control = control
        self._control.setblocking(False)
        self._one_at_a_time = asyncio.Lock()
        self._lost = False

    @property
    def alive(self) -> bool:
        """Whether it can be asked. A process's sockets close some moments before it has ended."""
        return not self._lost and self.handle.alive()

    async def answer(self, seconds: float = LOAD_SECONDS) -> dict[str, Any]:
        """Its next datagram. Raises LaunchFailed where it is gone, its class NoAnswer where none comes in time."""
        message, descriptors = await self._answer(seconds)
        _close(descriptors)
        return message

    async def _answer(self, seconds: float) -> tuple[dict[str, Any], list[int]]:
        """The next datagram and the descriptors that came with it."""
        try:
            async with asyncio.timeout(seconds):
                await _readable(self._control)
            data, descriptors, _, _ = socket.recv_fds(self._control, 1 << 17, 2, socket.MSG_CMSG_CLOEXEC)
        except TimeoutError:
            self._lost = True
            raise NoAnswer(f"the zygote did not respond in {seconds:g} s") from None
        except OSError as error:
            raise self._gone(error) from error
        try:
            answer = json.loads(data) if data else None
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            _close(descriptors)
            raise self._gone()
        return answer, descriptors

    async def fork(self, request: dict[str, Any], descriptors: Sequence[int]) -> Process:
        """Fork a child that is given these descriptors. Raises LaunchFailed."""
        async with self._one_at_a_time:
            try:
                socket.send_fds(self._control, [json.dumps(request).encode()], list(descriptors))
            except OSError as error:
                raise self._gone(error) from error
            answer, received = await self._answer(LOAD_SECONDS)
        if "error" in answer:
            _close(received)
            raise LaunchFailed(f"the zygote could not fork: {str(answer['error'])[:1000]}")
        if self._belongs is None:
            _close(received)
            return Handle(int(answer["pid"]))
        try:
            return SandboxedProcess.received(received, self._belongs)
        except SandboxDescriptorRefused as refused:
            self._lost = True
            raise LaunchFailed(f"the sandbox answered a fork with something else: {refused}") from refused

    async def launch(self, work: ChildTask) -> Child:
        """Fork a child with channels of its own. Raises LaunchFailed. Cancelled, the child is killed once it is known:
        question and answer must stay in step."""
        launching = asyncio.create_task(self._launch(work))
        try:
            return await asyncio.shield(launching)
        except asyncio.CancelledError:
            launching.add_done_callback(_discard)
            raise

    async def _launch(self, work: ChildTask) -> Child:
        ends = ChildPipes.open()
        try:
            return ends.child(await self.fork(work.request(), ends.given()))
        except BaseException:
            ends.close_ours()
            raise
        finally:
            ends.close_given()

    def _gone(self, error: OSError | None = None) -> LaunchFailed:
        self._lost = True
        return LaunchFailed(f"the zygote has ended{f': {error}' if error else ''}")

    async def close(self) -> None:
        """Let it end: its control socket closes. What it forked goes on."""
        self._control.close()
        try:
            async with asyncio.timeout(2):
                await self.handle.wait()
        except TimeoutError:
            self.handle.kill_group()
            await self.handle.wait()


async def _readable(sock: socket.socket) -> None:
    """Wait until a socket has something to read, or its end."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def tell() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(sock, tell)
    try:
        await ready
    finally:
        loop.remove_reader(sock)


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _discard(launching: asyncio.Task[Child]) -> None:
    """End a child that nobody waits for any more."""
    if launching.cancelled() or launching.exception() is not None:
        return
    launching.result().discard()
