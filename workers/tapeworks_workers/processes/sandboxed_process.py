"""A process in a sandbox, made from two descriptors that came out of it. Nothing that they claim is believed.

The first must be a pidfd of a process that lives in the sandbox, the second a pipe from which its exit status can be
read. Anything else is refused: a number is never taken for a pid, a socket or a file never for a pipe, and no read can
block the agent.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import stat
from collections.abc import Callable, Sequence

from tapeworks_workers.processes.handles import Process

STATUS_SECONDS = 5.0
"""How long the status of a process that has ended is waited for."""
_STATUS_BYTES = 20


class SandboxDescriptorRefused(Exception):
    """A sandbox passed something else than a process of its own; the message says what."""


class SandboxedProcess(Process):
    """A process in a sandbox, known by a pidfd; its status comes through a pipe from its parent there.

    Where no status comes the process counts as killed. What it started is ended by its parent there, and in the end
    by whoever clears the sandbox.
    """

    def __init__(self, pid: int, descriptor: int, status_pipe: int) -> None:
        super().__init__(pid, descriptor)
        self._status_pipe = status_pipe
        """Not blocking, opened by this process itself."""
        self._deadline: asyncio.TimerHandle | None = None

    @classmethod
    def received(cls, descriptors: Sequence[int], belongs: Callable[[int], bool]) -> SandboxedProcess:
        """Take over descriptors that a sandbox sent; they are closed where they are refused.

        `belongs`: whether a pid of this process's namespace lives in the sandbox. Raises SandboxDescriptorRefused.
        """
        kept: list[int] = []
        try:
            if len(descriptors) != 2:
                raise SandboxDescriptorRefused(f"two descriptors were expected, it passed {len(descriptors)}")
            pid = _pid_of(descriptors[0])
            if not belongs(pid):
                raise SandboxDescriptorRefused(f"process {pid} does not run in the sandbox")
            if not stat.S_ISFIFO(os.fstat(descriptors[1]).st_mode):
                raise SandboxDescriptorRefused("a pipe was expected for the exit status")
            # A description of our own: the flags of the one that was passed can be changed from inside.
            kept.append(os.open(f"/proc/self/fd/{descriptors[1]}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
            kept.append(os.dup(descriptors[0]))
            return cls(pid, kept[1], kept[0])
        except OSError as error:
            for descriptor in kept:
                os.close(descriptor)
            raise SandboxDescriptorRefused(f"the descriptors cannot be used: {error}") from error
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _on_end(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._descriptor)
        self._deadline = loop.call_later(STATUS_SECONDS, self._settle)
        loop.add_reader(self._status_pipe, self._settle)

    def _settle(self) -> None:
        asyncio.get_running_loop().remove_reader(self._status_pipe)
        if self._deadline is not None:
            self._deadline.cancel()
        try:
            text = os.read(self._status_pipe, _STATUS_BYTES).decode("ascii", "replace")
        except OSError:  # another reader in the sandbox was faster, or nothing was written
            text = ""
        os.close(self._status_pipe)
        self._tell(int(text) if re.fullmatch(r"-?\d{1,3}", text) else -signal.SIGKILL)

    def kill_group(self) -> None:
        """Kill the process."""
        self.signal(signal.SIGKILL)


def _pid_of(descriptor: int) -> int:
    """The pid of the living process that a pidfd stands for. Raises SandboxDescriptorRefused."""
    with open(f"/proc/self/fdinfo/{descriptor}") as information:
        found = re.search(r"^Pid:\t(-?\d+)$", information.read(), re.MULTILINE)
    if found is None:
        raise SandboxDescriptorRefused("a pidfd was expected")
    if (pid := int(found[1])) <= 0:
        raise SandboxDescriptorRefused("the process has ended already")
    return pid
