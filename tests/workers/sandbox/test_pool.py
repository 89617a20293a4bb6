"""Rooms for uploaded code: warm, one attempt at a time, cleared in between; which layers there are and must be."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tapeworks.cli.main import app
from tapeworks.errors import FailureCode, JobFailure
from tapeworks_workers.agent import agent
from tapeworks_workers.processes import handles
from tapeworks_workers.processes.children import ChildTask
from tapeworks_workers.processes.sandboxed_process import SandboxDescriptorRefused, SandboxedProcess
from tapeworks_workers.processes.zygote_client import LaunchFailed
from tapeworks_workers.sandbox import isolation
from tapeworks_workers.sandbox.pool import PooledSandbox, ResourceLimits, SandboxKey, SandboxPool
from tapeworks_workers.settings import WorkerSettings

ROOMY = ResourceLimits(8 << 30, 8 << 30)
MINE = SandboxKey("p", (), gpus=False)
LACKING = isolation.probed(None)


@pytest.fixture(autouse=True)
def subreaper() -> None:
    handles.become_subreaper()


def with_rooms(folder: Path, found: isolation.Sandbox, scene: Callable[[SandboxPool], Awaitable[None]]) -> None:
    async def main() -> None:
        rooms = SandboxPool(folder, found)
        try:
            await scene(rooms)
        finally:
            await rooms.close()

    asyncio.run(main())


async def take(rooms: SandboxPool, occupants: SandboxKey = MINE, **given: Any) -> PooledSandbox:
    return await rooms.take(occupants, **{"packages": [], "components": [], "readable": [], "bounds": ROOMY, **given})


@pytest.mark.slow
def test_a_room_is_warm_for_the_next_of_its_own_and_no_other(tmp_path: Path) -> None:
    async def scene(rooms: SandboxPool) -> None:
        first = await take(rooms)
        (first.run_folder / "left").write_text("behind")
        (first.compiled / "program").write_text("kept")
        second = await take(rooms)
        assert second is not first, "one attempt at a time"
        assert second.room.uid != first.room.uid or first.room.uid is None
        await rooms.release(first)
        assert not list(first.run_folder.iterdir())
        assert (first.compiled / "program").exists()
        assert await take(rooms) is first
        third = await take(rooms, SandboxKey("q", (), gpus=False))
        assert third not in (first, second)

    with_rooms(tmp_path, isolation.of_this_machine(), scene)
    assert not list(tmp_path.iterdir()), "nothing of them stays"


LEAVES = """
import ctypes, os, pathlib, sys
made = pathlib.Path("/tmp/made-at-import")
made.mkdir(exist_ok=True)
(made / "file").touch()

def leave(how):
    for place in ("/tmp", "/dev/shm"):
        at = pathlib.Path(place)
        (at / "left.txt").write_text("of the attempt before")
        (at / "link").symlink_to("/etc")
        os.chdir(at)
        for _ in range(2000):
            os.mkdir("a" * 50)
            os.chdir("a" * 50)
        (at / "a").mkdir()
        (at / "closed").mkdir(mode=0)
    ctypes.CDLL(None).shmget(0x1234, 4096, 0o1666)
    if how == "changes":
        (made / "file").write_text("of the attempt before")
    return look()

def look():
    seen = [str(one) for place in ("/tmp", "/dev/shm") for one in sorted(pathlib.Path(place).iterdir())]
    seen += ["shm"] * (ctypes.CDLL(None).shmget(0x1234, 4096, 0) >= 0)
    return {"seen": seen}
