"""Attempts of an author's jobs in this process: the runner's own, with the verifiers of a worker.

Interface: `with Attempts() as attempts: attempts.run(start)` gives the frames of one attempt. Verifiers run in forks of
a zygote, as on a worker; the zygote starts with the first that is asked for. `attempts.refusals(paths)` imports modules
in such a fork, and gives those that a worker would refuse.
"""

from __future__ import annotations

import asyncio
import socket
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any

from tapeworks.errors import FailureCode
from tapeworks_workers import runner
from tapeworks_workers.engine.graph.tensorflow_private import disable_op_determinism
from tapeworks_workers.engine.runtime import has_gpu
from tapeworks_workers.processes.frames import Channel
from tapeworks_workers.processes.handles import become_subreaper
from tapeworks_workers.processes.launcher import IMPORT_SECONDS, ForkLauncher
from tapeworks_workers.processes.messages import VerifierAnswer
from tapeworks_workers.verification.verification import BundleVerification, VerificationPlace, VerificationTerms
from tapeworks_workers.verification.verifier_process import answer_of, refused

VERIFY_SECONDS = 600.0
"""What a verifier may take."""


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
                    if message["type"] in ("verify", "certify"):
                        channel.send(self._answered(message, start).reply_to(message["id"]).document())
                    if message["type"] == "finish":
                        break
                working.join()
            for reader in [thread for thread in threading.enumerate() if thread.name == "frames"]:
                reader.join()  # it hears that our end is closed, before its own is
        disable_op_determinism()  # a runner's process ends with its job; this one continues
        if not frames or frames[-1]["type"] != "finish":
            raise RuntimeError("the runner ended without a result")
        return frames

    def _answered(self, message: Mapping[str, Any], start: Mapping[str, Any]) -> VerifierAnswer:
        folder = Path(start["folder"])
        try:
            if message["type"] == "certify":
                return self._loop.run(self._certify(start["lease"]["spec"]["export"], folder))
            return self._loop.run(self._verify(str(message["verifier"]), folder / str(message["bundle"]), folder))
        except Exception as error:  # raised further it would close the channel, which ends a runner's process
            what = f"a verifier could not be run: {type(error).__name__}: {error}"
            return refused(FailureCode.INTERNAL, what)

    async def _certify(self, export: Mapping[str, Any], folder: Path) -> VerifierAnswer:
        launcher = self._forking()
        with tempfile.TemporaryDirectory() as name:
            own = Path(name)
            verification = BundleVerification(
                VerificationPlace(
                    launcher, launcher, {}, run=folder, sealed=own / "sealed", own=own, started=lambda process: None
                ),
                VerificationTerms(tolerance=export["tolerance"], formats=export["formats"], gpu=has_gpu(), pack=False),
                keep=_unheard,
                seconds=VERIFY_SECONDS,
            )
            return await verification.run()

    def refusals(self, components: Sequence[Path]) -> Mapping[str, Mapping[str, str]]:
        """Modules that a worker would refuse because their import ends, blocks or changes its process: path → why."""
        return self._loop.run(self._forking().refusals(components))

    def _forking(self) -> ForkLauncher:
        if self._launcher is None:
            become_subreaper()  # what a zygote forks becomes this process's child
            self._launcher = ForkLauncher(import_seconds=self._import_seconds)
        return self._launcher

    async def _verify(self, which: str, bundle: Path, folder: Path) -> VerifierAnswer:
        child = await self._forking().verifier(which, {"bundle": str(bundle)}, environment={}, folder=folder)
        return await answer_of(child, which, keep=_unheard, seconds=VERIFY_SECONDS)


def _unheard(record: Mapping[str, Any]) -> None:
    """What verifiers print is no part of a finding."""
