"""The agent: one per worker machine, and no TensorFlow in it. `Agent.run` is the recipe.

It loads TensorFlow and the components in its zygotes, tells the service what this worker has, and
leases a job whenever a device is free. One attempt is one task (`attempts.py`). When components
change on disk, the zygote is replaced and the worker registers again; running jobs go on with what
they have. SIGTERM hands every job back to the queue.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import httpx
import psutil
import structlog
import uuid_utils

from tapeworks.errors import ApiError, NotFound
from tapeworks.schemas import worker_protocol
from tapeworks.spec.job_spec import Resources
from tapeworks_workers.agent.attempt import Attempt, AttemptConfig
from tapeworks_workers.agent.catalogue_cache import Admitted, Snapshot, admit, snapshot
from tapeworks_workers.agent.heartbeat_file import Beats
from tapeworks_workers.agent.service_client import LeaseLost, Link, canonical_digest
from tapeworks_workers.file_trees import remove
from tapeworks_workers.inputs.upload_cache import Cache
from tapeworks_workers.machine import xla_cache
from tapeworks_workers.machine.devices import DeviceAllocation, Devices, DeviceTaken
from tapeworks_workers.processes import handles
from tapeworks_workers.processes.launcher import ForkLauncher, Launcher, LaunchFailed, SpawnLauncher
from tapeworks_workers.sandbox import isolation, memory_limit
from tapeworks_workers.sandbox.cgroups import Cgroups, CgroupsUnavailable
from tapeworks_workers.sandbox.pool import ResourceLimits, SandboxPool
from tapeworks_workers.settings import WorkerSettings

LEFTOVERS = "leftovers"
"""Below the work folder: what earlier runs left, until it is removed."""
LEASE_WAIT = 30.0
REGISTER_SECONDS = 30.0
"""A registration is repeated so often: memory and use of devices change."""
WATCH_SECONDS = 1.0
REFUSED_SECONDS = 10.0
"""Between calls that the service refuses: a key that is not known, another version."""

log = structlog.get_logger(__name__)


class WorkFolderTaken(Exception):
    """Another worker runs in the same work folder."""


@dataclass(frozen=True)
class CatalogueAnnouncement:
    """This worker's components, as the service gets them; as text, since it is hardly ever sent."""

    versions: dict[str, str]
    catalogue: bytes
    digest: str

    @classmethod
    def of(cls, admitted: Admitted) -> CatalogueAnnouncement:
        """From what admission found."""
        catalogue = admitted.catalogue
        digest = canonical_digest(catalogue.model_dump(mode="json"))
        return cls(admitted.versions, catalogue.model_dump_json().encode(), digest)


