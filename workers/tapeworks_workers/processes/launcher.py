"""Starting runners, verifiers and admission: one seam, two ways.

`ForkLauncher` keeps two zygotes that have TensorFlow loaded and asks them to fork; a zygote that
dies is replaced, and ends nothing that it forked. `SpawnLauncher` (TAPEWORKS_RUNNER=spawn) starts a
plain process for each. Both give a `Child`: its pid, its frame socket, its output, its exit.

A launcher is started from the main thread of the agent: PR_SET_PDEATHSIG follows the thread.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import structlog

from tapeworks_workers.processes.children import Child, ChildPipes, ChildTask, DeathPipe, start_base
from tapeworks_workers.processes.component_loading import ComponentLoading, Refusals, strings, units_of
from tapeworks_workers.processes.handles import Handle
from tapeworks_workers.processes.zygote_client import LaunchFailed, Zygote

__all__ = ["ForkLauncher", "LaunchFailed", "Launcher", "SpawnLauncher"]

IMPORT_SECONDS = 60.0
"""What the import of one module of components may take by default."""
RELOAD = Path(__file__).parents[1] / "verification" / "reload.py"
RUNNER = "tapeworks_workers.runner:main"
ADMISSION = "tapeworks_workers.engine.admission.admission:admit_all"
CERTIFY = "tapeworks_workers.verification.certify:main"
RESUME = "tapeworks_workers.engine.validation.resume_test:main"
COMPARE = "tapeworks_workers.verification.certificate:main"
VERIFIERS = {"reload": f"{RELOAD}:main", "certify": CERTIFY, "compare": COMPARE, "resume": RESUME}
"""`reload` and `certify` run a bundle's code and write what they saw; `compare` runs none of it and makes the
certificate; `resume` tests a checkpoint, with the components of a runner."""
Spawn = Callable[[DeathPipe, Sequence[str], Sequence[int]], Handle]
"""Starts `base.py` with arguments and descriptors that it inherits."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class LoadedComponents:
    """What a catalogue is made of: versions of what the worker runs, and the digest of what each part depends on."""

    versions: dict[str, str]
    parts: dict[str, str]
    """`shipped`, and `own` where there are others; empty where nothing is kept loaded."""
    refused: Refusals
    """Modules that would end, block or change the process that jobs are started from: path or name → why."""


class Launcher(Protocol):
    """How an agent starts what has TensorFlow in it."""

    refused: Refusals
    """Modules that the last `load` left out."""

    async def start(self) -> None:
        """Begin to load TensorFlow, so that the first job need not wait for it."""

    async def load(self, components: Sequence[Path]) -> LoadedComponents:
        """Make the components in these paths those of the runners from now on. Raises LaunchFailed."""

    async def runner(self, *, environment: Mapping[str, str], folder: Path) -> Child:
        """Start a runner. Raises LaunchFailed."""

    async def verifier(
        self, which: str, arguments: Mapping[str, Any], *, environment: Mapping[str, str], folder: Path
    ) -> Child:
        """Start one of VERIFIERS, held; `result()` is its report. Raises LaunchFailed."""

    async def admission(self, part: str, *, environment: Mapping[str, str], skipped: Refusals | None = None) -> Child:
        """Start the admission of `shipped` components, the worker's `own`, or `all`; see `zygote.catalogue` for its
        frames and what is `skipped`. Raises LaunchFailed.
        """

    async def close(self) -> None:
        """End the zygotes. What they forked goes on."""


def verification(
    which: str, arguments: Mapping[str, Any], *, environment: Mapping[str, str], folder: Path
) -> ChildTask:
    """The work of a verifier; `reload` runs where Tapeworks cannot be imported."""
    return ChildTask(
        target=VERIFIERS[which],
        arguments=dict(arguments),
        frame=True,
        held=True,
        bar=which == "reload",
        environment=environment,
        folder=folder,
    )


def admitting(arguments: dict[str, Any], environment: Mapping[str, str]) -> ChildTask:
    """The work of an admission child."""
    return ChildTask("tapeworks_workers.processes.component_zygote:catalogue", arguments, environment=environment)


# ── plain processes ──────────────────────────────────────────────────────────────────────────────


