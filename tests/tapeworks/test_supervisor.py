"""The supervisor of an agent, with small real agents: one that hangs is replaced, with all that it started."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tapeworks.supervisor import Silence, Supervisor, traced

AGENT = """
import os, pathlib, signal, subprocess, sys, time
folder, how = pathlib.Path(sys.argv[1]), sys.argv[2]
lives = len(list(folder.glob("life-*")))
left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
beat = int(os.environ["TAPEWORKS_WORKER_BEAT"])
os.pwrite(beat, b"1", 0)
aside = folder / "aside"
aside.write_text(f"{os.getpid()} {left.pid}")
aside.rename(folder / f"life-{lives}")
if how == "hangs" and lives == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)
count = 1
while True:
    count += 1
    os.pwrite(beat, str(count).encode(), 0)
    time.sleep(0.2)
"""


def eventually(condition: Callable[[], object], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], Supervisor]]:
    """Starts a supervisor of a small agent; `told` collects what it says."""
    begun: list[Supervisor] = []

    def started(how: str) -> Supervisor:
        command = [sys.executable, "-I", "-c", AGENT, str(tmp_path), how]
        told: list[str] = []
        supervisor = Supervisor(
            command, log=tmp_path / "log", tell=told.append, give_up=lambda: None, silence_seconds=3
        )
        begun.append(supervisor)
        supervisor.start()
        eventually(lambda: (tmp_path / "life-0").exists())
        return supervisor

    yield started
    for one in begun:
        one.stop()


def pids(folder: Path, life: int) -> tuple[int, int]:
    agent, left = (folder / f"life-{life}").read_text().split()
    return int(agent), int(left)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["hangs", "stops"])
def test_an_agent_that_does_not_answer_is_replaced_with_all_that_it_started(
    start: Callable[[str], Supervisor], tmp_path: Path, how: str
) -> None:
    start(how)
    former = pids(tmp_path, 0)
    if how == "stops":
        os.kill(former[0], signal.SIGSTOP)
    eventually(lambda: (tmp_path / "life-1").exists())
    assert not any(psutil.pid_exists(pid) for pid in former)
    assert all(psutil.pid_exists(pid) for pid in pids(tmp_path, 1))


def test_what_a_killed_agent_left_behind_ends(start: Callable[[str], Supervisor], tmp_path: Path) -> None:
    start("lives")
    former = pids(tmp_path, 0)
    os.kill(former[0], signal.SIGKILL)
    eventually(lambda: (tmp_path / "life-1").exists())
    assert not any(psutil.pid_exists(pid) for pid in former)


def test_time_in_which_the_supervisor_did_not_run_is_no_silence() -> None:
    """A machine that was suspended, or a stopped process group."""
    now = [0.0]
    beat = os.memfd_create("beat")
    try:
        silence = Silence(beat, first=120, later=30, clock=lambda: now[0])
        os.pwrite(beat, b"1", 0)
        assert not silence.too_long()
        for _ in range(10):
            now[0] += 3600
            assert not silence.too_long(), "at most two seconds for each reading"
        assert silence.seconds == 20
        for _ in range(10):
            now[0] += 1
            assert not silence.too_long()
        now[0] += 1
        assert silence.too_long(), "it ran, and the agent did not"
        os.pwrite(beat, b"2", 0)
        assert not silence.too_long()
        assert silence.seconds == 0
    finally:
        os.close(beat)


def test_a_process_that_a_debugger_holds_is_known() -> None:
    """PTRACE_SEIZE from a thread, which stays its tracer until it ends."""
    child = subprocess.Popen([sys.executable, "-I", "-c", "import time; time.sleep(600)"])
    attached, done = threading.Event(), threading.Event()

    def trace() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.ptrace(0x4206, child.pid, None, None) == 0, os.strerror(ctypes.get_errno())
        attached.set()
        done.wait()

    tracer = threading.Thread(target=trace)
    try:
        assert not traced(child.pid)
        tracer.start()
        assert attached.wait(60)
        assert traced(child.pid)
    finally:
        done.set()
        tracer.join()
        child.kill()
        child.wait()
