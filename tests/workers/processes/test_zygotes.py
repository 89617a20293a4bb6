"""The two zygotes and what they fork, with real processes and real signals."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from tapeworks_workers.agent.catalogue_cache import admit
from tapeworks_workers.processes import frames, handles
from tapeworks_workers.processes.children import Child, ChildTask, read_frame
from tapeworks_workers.processes.launcher import ForkLauncher, Launcher, SpawnLauncher
from tests.support.paths import SUPPORT

RUNNER = f"{SUPPORT / 'tiny_runner.py'}:main"
ADMISSION = f"{SUPPORT / 'tiny_runner.py'}:catalogue"
Result = TypeVar("Result")
Until = Callable[..., object]
Gone = Callable[[int], bool]


@dataclass
class House:
    """A launcher and the event loop that it lives in; this test process is its agent."""

    loop: asyncio.Runner
    launcher: ForkLauncher

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self.loop.run(work)

    def pid(self, which: str) -> int:
        """The pid of the living `base` or `component` zygote."""
        living = self.launcher._living_base() if which == "base" else self.launcher._living_zygote()
        return self.run(living).handle.pid


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    handles.become_subreaper()
    os.environ["TAPEWORKS_WORKER_KEY"] = "tw_secret"
    with asyncio.Runner() as loop:
        launcher = ForkLauncher(runner=RUNNER, admission=ADMISSION)
        loop.run(launcher.start())
        loop.run(launcher.load([]))
        yield House(loop, launcher)
        loop.run(launcher.close())
    del os.environ["TAPEWORKS_WORKER_KEY"]


class Talk:
    """The frames of one child."""

    def __init__(self, child: Child) -> None:
        self.child = child

    async def __aenter__(self) -> Talk:
        self._reader, self._writer = await asyncio.open_unix_connection(sock=self.child.sock)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        self.child.handle.kill_group()
        await self.child.handle.wait()
        os.close(self.child.stdout)
        os.close(self.child.stderr)

    async def ask(self, kind: str, **parts: Any) -> dict[str, Any]:
        self._writer.write(frames.encode({"type": kind, **parts}))
        answer = await read_frame(self._reader)
        assert answer is not None
        return answer

    def tell(self, kind: str, **parts: Any) -> None:
        self._writer.write(frames.encode({"type": kind, **parts}))


async def runner(launcher: Launcher, folder: Path, **environment: str) -> Talk:
    return Talk(await launcher.runner(environment=environment, folder=folder))


@pytest.mark.slow
def test_a_runner_is_our_child_in_a_clean_environment(house: House, tmp_path: Path) -> None:
    async def scene() -> None:
        async with await runner(
            house.launcher, tmp_path, CUDA_VISIBLE_DEVICES="-1", TF_NUM_INTRAOP_THREADS="1"
        ) as talk:
            told = await talk.ask("compute")
            assert told["sum"] == 9.0
            assert told["pid"] == talk.child.handle.pid
            assert told["parent"] == os.getpid()
            assert told["session"] == told["pid"]
            assert Path(told["folder"]) == tmp_path
            environment = told["environment"]
            assert environment["CUDA_VISIBLE_DEVICES"] == "-1"
            assert environment["TF_NUM_INTRAOP_THREADS"] == "1"
            assert environment["KERAS_BACKEND"] == "tensorflow"
            assert not [name for name in environment if name.startswith("TAPEWORKS_")]
            assert os.read(talk.child.stdout, 100) == b"a line\n"

    house.run(scene())


def test_exit_status_and_signals_are_told(house: House, tmp_path: Path) -> None:
    async def scene() -> None:
        async with await runner(house.launcher, tmp_path) as talk:
            talk.tell("exit", status=7)
            assert await talk.child.handle.wait() == 7
        async with await runner(house.launcher, tmp_path) as talk:
            await talk.ask("hello")
            talk.child.handle.signal(signal.SIGSEGV)
            assert await talk.child.handle.wait() == -signal.SIGSEGV

    house.run(scene())


def test_what_a_runner_started_ends_with_it(house: House, tmp_path: Path, until: Until, gone: Gone) -> None:
    async def scene() -> int:
        async with await runner(house.launcher, tmp_path) as talk:
            spawned = (await talk.ask("spawn"))["spawned"]
            assert not gone(spawned)
            talk.child.handle.signal(signal.SIGKILL)
            await talk.child.handle.wait()
            return int(spawned)

    spawned = house.run(scene())
    until(lambda: gone(spawned))
    strays = handles.OrphanReaper()
    until(lambda: not psutil.pid_exists(spawned) or strays.reap(handles.held()))


def test_a_killed_component_zygote_ends_no_runner_and_is_replaced(house: House, tmp_path: Path, until: Until) -> None:
    async def scene() -> None:
        async with await runner(house.launcher, tmp_path) as talk:
            before = await talk.ask("hello")
            os.kill(former, signal.SIGKILL)
            async with await runner(house.launcher, tmp_path) as other:
                assert (await other.ask("compute"))["sum"] == 9.0
            assert (await talk.ask("hello"))["pid"] == before["pid"]

    former = house.pid("component")
    house.run(scene())
    assert house.pid("component") != former


def test_a_killed_base_ends_neither_runner_nor_component_zygote(house: House, tmp_path: Path) -> None:
    async def scene() -> dict[str, Any] | None:
        async with await runner(house.launcher, tmp_path) as talk:
            os.kill(base, signal.SIGKILL)
            child = await house.launcher.verifier(
                "reload", {"bundle": str(tmp_path / "none"), "into": str(tmp_path)}, environment={}, folder=tmp_path
            )
            child.begin()
            result = await child.result()
            await child.handle.wait()
            os.close(child.stdout)
            os.close(child.stderr)
            assert (await talk.ask("hello"))["parent"] == os.getpid()
            return result

    base, component = house.pid("base"), house.pid("component")
    result = house.run(scene())
    assert result is not None
    assert not result["ok"]
    assert "none" in result["failure"]["message"]
    assert house.pid("base") != base
    assert house.pid("component") == component


async def probe(house: House, function: str, **parts: Any) -> dict[str, Any] | None:
    base = await house.launcher._living_base()
    child = await base.launch(ChildTask(f"{SUPPORT / 'verifier_probe.py'}:{function}", frame=True, **parts))
    result = await child.result()
    assert await child.handle.wait() == 0
    os.close(child.stdout)
    os.close(child.stderr)
    return result


def test_a_verifier_has_an_empty_registry_and_tapeworks_is_barred(house: House) -> None:
    result = house.run(probe(house, "look", bar=True))
    assert result is not None
    assert result["ok"]
    assert result["report"]["imported"] == []
    assert result["report"]["registered"] == 0
    assert "barred" in result["report"]["barred"]
    assert result["report"]["parent"] == os.getpid()


def test_a_verifier_that_raises_says_so_in_its_frame(house: House) -> None:
    result = house.run(probe(house, "fail"))
    assert result is not None
    assert result["ok"] is False
    assert result["failure"]["code"] == "internal"
    assert result["failure"]["message"] == "ValueError: the probe failed"
    assert "in fail" in result["failure"]["traceback_tail"]


GOOD = """
from tapeworks import component