class SpawnLauncher:
    """A plain process for each runner, verifier and admission; it imports TensorFlow itself."""

    def __init__(
        self, *, runner: str = RUNNER, admission: str = ADMISSION, import_seconds: float = IMPORT_SECONDS
    ) -> None:
        self._runner = runner
        self._admission = admission
        self._components: list[str] = []
        self.refused: Refusals = {}
        self._lifeline = DeathPipe()
        self._loading = ComponentLoading(self._start_trial, import_seconds)

    async def start(self) -> None:
        """Nothing is kept loaded."""

    async def load(self, components: Sequence[Path]) -> LoadedComponents:
        trial, _, refused = await self._loading.load(components, [], targets=[])
        await trial.close()
        self._components, self.refused = units_of(components), refused
        return LoadedComponents(versions={}, parts={}, refused=refused)

    async def _start_trial(self, arguments: dict[str, Any]) -> Zygote:
        """A plain process that loads components as a zygote does, to find those that every other process leaves out."""
        request = ChildTask("tapeworks_workers.processes.component_zygote:serve", arguments).request() | {
            "serves": True
        }
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        given = [theirs.detach(), os.dup(2), os.dup(2)]
        try:
            handle = self._start_once(request, given)
        except LaunchFailed:
            ours.close()
            raise
        finally:
            for descriptor in given:
                os.close(descriptor)
        return Zygote(handle, ours)

    async def runner(self, *, environment: Mapping[str, str], folder: Path) -> Child:
        arguments = {"components": self._components, "refused": self.refused, "target": self._runner}
        return self._spawn(
            ChildTask(
                "tapeworks_workers.processes.component_zygote:run_once",
                arguments,
                environment=environment,
                folder=folder,
            )
        )

    async def verifier(
        self, which: str, arguments: Mapping[str, Any], *, environment: Mapping[str, str], folder: Path
    ) -> Child:
        work = verification(which, arguments, environment=environment, folder=folder)
        if which == "resume":
            work.arguments.update(components=self._components, refused=self.refused)
        return self._spawn(work)

    async def admission(self, part: str, *, environment: Mapping[str, str], skipped: Refusals | None = None) -> Child:
        arguments = {
            "admission": self._admission, "part": part, "skipped": skipped or {}, "components": self._components,
            "refused": self.refused,
        }  # fmt: skip
        return self._spawn(admitting(arguments, environment))

    async def close(self) -> None:
        self._lifeline.close()

    def _spawn(self, work: ChildTask) -> Child:
        ends = ChildPipes.open()
        try:
            handle = self._start_once(work.request(), ends.given())
        except LaunchFailed:
            ends.close_ours()
            raise
        finally:
            ends.close_given()
        return ends.child(handle)

    def _start_once(self, request: dict[str, Any], descriptors: Sequence[int]) -> Handle:
        numbers = [str(descriptor) for descriptor in descriptors]
        try:
            return start_base(self._lifeline, ["once", json.dumps(request), *numbers], descriptors)
        except OSError as error:
            raise LaunchFailed(f"no process could be started: {error}") from error


# ── forks of the zygotes ─────────────────────────────────────────────────────────────────────────


