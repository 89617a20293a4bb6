"""Sandboxes that stay warm: `SandboxPool.take` gives one for an attempt, `release` clears it for the next.

A room belongs to a project and a set of packages, has TensorFlow and those packages loaded, and serves one attempt at a
time; another attempt at the same moment gets a room of its own. What an attempt left running is killed when it ends,
what it left written is removed.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import structlog

from tapeworks.errors import FailureCode, JobFailure
from tapeworks_workers import file_trees
from tapeworks_workers.machine import xla_cache
from tapeworks_workers.processes import exit_failures
from tapeworks_workers.processes.children import DeathPipe
from tapeworks_workers.processes.component_loading import Refusals
from tapeworks_workers.processes.handles import Handle
from tapeworks_workers.processes.launcher import ForkLauncher
from tapeworks_workers.processes.output_lines import Output
from tapeworks_workers.processes.zygote_client import LaunchFailed
from tapeworks_workers.sandbox import memory_count, memory_limit, usage
from tapeworks_workers.sandbox.cgroups import Cgroups
from tapeworks_workers.sandbox.isolation import Sandbox, SandboxMount
from tapeworks_workers.sandbox.temporary_files import NotClean, TemporaryFiles

WATCH_SECONDS = 0.25
EMPTY_WATCH_SECONDS = 1.0
"""Between looks at a room where nobody is."""
DISK_EVERY = 4
"""Looks at memory for each look at the disk."""
KEPT = 2
"""Rooms that stay warm while nobody is in them."""
CLEAR_SECONDS = 10.0
CGROUP_MARGIN_BYTES = 64 << 20

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class SandboxKey:
    """Whose code a room is for."""

    project: str
    packages: tuple[str, ...]
    """Digests."""
    gpus: bool


@dataclass(frozen=True)
class ResourceLimits:
    """What a room may take."""

    memory_bytes: int
    """Beside what its zygotes take at rest."""
    disk_bytes: int


@dataclass(eq=False)
class PooledSandbox:
    """One room, with what runs in it."""

    occupants: SandboxKey
    bounds: ResourceLimits
    number: int
    room: SandboxMount
    launcher: ForkLauncher
    sandbox: Sandbox
    output: Output
    taken: bool = True
    closing: bool = False
    ended_at: float = 0.0
    bases: list[Handle] = field(default_factory=list)
    """What was started from out here; the last one lives."""
    residents: set[usage.Inhabitant] = field(default_factory=set)
    """The zygotes, who stay when an attempt ends."""
    resting_bytes: int = 0
    """What they take."""
    temporary: TemporaryFiles | None = None
    """What lay in its /tmp and /dev/shm before the first attempt; None where these are not its own."""
    printing: asyncio.Task[None] | None = None
    watch: asyncio.Task[None] | None = None

    @property
    def run_folder(self) -> Path:
        """Where an attempt writes."""
        return self.room.folder / "run"

    @property
    def sealed(self) -> Path:
        """What the agent shows to the room; nobody inside can write to it."""
        return self.room.folder.with_name(f"{self.room.folder.name}.sealed")

    @property
    def compiled(self) -> Path:
        """What was compiled here: other rooms would have to trust it."""
        return xla_cache.folder_of(self.room.folder)

    def inhabitants(self) -> set[usage.Inhabitant]:
        """All processes in it."""
        if self.sandbox.bubblewrap is not None:
            return set().union(*(usage.inside(base.pid) for base in self.bases))
        if self.room.uid is not None:
            return usage.of_user(self.room.uid)
        return set().union(*(usage.below(base.pid) for base in self.bases))

    def first_process(self) -> int | None:
        """The pid of bubblewrap's own process in it, through which its files are seen from out here."""
        if self.sandbox.bubblewrap is None:
            return None
        return usage.first_inside(self.bases[-1].pid)

    def guests(self) -> set[usage.Inhabitant]:
        """Those that an attempt brought."""
        return self.inhabitants() - self.residents

    async def overrun(self) -> JobFailure:
        """Wait until it takes more than it may, whoever in it does; for ever where none does."""
        looks = 0
        while True:
            await asyncio.sleep(WATCH_SECONDS if self.taken else EMPTY_WATCH_SECONDS)
            used = await asyncio.to_thread(self._used_bytes)
            if used > self.bounds.memory_bytes:
                return memory_limit.exceeded(used, self.bounds.memory_bytes, "the sandbox")
            looks += 1
            if looks % DISK_EVERY == 0 or not self.taken:
                try:
                    used = await asyncio.to_thread(usage.disk_bytes, self.room.folder)
                except OSError as error:
                    message = f"the files in its sandbox cannot be counted: {error.strerror}"
                    hint = "Nest folders less deeply than a path can name (4096 bytes)."
                    return JobFailure(FailureCode.STORAGE_FULL, message, hint=hint, retryable=False)
                if used > self.bounds.disk_bytes:
                    message = f"the sandbox exceeded its disk limit: {used} of {self.bounds.disk_bytes} bytes"
                    return JobFailure(FailureCode.STORAGE_FULL, message, retryable=False)

    def _used_bytes(self) -> int:
        """Beyond what rests in it. Exact only where it matters: an exact count takes milliseconds of each process."""
        if self.room.cgroup is not None:
            return self.room.cgroup.used_bytes() - self.resting_bytes
        inhabitants = self.inhabitants()
        beside = self._temporary_bytes(inhabitants) - self.resting_bytes
        at_most = memory_count.most_bytes(inhabitants) + beside
        if at_most <= self.bounds.memory_bytes:
            return at_most
        return memory_count.used_bytes(inhabitants) + beside

    def resting(self) -> int:
        """What its zygotes take."""
        return (
            self.room.cgroup.used_bytes() if self.room.cgroup is not None else memory_count.used_bytes(self.residents)
        )

    def limit_memory(self) -> None:
        """Let the kernel hold the limit, where it counts: a little above, so that the cause is known."""
        if self.room.cgroup is not None:
            self.room.cgroup.limit(self.resting_bytes + self.bounds.memory_bytes + CGROUP_MARGIN_BYTES)

    def oom_kills(self) -> int:
        """How many processes the kernel killed for memory, here or where no cgroup is the sandbox's own."""
        return exit_failures.oom_kills() if self.room.cgroup is None else self.room.cgroup.oom_kills()

    def _temporary_bytes(self, inhabitants: set[usage.Inhabitant]) -> int:
        """Of the /tmp and /dev/shm that bubblewrap made."""
        if self.sandbox.bubblewrap is None or not inhabitants:
            return 0
        return memory_count.temporary_bytes(min(inhabitants, key=lambda one: one[1])[0])

    def own(self, path: Path) -> None:
        """Give a file or folder, with all below it, to the room's user."""
        if self.room.uid is None:
            return
        below = [entry.path for entry in file_trees.entries(path)]
        for one in (os.fspath(path), *below):
            os.chown(one, self.room.uid, self.room.uid, follow_symlinks=False)