"""


MADE_AT_IMPORT = "/tmp/made-at-import"  # noqa: S108 — in the sandbox
LEFT = {"/tmp/left.txt", "/dev/shm/left.txt"}  # noqa: S108 — in the sandbox


@pytest.mark.slow
@pytest.mark.parametrize("how", ["leaves", "changes"])
def test_an_attempt_finds_nothing_in_tmp_of_the_one_before(tmp_path: Path, how: str) -> None:
    """The work folder lies below /tmp here, bound into the sandbox: it stays."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "leaves.py").write_text(LEAVES)
    told = {"id": "pkg_1", "version": "1", "root": str(package), "modules": ["leaves"]}

    async def asked(cell: PooledSandbox, function: str, **arguments: Any) -> list[str]:
        zygote = await cell.launcher._living_zygote()
        child = await zygote.launch(ChildTask(f"leaves:{function}", arguments, frame=True))
        result = await child.result()
        await child.handle.wait()
        os.close(child.stdout)
        os.close(child.stderr)
        assert result is not None
        assert result["ok"], result
        return list(result["report"]["seen"])

    async def scene(rooms: SandboxPool) -> None:
        cell = await take(rooms, packages=[told], readable=[package])
        before = await asked(cell, "look")
        assert MADE_AT_IMPORT in before
        left = await asked(cell, "leave", how=how)
        assert set(left) >= LEFT
        (cell.run_folder / "own").write_text("of the attempt before")
        await rooms.release(cell)
        after = await take(rooms, packages=[told], readable=[package])
        assert (after is cell) is (how == "leaves"), "what was changed cannot be trusted: another sandbox"
        assert await asked(after, "look") == before
        assert not list(after.run_folder.iterdir())
        assert (package / "leaves.py").exists()

    with_rooms(tmp_path / "rooms", isolation.of_this_machine(), scene)


@pytest.mark.slow
def test_a_package_that_cannot_be_imported_leaves_no_room(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "ends.py").write_text("import os\nos._exit(1)\n")
    told = {"id": "pkg_1", "version": "1", "root": str(package), "modules": ["ends"]}

    async def scene(rooms: SandboxPool) -> None:
        with pytest.raises(LaunchFailed):
            await take(rooms, packages=[told], readable=[package])

    with_rooms(tmp_path / "rooms", isolation.of_this_machine(), scene)
    assert not list((tmp_path / "rooms").iterdir())


@pytest.mark.slow
def test_a_package_that_fills_the_memory_while_it_is_imported_is_ended(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "greedy.py").write_text("import os\nkept = [bytearray(os.urandom(1 << 20)) * 64 for _ in range(200)]\n")
    told = {"id": "pkg_1", "version": "1", "root": str(package), "modules": ["greedy"]}

    async def scene(rooms: SandboxPool) -> None:
        with pytest.raises(JobFailure) as failed:
            await take(rooms, packages=[told], readable=[package], bounds=ResourceLimits(2 << 30, 8 << 30))
        assert failed.value.code is FailureCode.OUT_OF_MEMORY

    with_rooms(tmp_path / "rooms", isolation.of_this_machine(), scene)
    assert not list((tmp_path / "rooms").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer",
    ["a number", "a socket", *(pytest.param(one, marks=pytest.mark.thorough) for one in ("a file", "no JSON"))],
)
def test_what_a_sandbox_answers_is_not_believed(tmp_path: Path, answer: str) -> None:
    """A package that patches the fork function of its zygote: nothing outside is touched, the agent goes on."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "patches.py").write_text(f"ANSWER = {answer!r}\n{PATCH}")
    told = {"id": "pkg_1", "version": "1", "root": str(package), "modules": ["patches"]}
    bystander = subprocess.Popen(["sleep", "600"], start_new_session=True)
    (package / "victim").write_text(str(bystander.pid))

    async def scene(rooms: SandboxPool) -> None:
        cell = await take(rooms, packages=[told], readable=[package])
        with pytest.raises(LaunchFailed, match=r"answered a fork with something else|the zygote has ended"):
            await cell.launcher.runner(environment={}, folder=cell.run_folder)
        await rooms.release(cell)

    try:
        with_rooms(tmp_path / "rooms", isolation.of_this_machine(), scene)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


PATCH = """
import os, pathlib, socket, struct, tempfile
import tapeworks_workers.processes.base_zygote as base

def answered(*given):
    victim = int((pathlib.Path(__file__).parent / "victim").read_text())
    pair = socket.socketpair()
    pair[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 20)
    own = os.pidfd_open(os.getpid())
    if ANSWER == "a number":
        return victim, []
    if ANSWER == "a socket":
        return victim, [own, pair[0].detach()]
    if ANSWER == "a file":
        file = os.open(tempfile.mkstemp()[1], os.O_RDONLY)
        return victim, [own, file]
    return "x" * 300, []