@component("own/{name}", kind="transform")
def {name}(x):
    return x
"""


@pytest.mark.slow
def test_what_cannot_be_loaded_is_refused_and_the_rest_is_there(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # this admission admits nothing that is shipped
    files = {name: tmp_path / f"own_{name}.py" for name in ("good", "broken", "eager")}
    files["good"].write_text(GOOD.format(name="good"))
    files["broken"].write_text("import a_module_that_is_not_there\n")
    files["eager"].write_text("import tensorflow as tf\nTABLE = tf.constant([1, 2])\n")

    async def load() -> dict[str, str]:
        paths = [*files.values(), tmp_path / "missing.py"]
        admitted = await admit(house.launcher, paths, folder=tmp_path / "catalogues")
        assert [one.name for one in admitted.catalogue.components] == ["own/good"]
        assert admitted.versions["tensorflow"].startswith("2.")
        return {one.name: one.reason for one in admitted.catalogue.refused}

    refused = house.run(load())
    assert "a_module_that_is_not_there" in refused["own_broken"]
    assert "while the module is imported" in refused["own_eager.py"]
    assert "does not exist" in refused["missing.py"]

    files["broken"].write_text(GOOD.format(name="mended"))
    files["eager"].write_text("")

    async def load_again() -> list[str]:
        admitted = await admit(house.launcher, list(files.values()), folder=tmp_path / "catalogues")
        assert admitted.catalogue.refused == []
        return sorted(one.name for one in admitted.catalogue.components)

    assert house.run(load_again()) == ["own/good", "own/mended"]
    assert len(list((tmp_path / "catalogues").glob("*.json"))) == 3, "what is shipped was admitted once"
    house.run(house.launcher.load([]))


@pytest.mark.slow
def test_a_catalogue_is_kept_for_other_work_folders(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, cache = tmp_path / "own_kept.py", tmp_path / "cache"
    own.write_text(GOOD.format(name="kept"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))

    def names(folder: str) -> list[str]:
        admitted = house.run(admit(house.launcher, [own], folder=tmp_path / folder))
        return [one.name for one in admitted.catalogue.components]

    assert names("first") == ["own/kept"]
    (kept,) = (file for file in (cache / "tapeworks" / "catalogues").glob("*.json") if "own/kept" in file.read_text())
    kept.write_text(kept.read_text().replace("own/kept", "own/from_the_cache"))
    assert names("second") == ["own/from_the_cache"], "nothing is admitted again"
    os.utime(kept, (0, 0))
    assert names("first") == ["own/kept"], "a work folder's own comes first"
    assert kept.stat().st_mtime > 0, "what is in use in one place is forgotten in none"
    kept.write_text("{")
    assert names("third") == ["own/kept"], "what cannot be read is made again"
    monkeypatch.setenv("XDG_CACHE_HOME", str(own))
    assert names("fourth") == ["own/kept"], "a cache that cannot be is none"
    house.run(house.launcher.load([]))


@pytest.mark.slow
def test_plain_processes_do_the_same(tmp_path: Path) -> None:
    handles.become_subreaper()

    async def scene() -> None:
        launcher = SpawnLauncher(runner=RUNNER, admission=ADMISSION)
        await launcher.start()
        await launcher.load([])
        async with await runner(launcher, tmp_path, CUDA_VISIBLE_DEVICES="-1") as talk:
            told = await talk.ask("compute")
            assert told["sum"] == 9.0
            assert told["parent"] == os.getpid()
            assert told["session"] == told["pid"]
            assert Path(told["folder"]) == tmp_path
        await launcher.close()

    asyncio.run(scene())


AGENT = """
import asyncio, json, sys
from pathlib import Path
from tapeworks_workers.processes import handles
from tapeworks_workers.processes.launcher import ForkLauncher

