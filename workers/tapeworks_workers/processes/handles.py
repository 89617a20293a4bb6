"""The agent's side of the lifelines: it adopts what its zygotes fork, and takes everything with it when it ends.

An agent is a child subreaper: a process that was forked twice becomes its child, which it can wait
for and signal through a pidfd, never by a number that may be another's by then. Its zygotes and
runners die with it by PR_SET_PDEATHSIG (see `base.hold`) and by the end of a pipe whose writing
end only the agent holds.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import select
import signal
from abc import ABC, abstractmethod
from contextlib import suppress

PR_SET_CHILD_SUBREAPER = 36


def become_subreaper() -> None:
    """From now on the orphans among this process's descendants become its children."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, f"PR_SET_CHILD_SUBREAPER: {os.strerror(number)}")


def end_with(pipe: int) -> None:
    """End this process when the other end of a pipe is closed: by the end of whoever started us, however it ended."""
    os.set_inheritable(pipe, False)
    asyncio.get_running_loop().add_reader(pipe, os._exit, 1)


_held: set[int] = set()


def held() -> set[int]:
    """Children that a Handle waits for."""
    return set(_held)


class Process(ABC):
    """A process that can be waited for by many and signalled, never by a number that may be another's by then."""

    def __init__(self, pid: int, descriptor: int) -> None:
        self.pid = pid
        self._descriptor = descriptor
        """A pidfd."""
        self._status: asyncio.Future[int] | None = None

    async def wait(self) -> int:
        """The exit status once the process has ended, negative for a signal. May be awaited by many."""
        if self._status is None:
            self._status = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().add_reader(self._descriptor, self._on_end)
        return await asyncio.shield(self._status)

    @property
    def ended(self) -> bool:
        """Whether the process has ended and was waited for."""
        return self._status is not None and self._status.done()

    def alive(self) -> bool:
        """Whether the process runs: one that has ended and was not waited for yet does not."""
        return not self.ended and not select.select([self._descriptor], [], [], 0)[0]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, where it has not ended."""
        if not self.ended:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, number)

    @abstractmethod
    def kill_group(self) -> None:
        """Kill the process and what it started."""

    @abstractmethod
    def _on_end(self) -> None:
        """The pidfd can be read: find out how it ended, and tell those who wait."""

    def _tell(self, status: int) -> None:
        os.close(self._descriptor)
        if self._status is not None:
            self._status.set_result(status)


class Handle(Process):
    """A child process: its pid cannot be reused before `wait` has returned."""

    def __init__(self, pid: int) -> None:
        super().__init__(pid, os.pidfd_open(pid))
        _held.add(pid)

    def _on_end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        self._kill_rest()
        _, raw = os.waitpid(self.pid, 0)
        _held.discard(self.pid)
        self._tell(os.waitstatus_to_exitcode(raw))

    def _kill_rest(self) -> None:
        """End what the process started in its group. It was not waited for yet, so the number is still its own."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return  # it died before it made a group, or changed its user: PR_SET_PDEATHSIG ends the rest with us

    def kill_group(self) -> None:
        """Kill the process and what it started: it leads a group of its own."""
        if self.ended:
            return
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            self.signal(signal.SIGKILL)  # it had no time yet to make its group


class OrphanReaper:
    """Children that nobody holds a handle of: what a killed runner had started and left behind."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def reap(self, held: set[int]) -> list[int]:
        """Wait for ended strays and return their pids. One must be seen twice: a child that was forked just now
        gets its handle with the zygote's answer."""
        strays = _children() - held
        reaped: list[int] = []
        for pid in strays & self._seen:
            try:
                if os.waitpid(pid, os.WNOHANG)[0]:
                    reaped.append(pid)
            except ChildProcessError:
                continue  # its own waiter was faster
        self._seen = strays
        return reaped


def _children() -> set[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as listing:
            return {int(pid) for pid in listing.read().split()}
    except FileNotFoundError:
        return set()  # a kernel without CONFIG_PROC_CHILDREN: strays stay zombies until the agent ends
