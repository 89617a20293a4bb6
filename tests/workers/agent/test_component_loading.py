"""Files of components that end, block or change the process that imports them: refused by name, the others served."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tapeworks.errors import FailureCode
from tapeworks.schemas.worker_protocol import Catalogue
from tapeworks_workers.agent.catalogue_cache import admit
from tapeworks_workers.processes import handles
from tapeworks_workers.processes.launcher import ForkLauncher, Launcher, SpawnLauncher
from tests.support.paths import SUPPORT

RUNNER = f"{SUPPORT / 'tiny_runner.py'}:main"
ADMISSION = f"{SUPPORT / 'tiny_runner.py'}:catalogue"
GOOD = """
from tapeworks import component

@component("own/{name}", kind="transform")
def {name}(x):
    return x
"""
ENDS = {
    "exit": ("import sys\nsys.exit(3)\n", "SystemExit: 3"),
    "raise": ("class Odd(BaseException): pass\nraise Odd('no')\n", "Odd: no"),
    "os_exit": ("import os\nos._exit(0)\n", "ends the process with exit status 0"),
    "kill": ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n", "ends the process by SIGKILL"),
    "segfault": ("import ctypes\nctypes.string_at(0)\n", "ends the process by SIGSEGV"),
    "exec": ("import os\nos.execv('/bin/true', ['true'])\n", "ends the process with exit status 0"),
}
CHANGES = {
    "closes": ("import os\nos.closerange(0, 256)\n", "closes the descriptors of its process"),
    "closes_output": ("import os\nos.close(1)\n", "closes or replaces descriptors of its process: 1"),
    "forks": ("import os\nos.fork()\n", "leaves processes running: 1"),
    "leaves": (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(600)\n"
        "    os._exit(0)\n",
        "leaves processes running: 1",
    ),
    "threads": ("import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n",
                "leaves threads running"),
    "alarms": ("import signal\nsignal.alarm(3)\n", "signal handlers or timers"),
    "policy": ("import keras\nkeras.config.set_dtype_policy('mixed_float16')\n", "keras.config.dtype_policy"),
    "registers": ("import keras\nkeras.saving.get_custom_objects()['Dense'] = object\n", "as 'Dense'"),
}  # fmt: skip
PATCHES = {
    "keras_method": ("import keras\nkeras.layers.Dense.call = lambda self, x: x\n", "Dense.call"),
    "keras_added": ("import keras\nkeras.layers.Dense.__call__ = lambda self, x: x\n", "Dense.__call__"),
    "keras_code": (
        "import keras\ndef call(self, inputs, training=None):\n    return inputs\n"
        "keras.layers.Dense.call.__code__ = call.__code__\n",
        "Dense.call",
    ),
    "tensorflow": ("import tensorflow as tf\ntf.matmul = tf.add\n", "matmul"),
    "numpy": ("import numpy as np\nnp.mean = np.sum\n", "numpy.mean"),
    "builtins": ("import builtins\nbuiltins.sum = max\n", "builtins.sum"),
    "standard": ("import json\njson.dumps = str\n", "json.dumps"),
    "tapeworks": ("from tapeworks.components.registry import Registry\nRegistry.get = Registry.find\n", "Registry.get"),
}  # fmt: skip


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    handles.become_subreaper()
    with asyncio.Runner() as loop:
        yield loop


@pytest.fixture(scope="module")
def launcher(loop: asyncio.Runner) -> Iterator[ForkLauncher]:
    launcher = ForkLauncher(runner=RUNNER, admission=ADMISSION, import_seconds=15)
    loop.run(launcher.start())
    yield launcher
    loop.run(launcher.close())


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The admission of these tests admits nothing that is shipped."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def written(folder: Path, files: dict[str, tuple[str, str]]) -> Path:
    """A folder with these files between two good ones."""
    folder.mkdir()
    for name in ("aa", "zz"):
        (folder / f"own_{name}.py").write_text(GOOD.format(name=name))
    for name, (text, _) in files.items():
        (folder / f"own_{name}.py").write_text(text)
    return folder


def admitted(loop: asyncio.Runner, launcher: Launcher, folder: Path, work: Path) -> Catalogue:
    return loop.run(admit(launcher, [folder], folder=work)).catalogue


SOME = {
    name: {**ENDS, **CHANGES, **PATCHES}[name]
    for name in ("exit", "os_exit", "closes", "leaves", "keras_method", "keras_code", "standard")
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "files",
    [
        pytest.param(SOME, id="some"),
        *(
            pytest.param(files, id=name, marks=pytest.mark.thorough)
            for name, files in {"ends": ENDS, "changes": CHANGES, "patches": PATCHES}.items()
        ),
    ],
)
def test_each_is_refused_by_name_and_the_others_are_served(
    loop: asyncio.Runner, launcher: ForkLauncher, tmp_path: Path, files: dict[str, tuple[str, str]]
) -> None:
    found = admitted(loop, launcher, written(tmp_path / "own", files), tmp_path / "catalogues")
    assert [one.name for one in found.components] == ["own/aa", "own/zz"]
    refused = {one.name.removesuffix(".py"): one for one in found.refused}
    assert set(refused) == {f"own_{name}" for name in files}
    for name, (_, reason) in files.items():
        assert reason in refused[f"own_{name}"].reason
        assert refused[f"own_{name}"].code is FailureCode.COMPONENT_ERROR
    assert not [child for child in psutil.Process().children(recursive=True) if "sleep" in child.name()]


@pytest.mark.slow
def test_one_that_does_not_end_is_refused_and_remembered_until_a_file_changes(
    loop: asyncio.Runner, tmp_path: Path
) -> None:
    folder = written(tmp_path / "own", {"waits": ("import time\nopen(__file__ + '.begun', 'a').write('x')\n"
                                                  "time.sleep(600)\n", "")})  # fmt: skip
    launcher = ForkLauncher(runner=RUNNER, admission=ADMISSION, import_seconds=2)
    begun = folder / "own_waits.py.begun"
    try:
        for _ in range(2):
            found = admitted(loop, launcher, folder, tmp_path / "catalogues")
            assert [one.name for one in found.components] == ["own/aa", "own/zz"]
            (refused,) = found.refused
            assert refused.name == "own_waits.py"
            assert refused.code is FailureCode.COMPONENT_TIMEOUT
            assert "within 2 s" in refused.reason
            assert refused.hint
        assert begun.read_text() == "x", "it is imported once"
        (folder / "own_waits.py").write_text(GOOD.format(name="waits"))
        found = admitted(loop, launcher, folder, tmp_path / "catalogues")
        assert [one.name for one in found.components] == ["own/aa", "own/waits", "own/zz"]
        assert found.refused == []
    finally:
        loop.run(launcher.close())


@pytest.mark.slow
def test_plain_processes_leave_out_what_a_trial_has_found(loop: asyncio.Runner, tmp_path: Path) -> None:
    files = {"a0": ENDS["os_exit"]}
    launcher = SpawnLauncher(runner=RUNNER, admission=ADMISSION, import_seconds=30)
    try:
        found = admitted(loop, launcher, written(tmp_path / "own", files), tmp_path / "catalogues")
        assert [one.name for one in found.components] == ["own/aa", "own/zz"]
        assert [one.name for one in found.refused] == ["own_a0.py"]
    finally:
        loop.run(launcher.close())


def test_what_libraries_do_when_they_are_imported_is_no_patch(
    loop: asyncio.Runner, launcher: ForkLauncher, tmp_path: Path
) -> None:
    libraries = "sklearn.ensemble scipy.optimize pyarrow.dataset h5py absl.flags unittest.mock multiprocessing.pool"
    text = "".join(f"import {name}\n" for name in libraries.split()) + GOOD.format(name="imports")
    found = admitted(loop, launcher, written(tmp_path / "own", {"imports": (text, "")}), tmp_path / "catalogues")
    assert found.refused == []
    assert [one.name for one in found.components] == ["own/aa", "own/imports", "own/zz"]
