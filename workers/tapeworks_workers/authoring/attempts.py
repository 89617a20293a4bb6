"""Attempts of an author's jobs in this process: the runner's own, with the verifiers of a worker.

Interface: `with Attempts() as attempts: attempts.run(start)` gives the frames of one attempt. Verifiers run in forks of
a zygote, as on a worker; the zygote starts with the first that is asked for. `attempts.refusals(paths)` imports modules
in such a fork, and gives those that a worker would refuse.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any

from tensorflow.python.framework.config import disable_op_determinism

from tapeworks.errors import FailureCode
from tapeworks_workers import runner
from tapeworks_workers.frames import Channel
from tapeworks_workers.launcher import IMPORT_SECONDS, ForkLauncher
from tapeworks_workers.lifelines import become_subreaper


class Attempts:
    """Runs attempts one after another, and ends what it started."""

    def __init__(self, *, import_seconds: float = IMPORT_SECONDS) -> None:
        self._import_seconds = import_seconds
        self._loop = asyncio.Runner()
        self._launcher: ForkLauncher | None = None

    def __enter__(self) -> Attempts:
        self._loop.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._launcher is not None:
                self._loop.run(self._launcher.close())
        finally:
            self._loop.__exit__(kind, error, traceback)

    def run(self, start: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Every frame that a runner in this process sent; the last one is its finish."""
        frames: list[dict[str, Any]] = []
        ours, theirs = socket.socketpair()
        with theirs:
            with closing(Channel(ours)) as channel:
                channel.send({"type": "start", **start})
                working = threading.Thread(target=runner.main, args=(theirs,), daemon=True)
                working.start()
                while (message := channel.receive()) is not None:
                    frames.append(message)
                    if message["type"] == "verify":
                        answer = self._verified(message, Path(start["folder"]))
                        channel.send({**answer, "reply": message["id"]})
                    if message["type"] == "finish":
                        break
                working.join()
            for reader in [thread for thread in threading.enumerate() if thread.name == "frames"]:
                reader.join()  # it hears that our end is closed, before its own is
        disable_op_determinism()  # a runner's process ends with its job; this one continues
        if not frames or frames[-1]["type"] != "finish":
            raise RuntimeError("the runner ended without a last word")
        return frames

    def _verified(self, message: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        which = str(message["verifier"])
        try:
            return self._loop.run(self._verify(which, folder / str(message["bundle"]), folder))
        except Exception as error:  # raised further it would close the channel, which ends a runner's process
            return _refused(f"the verifier {which!r} could not be run: {type(error).__name__}: {error}")

    def refusals(self, components: Sequence[Path]) -> Mapping[str, Mapping[str, str]]:
        """Modules that a worker would refuse because their import ends, blocks or changes its process: path → why."""
        return self._loop.run(self._forking().refusals(components))

    def _forking(self) -> ForkLauncher:
        if self._launcher is None:
            become_subreaper()  # what a zygote forks becomes this process's child
            self._launcher = ForkLauncher(import_seconds=self._import_seconds)
        return self._launcher

    async def _verify(self, which: str, bundle: Path, folder: Path) -> dict[str, Any]:
        child = await self._forking().verifier(which, bundle, environment={}, folder=folder)
        child.begin()
        try:
            answer = await child.result()
            status = await child.handle.wait()
        finally:
            child.close()
        if answer is not None:
            return answer
        return _refused(f"the verifier {which!r} ended with {status}")


def _refused(message: str) -> dict[str, Any]:
    return {"ok": False, "failure": {"code": FailureCode.INTERNAL.value, "message": message}}