class ForkLauncher:
    """Keeps a base zygote, a component zygote, and one of the engine alone; replaces each when it dies.

    `spawn` starts the base, `output` is where zygotes write what they print: both are other ones in a sandbox.
    `packages`: what uploaded packages bring, see `zygote.serve`; `belongs`: in a sandbox, whether a pid lives there;
    `import_seconds`: what the import of one module of components may take; `known`: modules that are not to be tried.
    """

    def __init__(
        self,
        *,
        runner: str = RUNNER,
        admission: str = ADMISSION,
        spawn: Spawn = start_base,
        output: int = 2,
        packages: Sequence[Mapping[str, Any]] = (),
        belongs: Callable[[int], bool] | None = None,
        import_seconds: float = IMPORT_SECONDS,
        known: Refusals | None = None,
    ) -> None:
        self._loading = ComponentLoading(self._start_zygote, import_seconds, belongs is None, known or {})
        self.refused: Refusals = {}
        self._belongs = belongs
        self._runner = runner
        self._admission = admission
        self._spawn = spawn
        self._output = output
        self._packages = [dict(package) for package in packages]
        self._components: list[Path] = []
        self._lifeline = DeathPipe()
        self._bases: asyncio.Lock = asyncio.Lock()
        self._loads: asyncio.Lock = asyncio.Lock()
        self._base: Zygote | None = None
        self._versions: dict[str, str] = {}
        self._zygote: Zygote | None = None
        self._engines: asyncio.Lock = asyncio.Lock()
        self._engine: Zygote | None = None
        self._watches: dict[Zygote, asyncio.Task[None]] = {}
        self._replacing: set[asyncio.Task[None]] = set()
        self._closed = False

    async def start(self) -> None:
        await self._living_engine()

    async def load(self, components: Sequence[Path]) -> LoadedComponents:
        zygote, parts, refused = await self._load(list(components))  # runners start from the former one meanwhile
        async with self._loads:
            self._components, self.refused = list(components), refused
            await self._adopt(zygote)
        return LoadedComponents(versions=self._versions, parts=parts, refused=refused)

    async def refusals(self, components: Sequence[Path]) -> Refusals:
        """The modules that `load` would refuse; nothing is kept loaded. Raises LaunchFailed."""
        zygote, _, refused = await self._loading.load(components, [], targets=[])
        await zygote.close()
        return refused

    async def runner(self, *, environment: Mapping[str, str], folder: Path) -> Child:
        work = ChildTask(self._runner, environment=environment, folder=folder)
        return await self._from_components(work)

    async def verifier(
        self, which: str, arguments: Mapping[str, Any], *, environment: Mapping[str, str], folder: Path
    ) -> Child:
        work = verification(which, arguments, environment=environment, folder=folder)
        if which == "resume":
            return await self._from_components(work)
        living = self._living_base if which == "reload" else self._living_engine
        try:
            return await (await living()).launch(work)
        except LaunchFailed:  # it died since: the next one is new
            return await (await living()).launch(work)

    async def admission(self, part: str, *, environment: Mapping[str, str], skipped: Refusals | None = None) -> Child:
        arguments = {"admission": self._admission, "part": part, "skipped": skipped or {}}
        return await self._from_components(admitting(arguments, environment))

    async def close(self) -> None:
        self._closed = True
        for watch in [*self._watches.values(), *self._replacing]:
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch
        for zygote in (self._zygote, self._engine, self._base):
            if zygote is not None:
                await zygote.close()
        self._lifeline.close()

    async def _from_components(self, work: ChildTask) -> Child:
        try:
            return await (await self._living_zygote()).launch(work)
        except LaunchFailed:
            return await (await self._living_zygote()).launch(work)

    async def _living_base(self) -> Zygote:
        async with self._bases:
            if self._closed:
                raise LaunchFailed("the launcher is closed")
            if self._base is None or not self._base.alive:
                if self._base is not None:
                    log.warning("the base zygote ended and is restarted", pid=self._base.handle.pid)
                    await self._base.close()
                    self._base = None
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                with theirs:
                    handle = self._spawn(self._lifeline, ["serve", str(theirs.fileno())], [theirs.fileno()])
                base = Zygote(handle, ours, belongs=self._belongs)
                self._base = base  # closed with the launcher even where the start is cut off
                self._versions = strings((await base.answer()).get("versions"))
            return self._base

    async def _living_engine(self) -> Zygote:
        """The zygote of the engine without components."""
        async with self._engines:
            if self._engine is None or not self._engine.alive:
                if self._engine is not None:
                    log.warning("the engine's zygote ended and is restarted", pid=self._engine.handle.pid)
                    await self._engine.close()
                    self._engine = None
                engine = await self._fork_zygote(
                    "tapeworks_workers.processes.component_zygote:serve_empty", {"targets": [CERTIFY, COMPARE]}
                )
                self._engine = engine  # closed with the launcher even where the start is cut off
                if not (answer := await engine.answer()).get("ready"):
                    raise LaunchFailed(f"the engine cannot be forked: {str(answer.get('error'))[:1000]}")
                self._replace_when_gone(engine, self._living_engine)
            return self._engine

    async def _living_zygote(self) -> Zygote:
        async with self._loads:
            if self._zygote is None or not self._zygote.alive:
                if self._zygote is not None:
                    log.warning("the component zygote ended and is restarted", pid=self._zygote.handle.pid)
                zygote, _, _ = await self._load(self._components)
                await self._adopt(zygote)
            assert self._zygote is not None  # noqa: S101 — adopted just now
            return self._zygote

    async def _adopt(self, zygote: Zygote) -> None:
        former, self._zygote = self._zygote, zygote
        if former is not None:
            if (watch := self._watches.pop(former, None)) is not None:
                watch.cancel()
            await former.close()
        self._replace_when_gone(zygote, self._living_zygote)

    def _replace_when_gone(self, zygote: Zygote, living: Callable[[], Awaitable[Zygote]]) -> None:
        """A successor is warm before the next job asks for it."""
        self._watches[zygote] = asyncio.create_task(self._replaced(zygote, living))

    async def _replaced(self, zygote: Zygote, living: Callable[[], Awaitable[Zygote]]) -> None:
        await zygote.handle.wait()
        task = self._watches.pop(zygote, None)  # adopting the successor must not cancel this task
        if task is None:
            return
        self._replacing.add(task)
        try:
            await living()
        except LaunchFailed as error:
            log.error("no zygote could be started; the next job tries again", error=str(error))
        finally:
            self._replacing.discard(task)

    async def _load(self, components: list[Path]) -> tuple[Zygote, dict[str, str], Refusals]:
        """A new component zygote, without the modules that cannot stay in a process that forks."""
        targets = [self._runner, self._admission]
        return await self._loading.load(components, self._packages, targets=targets)

    async def _start_zygote(self, arguments: dict[str, Any]) -> Zygote:
        return await self._fork_zygote("tapeworks_workers.processes.component_zygote:serve", arguments)

    async def _fork_zygote(self, target: str, arguments: dict[str, Any]) -> Zygote:
        request = ChildTask(target, arguments).request() | {"serves": True}
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            given = [theirs.fileno(), self._output, self._output]
            try:
                handle = await (await self._living_base()).fork(request, given)
            except LaunchFailed:  # it died since: the next one is new
                handle = await (await self._living_base()).fork(request, given)
        return Zygote(handle, ours, belongs=self._belongs)