if ANSWER == "no JSON":
    base.json = type("json", (), {"dumps": staticmethod(lambda value: "[" * 100000), "loads": base.json.loads})
base._fork_twice = answered
"""


def test_descriptors_of_other_kinds_and_of_other_processes_are_refused_and_closed() -> None:
    reading, writing = os.pipe()
    left, right = socket.socketpair()
    own = os.pidfd_open(os.getpid())
    given = {
        "two descriptors were expected": [],
        r"two descriptors were expected, it passed 1": [own],
        "a pidfd was expected": [reading, reading],
        "does not run in the sandbox": [own, reading],
        "a pipe was expected": [own, left.fileno()],
    }
    try:
        for message, descriptors in given.items():
            passed = [os.dup(one) for one in descriptors]
            belongs = message.startswith("a pipe")
            with pytest.raises(SandboxDescriptorRefused, match=message):
                SandboxedProcess.received(passed, lambda pid, belongs=belongs: belongs)
            assert not any(Path(f"/proc/self/fd/{one}").exists() for one in passed)
    finally:
        for one in (reading, writing, own):
            os.close(one)
        left.close()
        right.close()


def test_a_process_that_never_tells_its_status_counts_as_killed() -> None:
    """Its parent in the sandbox was killed, and something else holds the pipe open."""

    async def main() -> int:
        child = subprocess.Popen(["sleep", "600"], start_new_session=True)
        reading, writing = os.pipe()
        received = SandboxedProcess.received([os.pidfd_open(child.pid), reading], lambda pid: pid == child.pid)
        received.kill_group()
        child.wait()
        try:
            return await received.wait()
        finally:
            os.close(writing)

    assert asyncio.run(main()) == -9


@pytest.mark.slow
def test_without_bubblewrap_the_other_layers_hold(tmp_path: Path) -> None:
    """Bounds everywhere; as root no network, and a user of its own where it can read Python."""

    async def scene(rooms: SandboxPool) -> None:
        cell = await take(rooms)
        child = await cell.launcher.admission("own", environment={"CUDA_VISIBLE_DEVICES": "-1"})
        status = Path(f"/proc/{child.handle.pid}/status").read_text()
        assert "NoNewPrivs:\t1" in status
        if cell.room.uid is not None:
            assert f"Uid:\t{cell.room.uid}" in status
        if LACKING.layers["network"] == isolation.ON:
            assert os.readlink(f"/proc/{child.handle.pid}/ns/net") != os.readlink("/proc/self/ns/net")
        limits = Path(f"/proc/{child.handle.pid}/limits").read_text()
        assert f"Max open files            {isolation.LIMITS['NOFILE']}" in limits
        assert cell.guests()
        child.close()
        await rooms.release(cell)
        assert not cell.guests()

    with_rooms(tmp_path, LACKING, scene)


@pytest.mark.parametrize(
    ("allowed", "wanted", "found", "takes"),
    [
        (False, "available", isolation.of_this_machine(), False),
        (True, "available", LACKING, True),
        (True, "required", LACKING, False),
        (True, "required", replace(LACKING, layers=dict.fromkeys(isolation.LAYERS, "on")), True),
    ],
)
def test_a_missing_layer_closes_the_door_where_all_are_required(
    tmp_path: Path, allowed: bool, wanted: Any, found: isolation.Sandbox, takes: bool
) -> None:
    settings = WorkerSettings(work_dir=tmp_path, allow_packages=allowed, sandbox=wanted)
    assert (agent._rooms(settings, found if allowed else None) is not None) is takes


def test_nothing_of_the_worker_is_in_its_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAPEWORKS_API_KEY", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    given = isolation._environment(isolation.SandboxMount(tmp_path, None))
    assert "secret" not in given.values()
    assert given["HOME"].startswith(str(tmp_path))


@pytest.mark.usefixtures("logging_kept")
def test_doctor_tells_which_layers_there_are() -> None:
    done = CliRunner().invoke(app, ["doctor", "--json"])
    found = isolation.of_this_machine()
    assert json.loads(done.stdout)["sandbox"] == dict(found.layers)
    assert done.exit_code == bool(found.missing)