async def main():
    handles.become_subreaper()
    launcher = ForkLauncher(runner=sys.argv[1], admission=sys.argv[2])
    await launcher.start()
    await launcher.load([])
    child = await launcher.runner(environment={}, folder=Path("."))
    pids = [child.handle.pid, (await launcher._living_base()).handle.pid, (await launcher._living_zygote()).handle.pid]
    print(json.dumps(pids), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.slow
def test_a_killed_agent_takes_runners_and_zygotes_with_it(until: Until, gone: Gone) -> None:
    with subprocess.Popen([sys.executable, "-c", AGENT, RUNNER, ADMISSION], stdout=subprocess.PIPE) as agent:
        assert agent.stdout is not None
        pids = json.loads(agent.stdout.readline())
        assert not any(gone(pid) for pid in pids)
        assert {psutil.Process(pid).ppid() for pid in pids} == {agent.pid}
        agent.kill()
        agent.wait()
        until(lambda: all(gone(pid) for pid in pids), seconds=10)


@pytest.mark.parametrize("wanted", [True, False])
def test_a_held_process_does_nothing_before_it_may_and_ends_where_nobody_wants_it(
    house: House, tmp_path: Path, wanted: bool
) -> None:
    file = tmp_path / "mark"

    async def scene() -> dict[str, Any] | None:
        base = await house.launcher._living_base()
        child = await base.launch(
            ChildTask(f"{SUPPORT / 'verifier_probe.py'}:mark", {"file": str(file)}, frame=True, held=True)
        )
        try:
            process = psutil.Process(child.handle.pid)
            while process.status() != psutil.STATUS_SLEEPING:
                await asyncio.sleep(0.01)
            assert not file.exists()
            if wanted:
                child.begin()
                return await child.result()
            child.sock.close()
            return None
        finally:
            assert await child.handle.wait() == 0
            os.close(child.stdout)
            os.close(child.stderr)

    assert house.run(scene()) == ({"ok": True, "report": str(file)} if wanted else None)
    assert file.exists() == wanted


def test_a_held_process_that_could_not_load_says_so_once_it_is_asked(house: House) -> None:
    async def scene() -> dict[str, Any] | None:
        base = await house.launcher._living_base()
        child = await base.launch(ChildTask("no_such_module:main", frame=True, held=True))
        await child.handle.wait()
        child.begin()
        try:
            return await child.result()
        finally:
            os.close(child.stdout)
            os.close(child.stderr)

    told = house.run(scene())
    assert told is not None
    assert "no_such_module" in told["failure"]["message"]


def test_a_discarded_process_leaves_neither_a_zombie_nor_descriptors(house: House, tmp_path: Path) -> None:
    async def scene() -> int:
        child = await house.launcher.runner(environment={}, folder=tmp_path)
        child.discard()
        while child.handle.pid in handles.held():
            await asyncio.sleep(0.01)
        return child.handle.pid

    house.run(scene())  # what the first one makes stays open
    before = psutil.Process().num_fds()
    pid = house.run(scene())
    assert not psutil.pid_exists(pid)
    assert psutil.Process().num_fds() == before
