"""Finding processes: a job's runner, an agent's zygotes, and what a world left behind.

Everything that a world starts has its folder in the environment, under MARK; children inherit it, however they were
forked, and whoever their parent is now.
"""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import sys
import sysconfig
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

MARK = "FAULTS_WORLD"
GONE = (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError, ProcessLookupError, PermissionError)


def folder_of(process: psutil.Process) -> str:
    """Where a process stands; empty where it has ended."""
    try:
        return process.cwd()
    except GONE:
        return ""


def family(process: psutil.Process) -> list[psutil.Process]:
    """A process and all that it started or adopted."""
    try:
        return [process, *process.children(recursive=True)]
    except GONE:
        return [process]


def send(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    """Send a signal to those that are still there."""
    for process in processes:
        with suppress(*GONE):
            process.send_signal(number)


def killed(processes: Iterable[psutil.Process]) -> None:
    """`kill -9`, at once, whether they can be waited for or not."""
    send(processes, signal.SIGKILL)


def left_behind(mark: str) -> list[psutil.Process]:
    """Processes that a world started and that still run."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(*GONE):
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(psutil.Process(int(entry.name)))
    return found


def held_locks(folder: Path) -> list[Path]:
    """Lock files below a folder that a process still holds."""
    held = []
    for file in folder.rglob("*.lock"):
        with file.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.append(file)
    return held


def allow_many_files() -> None:
    """As many open files as the system lets this process have: a thousand pollers are a thousand sockets."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


CLOCK = """
import time
_time, _time_ns, _gettime = time.time, time.time_ns, time.clock_gettime
time.time = lambda: _time() + {seconds}
time.time_ns = lambda: _time_ns() + {seconds} * 10**9
time.clock_gettime = lambda clock: _gettime(clock) + ({seconds} if clock == time.CLOCK_REALTIME else 0)
"""


def python_with_clock(folder: Path, seconds: int) -> Path:
    """A Python with the packages of this one whose wall clock is wrong by so many seconds, in its children too."""
    real = Path(os.path.realpath(sys.executable))
    packages = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    packages.mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "pyvenv.cfg").write_text(f"home = {real.parent}\ninclude-system-site-packages = false\n")
    (folder / "bin" / "python").symlink_to(real)
    here = sysconfig.get_path("purelib")
    (packages / "packages.pth").write_text(f"import site; site.addsitedir({here!r})\n")
    (packages / "sitecustomize.py").write_text(CLOCK.format(seconds=seconds))
    return folder / "bin" / "python"
