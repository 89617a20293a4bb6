"""Where an attempt runs: as the worker's own processes do, or in a sandbox where it brings what a stranger wrote.

`ExecutionEnvironment.settle` fetches what the lease names and takes a room where one is needed; `leave` gives
everything back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tapeworks.errors import FailureCode, JobFailure
from tapeworks.schemas import worker_protocol
from tapeworks.schemas.jobs import JobKind
from tapeworks_workers.inputs.prefetch import ExternalData, Fetched
from tapeworks_workers.inputs.upload_cache import Cache, CachedUpload
from tapeworks_workers.machine import xla_cache as compiled
from tapeworks_workers.processes import exit_failures
from tapeworks_workers.processes.handles import Process
from tapeworks_workers.processes.launcher import Launcher
from tapeworks_workers.processes.messages import UploadedDataset
from tapeworks_workers.processes.zygote_client import LaunchFailed
from tapeworks_workers.sandbox import memory_limit
from tapeworks_workers.sandbox.pool import PooledSandbox, ResourceLimits, SandboxKey, SandboxPool

Fetch = Callable[[int, worker_protocol.LeaseInput, Path], Awaitable[None]]
"""Downloads one of the lease's inputs, by its place there."""


@dataclass
class ExecutionEnvironment:
    """Launcher, folder and environment of one attempt. In a sandbox they are known once it is settled."""

    launcher: Launcher
    folder: Path
    environment: Mapping[str, str]
    compiled: Path
    cache: Cache
    rooms: SandboxPool | None
    bounds: ResourceLimits
    components: tuple[Path, ...] = ()
    data_roots: tuple[Path, ...] = ()
    packages: bool = True
    """Whether uploaded packages may run here."""
    uploads: list[UploadedDataset] = field(default_factory=list)
    external: ExternalData | None = None
    fetched: Fetched = field(default_factory=Fetched)
    """Remote files and rows of databases."""
    trusted: Launcher = field(init=False)
    """Starts processes outside of every sandbox, for what must not share one with uploaded code."""
    own: Path = field(init=False)
    """The attempt's folder, which only the agent writes to; no sandbox shows it."""
    sealed: Path = field(init=False)
    """Where the agent puts what a sandbox may read and not change."""
    _kept: list[CachedUpload] = field(default_factory=list)
    _cell: PooledSandbox | None = None
    _members: list[Process] = field(default_factory=list)
    """Runner and verifiers."""
    _settled: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.trusted = self.launcher
        self.own = self.folder.parent
        self.sealed = self.own / "sealed"

    @property
    def sandboxed(self) -> bool:
        """Whether it is in a sandbox."""
        return self._cell is not None

    async def settle(self, lease: worker_protocol.Lease, fetch: Fetch) -> None:
        """Fetch uploads, and take a room for code and models of strangers. Raises JobFailure, LeaseLost, OSError."""
        packages = []
        for index, one in enumerate(lease.inputs):
            if one.kind in ("dataset", "package"):
                kept = await self.cache.hold(lease.project_id, one, partial(fetch, index, one))
                self._kept.append(kept)
                if one.kind == "dataset":
                    about = {"format": one.about["format"], "options": one.about.get("options", {})}
                    self.uploads.append(UploadedDataset.model_validate({"id": one.from_, "path": kept.folder, **about}))
                else:
                    packages.append((one, kept))
        if self.external is not None:
            await self.external.fetch(lease, self.fetched)
        if packages or (self.rooms is not None and self._is_walled(lease)):
            await self._enter(lease, packages)
        self._settled.set()

    def _is_walled(self, lease: worker_protocol.Lease) -> bool:
        """Whether a job without packages runs in a sandbox: one that reads what nobody has looked at yet."""
        return lease.kind is JobKind.INSPECT or (self.packages and _brings_a_bundle(lease))

    async def _enter(
        self, lease: worker_protocol.Lease, packages: list[tuple[worker_protocol.LeaseInput, CachedUpload]]
    ) -> None:
        if self.rooms is None or (packages and not self.packages):
            raise JobFailure(
                FailureCode.NOT_SUPPORTED,
                "this worker does not accept uploaded packages",
                hint="Run `tapeworks doctor` on the worker's machine.",
            )
        digests = tuple(sorted(one.sha256 for one, _ in packages))
        described = [
            {
                "id": one.from_,
                "version": one.about["version"],
                "root": str(kept.folder / str(one.about["root"])),
                "modules": one.about["modules"],
            }
            for one, kept in packages
        ]
        try:
            self._cell = await self.rooms.take(
                SandboxKey(lease.project_id, digests, bool(lease.gpus)),
                packages=described,
                components=self.components,
                readable=(self.cache.of_project(lease.project_id), *self.data_roots),
                bounds=self.bounds,
                refused=self.launcher.refused,
            )
        except LaunchFailed as error:
            if not packages:
                raise
            raise JobFailure(
                FailureCode.COMPONENT_ERROR,
                f"the package could not be imported: {error}",
                hint="Importing its modules must neither end the process nor run without end.",
            ) from error
        self.launcher, self.folder = self._cell.launcher, self._cell.run_folder
        self.compiled, self.sealed = self._cell.compiled, self._cell.sealed
        self.environment = {**self.environment, **compiled.environment(self.compiled, {})}

    def hand_over(self) -> None:
        """What was put into the folder belongs to whoever runs there."""
        if self._cell is not None:
            self._cell.own(self.folder)

    async def overrun(self) -> JobFailure:
        """Wait until the attempt takes more than it may; for ever where it does not."""
        await self._settled.wait()
        if self._cell is None:
            return await memory_limit.overrun(self._members, self.bounds.memory_bytes)
        return await self._cell.overrun()

    def oom_kills(self) -> int:
        """How many processes the kernel killed because memory was used up, where the attempt runs."""
        return exit_failures.oom_kills() if self._cell is None else self._cell.oom_kills()

    def started(self, process: Process) -> None:
        """A runner or verifier of the attempt: its memory counts."""
        self._members.append(process)

    async def leave(self) -> None:
        """The attempt has ended: the room is cleared, uploads may go."""
        for kept in [*self._kept, *self.fetched.kept]:
            self.cache.let_go(kept)
        if self._cell is not None and self.rooms is not None:
            await self.rooms.release(self._cell)


def _brings_a_bundle(lease: worker_protocol.Lease) -> bool:
    """Whether the lease brings a model that was uploaded: to load one is to trust it a little."""
    return any(one.kind == "bundle" and one.about for one in lease.inputs)
