"""The system calls that a sandbox refuses, with bubblewrap and without it; TensorFlow works behind the filter."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tapeworks_workers.sandbox import isolation, seccomp
from tapeworks_workers.sandbox.pool import PooledSandbox, SandboxPool
from tests.support.paths import SUPPORT
from tests.workers.sandbox.test_pool import LACKING, subreaper, take, with_rooms

__all__ = ["subreaper"]

ALLOWED = {"socketpair", "unix", "inet", "inet6", "netlink", "thread", "process"}
SEEM_ABSENT = {"clone3", "memfd_create", "x32"}


@pytest.mark.slow
@pytest.mark.parametrize("found", [isolation.of_this_machine, lambda: LACKING], ids=["bubblewrap", "without"])
def test_calls_that_lead_out_are_refused_and_the_rest_works(
    tmp_path: Path, found: Callable[[], isolation.Sandbox]
) -> None:
    package = tmp_path / "package"
    package.mkdir()
    shutil.copy(SUPPORT / "system_calls.py", package / "system_calls.py")
    told = {"id": "pkg_1", "version": "1", "root": str(package), "modules": ["system_calls"]}
    tmp_path.chmod(0o755)

    async def scene(rooms: SandboxPool) -> None:
        cell: PooledSandbox = await take(rooms, packages=[told], readable=[package])
        calls = json.loads((cell.room.folder / "home" / "calls.json").read_text())
        assert {name for name, result in calls.items() if result == "done"} == ALLOWED
        assert {name for name, result in calls.items() if result == "ENOSYS"} == SEEM_ABSENT & set(calls)
        families = {result for name, result in calls.items() if name.startswith("socket ")}
        assert families == {"EAFNOSUPPORT"}
        await rooms.release(cell)

    with_rooms(tmp_path / "rooms", found(), scene)


@pytest.mark.parametrize("machine", seccomp.ARCHITECTURES)
def test_every_jump_of_the_program_lands_in_it_and_it_ends_with_a_return(machine: str) -> None:
    code = list(struct.iter_unpack("=HBBI", seccomp.program(machine)))
    for at, (operation, if_true, if_false, _) in enumerate(code):
        if operation & 7 == 5:
            assert at + 1 + max(if_true, if_false) < len(code)
    assert code[-1][0] == 6
    assert len(code) < 4096
    assert len(seccomp.program(machine)) < 1 << 16, "a pipe holds it"