class Agent:
    """A worker. `launcher`, `nvml` and `transport` are seams: processes, devices and the network."""

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        launcher: Launcher | None = None,
        nvml: Any = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._settings = settings
        launcher_of = ForkLauncher if settings.runner == "fork" else SpawnLauncher
        self._launcher = launcher or launcher_of(import_seconds=settings.component_seconds)
        self._devices = Devices(cpu_slots=settings.cpu_slots, nvml=nvml, logical=settings.logical_devices)
        self._link = Link(settings.server, key=settings.key(), transport=transport)
        self._attempts: dict[asyncio.Task[None], Attempt] = {}
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._compiled = xla_cache.folder_of(settings.work_dir)
        self._cache = Cache(
            settings.work_dir / "uploads", reserve=settings.reserve_bytes, most_bytes=settings.cache_bytes
        )
        self._sandbox = isolation.of_this_machine()
        self._rooms = _rooms(settings, self._sandbox)
        self._announced: CatalogueAnnouncement
        self._registered: worker_protocol.Registered
        self._request_id = _new_id()

    async def run(self) -> None:
        """Work until SIGTERM or SIGINT. Raises LaunchFailed, ApiError, WorkFolderTaken where it cannot start."""
        handles.become_subreaper()
        if self._settings.lifeline is not None:
            handles.end_with(self._settings.lifeline)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stopping.set)
        async with AsyncExitStack() as stack:
            stack.enter_context(self._work_folder())
            stack.push_async_callback(self._link.aclose)
            stack.push_async_callback(self._launcher.close)
            if self._rooms is not None:
                stack.push_async_callback(self._rooms.close)
            beating = asyncio.create_task(Beats(self._settings.work_dir, self._settings.beat).keep())
            working = asyncio.create_task(self._work())
            stopping = asyncio.create_task(self._stopping.wait())
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
            await self._hand_back()
            for task in (working, stopping, beating):
                task.cancel()
            for ended in await asyncio.gather(working, stopping, beating, return_exceptions=True):
                if isinstance(ended, Exception):
                    log.error("an error while the worker stopped", error=str(ended))
        log.info("worker stopped")

    async def _work(self) -> None:
        await self._launcher.start()
        seen = await self._look()
        self._announced = await self._admit()
        await self._register()
        log.info("worker ready", id=self._settings.id, devices=[device.id for device in self._devices.listing()])
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_components(seen))
            group.create_task(self._stay_registered())
            group.create_task(self._reap_strays())
            group.create_task(self._remove_leftovers())
            group.create_task(self._lease_jobs())

    @contextmanager
    def _work_folder(self) -> Iterator[None]:
        """The folder is ours alone; what an earlier run left of attempts is removed: their runners died with it."""
        folder = self._settings.work_dir
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "worker.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise WorkFolderTaken(
                    f"another worker runs in {folder}: give this worker another work folder"
                ) from None
            lock.write(f"{os.getpid()}\n")
            lock.flush()
            self._set_aside()
            xla_cache.trim(self._compiled)
            yield

    def _set_aside(self) -> None:
        """Move away what an earlier run left of attempts: it is removed while jobs run already, and cannot stop one."""
        leftovers = self._settings.work_dir / LEFTOVERS
        leftovers.mkdir(exist_ok=True)
        for name in ("attempts", "sandboxes"):
            with suppress(FileNotFoundError):
                (self._settings.work_dir / name).rename(leftovers / f"{name}-{uuid_utils.uuid7()}")

    async def _remove_leftovers(self) -> None:
        for one in list((self._settings.work_dir / LEFTOVERS).iterdir()):
            await asyncio.to_thread(remove, one)

    # ── what this worker is ──────────────────────────────────────────────────────────────────────

    async def _admit(self) -> CatalogueAnnouncement:
        settings = self._settings
        admitted = await admit(
            self._launcher,
            settings.components,
            folder=settings.work_dir / "catalogues",
            seconds=settings.component_seconds,
        )
        return CatalogueAnnouncement.of(admitted)

    async def _register(self) -> None:
        """Tell the service; the catalogue is sent whole only when asked for."""
        announced = self._announced
        registration = worker_protocol.Registration(
            devices=self._devices.listing(),
            labels=self._settings.labels,
            versions={"tapeworks": version("tapeworks"), **announced.versions},
            cpus=self._devices.cpus,
            memory_bytes=psutil.virtual_memory().total,
            packages=self._settings.allow_packages and self._rooms is not None,
            sandbox=dict(self._sandbox.layers),
            catalogue_digest=announced.digest,
        )
        self._registered = await self._link.register(self._settings.id, registration)
        if self._registered.catalogue_needed:
            catalogue = worker_protocol.Catalogue.model_validate_json(announced.catalogue)
            whole = registration.model_copy(update={"catalogue": catalogue})
            self._registered = await self._link.register(self._settings.id, whole)

    async def _stay_registered(self) -> None:
        while True:
            await asyncio.sleep(REGISTER_SECONDS)
            await self._register_again()

    async def _register_again(self) -> None:
        try:
            await self._register()
        except ApiError as error:
            log.error("the service refuses this worker", error=str(error))

    async def _look(self) -> Snapshot:
        return await asyncio.to_thread(snapshot, self._settings.components)

    async def _watch_components(self, loaded: Snapshot) -> None:
        """Replace the component zygote when a file changed and has settled."""
        before = loaded
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            now = await self._look()
            if now == before and now != loaded:
                loaded = now
                await self._reload()
            before = now

    async def _reload(self) -> None:
        log.info("components changed; reloading them")
        try:
            self._announced = await self._admit()
        except LaunchFailed as error:
            log.error("the changed components cannot be loaded; the earlier ones stay in use", error=str(error))
            return
        await self._register_again()

    async def _reap_strays(self) -> None:
        strays = handles.OrphanReaper()
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            strays.reap(handles.held())

    # ── leases ───────────────────────────────────────────────────────────────────────────────────

    async def _lease_jobs(self) -> None:
        while True:
            self._changed.clear()
            request = self._request()
            # A worker that the service drains goes on asking: it is granted nothing until that has ended.
            if self._stopping.is_set() or not (request.free_gpus or request.free_cpus):
                await _first_of(self._changed.wait(), asyncio.sleep(REGISTER_SECONDS))
                continue
            try:
                answer = await _first_of(self._link.lease(request), self._changed.wait())
            except NotFound:
                await self._register_again()  # the service forgot us: another database
                continue
            except ApiError as error:
                log.error("the service refuses to lease", error=str(error))
                await asyncio.sleep(REFUSED_SECONDS)
                continue
            if answer is True:
                continue  # a device became free: the same request again, so that a lease on its way is not lost
            self._request_id = _new_id()
            if isinstance(answer, worker_protocol.Lease):
                await self._take(answer)

    def _request(self) -> worker_protocol.LeaseRequest:
        return worker_protocol.LeaseRequest(
            worker_id=self._settings.id,
            request_id=self._request_id,
            wait_seconds=LEASE_WAIT,
            free_gpus=self._devices.free_gpus(),
            free_cpus=self._devices.free_cpus(),
        )

    async def _take(self, lease: worker_protocol.Lease) -> None:
        """Start the attempt on devices that it holds until its end."""
        stack = ExitStack()
        try:
            resources = lease.spec.resources if lease.spec is not None else Resources()
            held = stack.enter_context(self._devices.hold(lease.job_id, lease.gpus, resources.cpus))
        except DeviceTaken as error:
            log.error("a lease cannot be placed and is returned to the service", job=lease.job_id, error=str(error))
            await self._release(lease)
            return
        terms = AttemptConfig(
            settings=self._settings,
            launcher=self._launcher,
            environment={**self._devices.environment(held), **xla_cache.environment(self._compiled)},
            heartbeat_seconds=self._registered.heartbeat_seconds,
            compiled=self._compiled,
            cache=self._cache,
            rooms=self._rooms,
            bounds=ResourceLimits(self._memory_for(resources, held), self._settings.sandbox_disk_bytes),
        )
        attempt = Attempt(lease, self._link.attempt(lease), terms)
        task = asyncio.create_task(self._attend(attempt, held, stack))
        self._attempts[task] = attempt
        task.add_done_callback(self._attempts.pop)

    def _memory_for(self, resources: Resources, held: DeviceAllocation) -> int:
        """What an attempt may have: what it asks for, or its cores' share of the machine's."""
        if resources.memory_gib is not None:
            return int(resources.memory_gib * 1024**3)
        share = 1.0 if held.gpus else min(1.0, held.cpus / self._devices.cpus)
        return memory_limit.default_bytes(share)

    async def _attend(self, attempt: Attempt, held: DeviceAllocation, stack: ExitStack) -> None:
        with stack:
            await attempt.run()
            await self._devices.seen_free(held.gpus)
        self._changed.set()
        await asyncio.to_thread(xla_cache.trim, self._compiled)

    async def _release(self, lease: worker_protocol.Lease) -> None:
        try:
            await self._link.attempt(lease).finish(worker_protocol.Finish(outcome="released"))
        except (ApiError, LeaseLost) as error:
            log.warning("a lease could not be returned; it will expire", job=lease.job_id, error=str(error))

    # ── the end ──────────────────────────────────────────────────────────────────────────────────

    async def _hand_back(self) -> None:
        """Take no new job; let runners write a last checkpoint and hand their jobs back; then stop."""
        log.info("worker stops", attempts=len(self._attempts))
        self._changed.set()
        for attempt in self._attempts.values():
            attempt.drain()
        await self._return_unseen()
        if self._attempts:
            await asyncio.wait(set(self._attempts), timeout=self._settings.grace_seconds + 5)
        for task in list(self._attempts):
            task.cancel()
        if self._attempts:
            await asyncio.wait(set(self._attempts))

    async def _return_unseen(self) -> None:
        """A lease may have been granted while we stopped asking: the same request gives it again, to hand it back."""
        request = worker_protocol.LeaseRequest(worker_id=self._settings.id, request_id=self._request_id, wait_seconds=0)
        try:
            async with asyncio.timeout(2):
                lease = await self._link.lease(request)
                if lease is not None:
                    await self._release(lease)
        except (TimeoutError, ApiError) as error:
            log.debug("no response to the last lease request", error=str(error))


