"""Keeps a worker's agent running: starts it again when it ends, and replaces it when it stops answering.

The agent writes to a shared file (`BEAT`) from its event loop, about once a second. Where the file does not change for
`silence_seconds`, the agent is asked to end (SIGTERM, and SIGCONT where it was stopped), then killed; what it started
ends with it, or is killed as an orphan of this process. An agent that a debugger holds is left alone.

Silence is the time in which this process ran and the agent did not: a machine that was suspended, or a process group
that was stopped as a whole, ends no agent. Restarts follow each other after pauses of up to `LONGEST_PAUSE`.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

STOP_SECONDS = 30.0
"""How long an agent that answers may take to end its runners; then it is killed, and they with it."""
HANG_SECONDS = 10.0
"""How long one that does not answer may take to end after SIGTERM."""
SILENCE_SECONDS = 30.0
FIRST_SECONDS = 120.0
"""From the start of an agent until it must have answered for the first time."""
STEADY_SECONDS = 60.0
"""An agent that lived so long is started again at once."""
LONGEST_PAUSE = 30.0
TICK_SECONDS = 1.0
LIFELINE = "TAPEWORKS_WORKER_LIFELINE"
"""The environment variable that holds the agent's end of a pipe: it ends with this process."""
BEAT = "TAPEWORKS_WORKER_BEAT"
"""The environment variable that holds the descriptor of the shared file."""
USAGE = 2
"""The agent's exit code for options or settings that it cannot take: another start would not help."""
PR_SET_CHILD_SUBREAPER = 36


class Supervisor:
    """One agent, kept running by a thread until `stop`.

    `log`: a file for what it prints, None: where this process prints. `tell` is given what happens, in words;
    `give_up` is called where the agent cannot be started with these options.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path | None,
        tell: Callable[[str], object],
        give_up: Callable[[], object],
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        self._command, self._log, self._tell, self._give_up = list(command), log, tell, give_up
        self._silence_seconds = silence_seconds
        self.given_up = threading.Event()
        self._stopping = threading.Event()
        self._guard = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._others: set[int] = set()
        self._thread = threading.Thread(target=self._keep, name="supervisor", daemon=True)

    def start(self) -> None:
        """Start the agent, and a thread that starts it again. This process adopts what an agent leaves behind."""
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._others = _children()
        self._thread.start()

    def stop(self) -> None:
        """End the agent: politely, then by force. Returns when it is gone."""
        with self._guard:
            self._stopping.set()
            process = self._process
        if process is not None and process.poll() is None:
            _ask_to_end(process)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
        if self._thread.is_alive():
            self._thread.join()

    def kill(self) -> None:
        """End the agent by force."""
        self._stopping.set()
        if self._process is not None:
            self._process.kill()

    def _keep(self) -> None:
        pause = 1.0
        while not self._stopping.is_set():
            began = time.monotonic()
            code = self._run()
            if self._stopping.is_set():
                return
            if code == USAGE:
                self._tell(f"the worker cannot be started like this{self._see()}")
                self.given_up.set()
                self._give_up()
                return
            pause = 1.0 if time.monotonic() - began > STEADY_SECONDS else pause
            self._tell(f"the worker ended with code {code}{self._see()}; it restarts in {pause:g} s")
            self._stopping.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _see(self) -> str:
        return "" if self._log is None else f", see {self._log}"

    def _run(self) -> int:
        """One life of the agent; its exit code."""
        reading, writing = os.pipe()
        beat = os.memfd_create("tapeworks-beat", os.MFD_CLOEXEC)
        try:
            with self._guard:
                if self._stopping.is_set():
                    return 0
                self._process = process = self._started((reading, beat))
            self._watch(process, beat)
            return process.wait()
        finally:
            for descriptor in (reading, writing, beat):
                os.close(descriptor)
            self._end_orphans()

    def _started(self, descriptors: tuple[int, int]) -> subprocess.Popen[bytes]:
        log = None if self._log is None else self._log.open("ab")
        try:
            return subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=descriptors,
                env={**os.environ, LIFELINE: str(descriptors[0]), BEAT: str(descriptors[1])},
                start_new_session=True,  # a Ctrl-C reaches this process alone, which stops the agent in order
            )
        finally:
            if log is not None:
                log.close()

    def _watch(self, process: subprocess.Popen[bytes], beat: int) -> None:
        """Return when the agent has ended, by itself or because it did not answer."""
        descriptor = os.pidfd_open(process.pid)
        try:
            silence = Silence(beat, first=FIRST_SECONDS, later=self._silence_seconds)
            while not select.select([descriptor], [], [], TICK_SECONDS)[0]:
                self._reap_orphans()
                if silence.too_long() and not self._stopping.is_set():
                    if traced(process.pid):
                        silence.forgive()
                        continue
                    self._tell(f"the worker did not respond for {silence.seconds:.0f} s and is stopped{self._see()}")
                    self._end(process, descriptor, silence)
                    return
        finally:
            os.close(descriptor)

    def _end(self, process: subprocess.Popen[bytes], descriptor: int, silence: Silence) -> None:
        """End an agent that does not answer. One that answers again has the time to hand its jobs back."""
        _ask_to_end(process)
        silence.forgive()
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline and silence.seconds < HANG_SECONDS:
            if select.select([descriptor], [], [], TICK_SECONDS)[0]:
                return
            silence.too_long()
        process.kill()

    def _end_orphans(self) -> None:
        """Kill what an agent that has ended left behind: it is this process's by then, whatever group it made."""
        while orphans := self._orphans():
            for pid in orphans:
                with suppress(ProcessLookupError, ChildProcessError):
                    os.kill(pid, signal.SIGKILL)  # nobody has waited for it: the number is its own
                    os.waitpid(pid, 0)

    def _reap_orphans(self) -> None:
        """Wait for those that have ended while the agent lives: they left its tree before it adopted orphans."""
        for pid in self._orphans():
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)

    def _orphans(self) -> set[int]:
        return _children() - self._others - {self._process.pid if self._process else 0}


class Silence:
    """How long an agent has not answered, while this process itself ran."""

    def __init__(self, beat: int, *, first: float, later: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._beat, self._limit, self._later, self._clock = beat, first, later, clock
        self._seen = self._read()
        self._at = clock()
        self.seconds = 0.0

    def too_long(self) -> bool:
        """Read the shared file; call it about every `TICK_SECONDS`: longer pauses are this process's own."""
        now = self._clock()
        passed, self._at = min(now - self._at, 2 * TICK_SECONDS), now
        if (seen := self._read()) != self._seen:
            self._seen, self.seconds, self._limit = seen, 0.0, self._later
        else:
            self.seconds += passed
        return self.seconds > self._limit

    def forgive(self) -> None:
        """Begin anew."""
        self.seconds = 0.0

    def _read(self) -> bytes:
        return os.pread(self._beat, 64, 0)


def _ask_to_end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.send_signal(signal.SIGCONT)  # one that was stopped hears it only when it runs


def traced(pid: int) -> bool:
    """Whether a debugger is attached to a process."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    return any(line.startswith("TracerPid:") and line.split()[1] != "0" for line in lines)


def _children() -> set[int]:
    """This process's children, as far as the kernel lists them."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):
            found.update(map(int, (task / "children").read_text().split()))
    return found
