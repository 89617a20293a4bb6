"""Memory is counted however a process holds it: mapped, shared with a fork, in memfds, in temporary files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tapeworks_workers.sandbox import memory_count, usage

MIB = 1 << 20
TAKEN = 96 * MIB
WAYS = {
    "anonymous": "kept = bytearray(b'x') * SIZE",
    "shared with forks": "kept = bytearray(b'x') * SIZE; [os.fork() or signal.pause() for _ in range(3)]",
    "an open memfd": "fd = os.memfd_create('m'); [os.write(fd, bytes(1 << 20)) for _ in range(SIZE >> 20)]",
    "a memfd of two": "fd = os.memfd_create('m'); [os.write(fd, bytes(1 << 20)) for _ in range(SIZE >> 20)]; "
    "os.fork() or signal.pause()",
    "open and mapped": "fd = os.memfd_create('m'); os.ftruncate(fd, SIZE); kept = mmap.mmap(fd, SIZE); "
    "kept.write(b'x' * SIZE)",
    "anonymous and shared": "kept = mmap.mmap(-1, SIZE); kept.write(b'x' * SIZE)",
}  # fmt: skip


@contextmanager
def holding(way: str) -> Iterator[set[usage.Inhabitant]]:
    """The processes that hold memory in this way, once they do."""
    code = f"import mmap, os, signal, sys\nSIZE = {TAKEN}\n{way}\nprint('kept', flush=True)\nsys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"kept\n"
        living = usage.below(process.pid)
        try:
            yield living
        finally:
            subprocess.run(["kill", "-KILL", "--", f"-{process.pid}"], check=True)


@pytest.mark.parametrize("way", WAYS)
def test_memory_is_counted_however_it_is_held_and_once(way: str) -> None:
    with holding("pass") as living:
        at_rest = memory_count.used_bytes(living)
    with holding(WAYS[way]) as living:
        used = memory_count.used_bytes(living) - at_rest
        assert TAKEN <= used + MIB
        assert used <= TAKEN * (2 if way == "open and mapped" else 1) + 40 * MIB
        assert used <= memory_count.most_bytes(living)