async def _first_of(work: Any, other: Any) -> Any:
    """The result of whichever ends first; the work's where both did."""
    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(other)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task.result() for task in tasks if task.done())
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def _rooms(settings: WorkerSettings, found: isolation.Sandbox | None) -> SandboxPool | None:
    """The sandboxes of a worker: for packages where it takes them, for inspections where all layers are there.

    None where there are none; why is logged for a worker that is to take packages."""
    if found is None or (found.missing and not settings.allow_packages):
        return None
    if found.missing:
        refused = settings.sandbox == "required"
        consequence = (
            "uploaded packages are not accepted"
            if refused
            else "uploaded packages are accepted with fewer sandbox layers"
        )
        log.warning(f"layers of the sandbox are missing: {consequence}", missing=found.missing)
        if refused:
            return None
    return SandboxPool(settings.work_dir / "sandboxes", found, _cgroups(settings))


def _cgroups(settings: WorkerSettings) -> Cgroups | None:
    """Where cgroups for sandboxes are made; None where memory is counted from outside."""
    try:
        cgroups = Cgroups.found(settings.cgroup)
        cgroups.prepare()
    except CgroupsUnavailable as error:
        log.info("sandbox memory is measured by polling, without cgroups", reason=str(error))
        return None
    return cgroups


def _new_id() -> str:
    return f"req_{uuid_utils.uuid7()}"