class SandboxPool:
    """The sandboxes of a worker, below one folder."""

    def __init__(self, folder: Path, sandbox: Sandbox, cgroups: Cgroups | None = None) -> None:
        self._folder = folder.resolve()
        self._cgroups = cgroups
        self._sandbox = sandbox
        self._cells: list[PooledSandbox] = []
        self._changing = asyncio.Lock()

    async def take(
        self,
        occupants: SandboxKey,
        *,
        packages: Sequence[Mapping[str, Any]],
        components: Sequence[Path],
        readable: Sequence[Path],
        bounds: ResourceLimits,
        refused: Refusals | None = None,
    ) -> PooledSandbox:
        """A warm room for one attempt; `refused`: modules of components that the worker left out.

        Raises LaunchFailed where none can be made, JobFailure where its packages take more than they may while they are
        imported."""
        async with self._changing:
            for cell in self._cells:
                if not cell.taken and cell.occupants == occupants:
                    self._unwatch(cell)
                    cell.taken, cell.bounds = True, bounds
                    cell.limit_memory()
                    return cell
            await self._make_place()
            cell = self._furnish(occupants, bounds, packages, (*readable, *components), refused or {})
            self._cells.append(cell)
        try:
            await self._warm(cell, components)
            return cell
        except LaunchFailed as error:
            tail = "\n".join(cell.output.tail)
            await self._close(cell)
            raise LaunchFailed(f"{error}\n{tail}".strip()) from error
        except BaseException:
            await self._close(cell)
            raise

    async def _warm(self, cell: PooledSandbox, components: Sequence[Path]) -> None:
        """Load TensorFlow and the packages, within the bounds."""

        async def load() -> None:
            await cell.launcher.start()
            await cell.launcher.load(components)

        loading, overrun = asyncio.create_task(load()), asyncio.create_task(cell.overrun())
        try:
            await asyncio.wait({loading, overrun}, return_when=asyncio.FIRST_COMPLETED)
            if not loading.done():
                raise overrun.result()
            loading.result()
        finally:
            for task in (loading, overrun):
                task.cancel()
            await asyncio.wait({loading, overrun})
        cell.residents = await asyncio.to_thread(cell.inhabitants)
        cell.resting_bytes = await asyncio.to_thread(cell.resting)
        cell.limit_memory()
        if (first := cell.first_process()) is not None:
            try:
                cell.temporary = await asyncio.to_thread(TemporaryFiles.record, first)
            except (NotClean, OSError) as error:
                raise LaunchFailed(f"its temporary files cannot be read: {error}") from error

    def _watch(self, cell: PooledSandbox) -> None:
        """Nobody is in the room; what a package left in its zygotes may still grow."""

        async def until_it_grows() -> None:
            failure = await cell.overrun()
            log.error("an idle sandbox exceeds its memory limit and is removed", reason=failure.message)
            cell.watch = None
            await self._close(cell)

        cell.watch = asyncio.create_task(until_it_grows())

    def _unwatch(self, cell: PooledSandbox) -> None:
        if cell.watch is not None:
            cell.watch.cancel()
            cell.watch = None

    async def release(self, cell: PooledSandbox) -> None:
        """An attempt has ended: clear the room, and keep it warm; one that cannot be cleared, or whose zygotes the
        attempt ended, is pulled down."""
        if not cell.residents <= await asyncio.to_thread(cell.inhabitants):
            await self._close(cell)
            return
        try:
            async with asyncio.timeout(CLEAR_SECONDS):
                while guests := await asyncio.to_thread(cell.guests):
                    _kill(guests)
                    await asyncio.sleep(0.02)
            await asyncio.to_thread(self._empty, cell)
            if cell.temporary is not None and (first := cell.first_process()) is not None:
                await asyncio.to_thread(cell.temporary.clear, first)
        except (TimeoutError, OSError, NotClean) as error:
            log.error("a sandbox could not be cleared and is discarded", error=str(error))
            await self._close(cell)
            return
        async with self._changing:
            cell.taken, cell.ended_at = False, time.monotonic()
            self._watch(cell)
            await self._make_place(spare=0)

    async def close(self) -> None:
        """End them all."""
        for cell in list(self._cells):
            await self._close(cell)

    async def _make_place(self, *, spare: int = 1) -> None:
        """Close those that were not used for the longest; `spare`: how many are about to be added."""
        idle = sorted((cell for cell in self._cells if not cell.taken), key=lambda cell: cell.ended_at)
        for cell in idle[: max(0, len(idle) - KEPT + spare)]:
            await self._close(cell)

    def _furnish(
        self,
        occupants: SandboxKey,
        bounds: ResourceLimits,
        packages: Sequence[Mapping[str, Any]],
        readable: tuple[Path, ...],
        refused: Refusals,
    ) -> PooledSandbox:
        used = {cell.number for cell in self._cells}
        number = next(number for number in range(len(used) + 1) if number not in used)
        folder, sealed = self._folder / str(number), self._folder / f"{number}.sealed"
        for one in (folder, sealed):
            file_trees.remove(one)
            one.mkdir(parents=True, mode=0o711)
        sealed.chmod(0o750)
        environment = {"CUDA_VISIBLE_DEVICES": "all"} if occupants.gpus else {}  # a fork gets its own
        cgroup = None if self._cgroups is None else self._cgroups.make(f"{os.getpid()}-{number}")
        room = SandboxMount(folder, self._sandbox.user(), (*readable, sealed), environment, cgroup)
        if room.uid is not None:
            os.chown(sealed, -1, room.uid)  # its group: to read, and no other sandbox's user
        output = Output(lambda record: log.debug("sandbox", number=number, text=record["text"]))
        reading, writing = os.pipe()
        bases: list[Handle] = []

        def spawn(lifeline: DeathPipe, arguments: Sequence[str], inherited: Sequence[int]) -> Handle:
            bases.append(self._sandbox.start(room, lifeline, arguments, inherited, output=writing))
            return bases[-1]

        def belongs(pid: int) -> bool:
            return usage.lives_in(
                pid, [base.pid for base in bases], walled=self._sandbox.bubblewrap is not None, uid=room.uid
            )

        launcher = ForkLauncher(spawn=spawn, output=writing, packages=packages, belongs=belongs, known=refused)
        cell = PooledSandbox(occupants, bounds, number, room, launcher, self._sandbox, output, bases=bases)
        cell.printing = asyncio.create_task(output.relay(reading, "stderr"))
        cell.printing.add_done_callback(lambda _: os.close(writing))
        self._empty(cell)
        cell.limit_memory()
        return cell

    def _empty(self, cell: PooledSandbox) -> None:
        """Nothing of an earlier attempt stays but what was compiled."""
        for name in ("run", "home"):
            file_trees.remove(cell.room.folder / name)
            (cell.room.folder / name).mkdir(mode=0o700)
            cell.own(cell.room.folder / name)
        for sealed in cell.sealed.iterdir():
            file_trees.remove(sealed)
        xla_cache.trim(cell.compiled)
        cell.own(cell.compiled)

    async def _close(self, cell: PooledSandbox) -> None:
        if cell.closing:
            return
        cell.taken = cell.closing = True  # its number and folder are its own to the end
        self._unwatch(cell)
        _kill(await asyncio.to_thread(cell.guests))
        await cell.launcher.close()
        for base in cell.bases:
            base.kill_group()
            with suppress(ProcessLookupError):
                await base.wait()
        _kill(await asyncio.to_thread(cell.inhabitants))
        if cell.printing is not None:
            cell.printing.cancel()
        for folder in (cell.room.folder, cell.sealed):
            await asyncio.to_thread(file_trees.remove, folder)
        if cell.room.cgroup is not None:
            cell.room.cgroup.remove()
        if cell.room.user is not None:
            cell.room.user.release()
        self._cells.remove(cell)


def _kill(inhabitants: set[usage.Inhabitant]) -> None:
    for pid, created in inhabitants:
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            if process.create_time() == created:
                process.kill()
