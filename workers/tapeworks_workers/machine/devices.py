"""The worker's devices: which there are, how full they are, and who holds them.

A GPU is known by its UUID (a MIG slice has one too), which CUDA_VISIBLE_DEVICES takes; nothing here
reads meaning into an id. One runner holds a GPU whole. Without GPUs, or without a driver, a worker
offers CPU slots. NVML is passed in, so a test brings its own: `Devices(nvml=…)` takes anything with
the functions of `pynvml` that are called below.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import structlog

from tapeworks.schemas.jobs import Device
from tapeworks.schemas.worker_protocol import cpus_held

LOGICAL = "TAPEWORKS_LOGICAL_DEVICES"
"""In a runner's environment: how many logical CPU devices stand for its GPUs."""
LOGICAL_NAME = "logical CPU device"
FREE_BYTES = 1 << 30
"""A GPU that nobody computes on may have so much in use: what the driver and a display keep."""

log = structlog.get_logger(__name__)


class DeviceTaken(Exception):
    """A lease needs more devices than are free."""


@dataclass(frozen=True)
class Gpu:
    """A GPU or a slice of one."""

    id: str
    name: str
    handle: Any
    parent: str | None = None


@dataclass(frozen=True)
class DeviceUsage:
    """How a GPU is used now. Memory in bytes; utilization 0 … 1, None where the device does not tell."""

    memory: int | None
    memory_used: int | None
    utilization: float | None
    processes: tuple[int, ...]


@dataclass(frozen=True)
class DeviceAllocation:
    """What one attempt holds: GPUs, or cores alone (an empty tuple of ids)."""

    job_id: str
    cpus: int
    """Cores, and threads of its runner."""
    gpus: tuple[str, ...] = ()


class Devices:
    """The devices of this machine and who holds them."""

    def __init__(self, *, cpu_slots: int | None = None, nvml: Any = None, logical: int = 0) -> None:
        """`logical`: so many logical CPU devices stand for GPUs. Raises ValueError where the machine has GPUs."""
        self._nvml = _driver() if nvml is None else nvml
        self._gpus = {gpu.id: gpu for gpu in self._discover()}
        if logical and self._gpus:
            raise ValueError("logical_devices: this machine has GPUs; leave the setting out")
        self.cpus = len(os.sched_getaffinity(0))
        self._slots = cpu_slots if cpu_slots is not None else default_slots(self.cpus, len(self._gpus))
        self._gpus |= {f"logical-{n}": Gpu(f"logical-{n}", LOGICAL_NAME, None) for n in range(logical)}
        self._held: list[DeviceAllocation] = []

    # ── what there is ────────────────────────────────────────────────────────────────────────────

    def listing(self) -> list[Device]:
        """Every GPU with its use, and every CPU slot. More small jobs than slots may run: they are not shown here."""
        gpus = [self._device(gpu) for gpu in self._gpus.values()]
        on_cpu = [held.job_id for held in self._held if not held.gpus]
        slots = [
            Device(id=f"cpu{n}", kind="cpu", name="CPU slot", job_id=on_cpu[n] if n < len(on_cpu) else None)
            for n in range(self._slots)
        ]
        return gpus + slots

    def free_gpus(self) -> list[str]:
        """GPUs that neither a runner of ours nor another process uses."""
        taken = {gpu for held in self._held for gpu in held.gpus}
        return [gpu.id for gpu in self._gpus.values() if gpu.id not in taken and self._unused(gpu)]

    def free_cpus(self) -> int:
        """Cores that no runner on the CPU holds, of those that CPU slots have: one each at least."""
        everything = cpus_held(2**31, cpus=self.cpus, slots=self._slots)
        return everything - sum(held.cpus for held in self._held if not held.gpus)

    # ── who holds it ─────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def hold(self, job_id: str, gpus: int, cpus: int | None = None) -> Iterator[DeviceAllocation]:
        """Hold so many GPUs whole, or cores alone. Raises DeviceTaken where they are not free.

        A job beside GPUs that does not say its cores computes with as many as each of all that may run at once has.
        """
        free = self.free_gpus()
        slots = self._slots + (len(self._gpus) if gpus else 0)
        held = DeviceAllocation(job_id, cpus_held(cpus, cpus=self.cpus, slots=slots), tuple(free[:gpus]))
        if gpus > len(free) or (gpus == 0 and self.free_cpus() < max(1, held.cpus)):
            raise DeviceTaken(
                f"the lease needs {gpus or 'no'} GPUs, {held.cpus} cores; {len(free)}, {self.free_cpus()} are free"
            )
        self._held.append(held)
        try:
            yield held
        finally:
            self._held.remove(held)

    def environment(self, held: DeviceAllocation) -> dict[str, str]:
        """What the runner's environment says of devices, before TensorFlow is initialised in it."""
        threads = str(held.cpus)
        logical = bool(held.gpus) and self._gpus[held.gpus[0]].handle is None
        return {
            "CUDA_VISIBLE_DEVICES": ",".join(held.gpus) if held.gpus and not logical else "-1",
            **({LOGICAL: str(len(held.gpus))} if logical else {}),
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",
            "TF_NUM_INTRAOP_THREADS": threads,
            "TF_NUM_INTEROP_THREADS": threads,
            "OMP_NUM_THREADS": threads,
        }

    async def seen_free(self, gpus: Sequence[str], *, seconds: float = 30) -> bool:
        """Wait until the memory of these GPUs is seen free; whether it was in time.

        A driver gives memory back some moments after the process is gone. One that stays in use is not offered
        (see `free_gpus`) until it is free.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while not all(self._unused(self._gpus[gpu]) for gpu in gpus):
            if loop.time() > deadline:
                log.warning("device memory is still in use after its runner ended", gpus=list(gpus))
                return False
            await asyncio.sleep(0.2)
        return True

    # ── NVML ─────────────────────────────────────────────────────────────────────────────────────

    def _discover(self) -> Iterator[Gpu]:
        if self._nvml is None:
            return
        for index in range(self._nvml.nvmlDeviceGetCount()):
            handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
            gpu = Gpu(_text(self._nvml.nvmlDeviceGetUUID(handle)), _text(self._nvml.nvmlDeviceGetName(handle)), handle)
            slices = list(self._slices(gpu))
            yield from slices or [gpu]

    def _slices(self, gpu: Gpu) -> Iterator[Gpu]:
        """The MIG slices of a GPU; a GPU that is sliced is not offered whole."""
        try:
            current, _ = self._nvml.nvmlDeviceGetMigMode(gpu.handle)
            if not current:
                return
            count = self._nvml.nvmlDeviceGetMaxMigDeviceCount(gpu.handle)
        except self._nvml.NVMLError:
            return  # not a device that can be sliced
        for index in range(count):
            try:
                handle = self._nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu.handle, index)
            except self._nvml.NVMLError:
                continue  # no slice at this index
            yield Gpu(_text(self._nvml.nvmlDeviceGetUUID(handle)), gpu.name, handle, parent=gpu.id)

    def _use(self, gpu: Gpu) -> DeviceUsage:
        if gpu.handle is None:
            return DeviceUsage(memory=None, memory_used=None, utilization=None, processes=())
        memory = self._ask("nvmlDeviceGetMemoryInfo", gpu)
        rates = self._ask("nvmlDeviceGetUtilizationRates", gpu)
        processes = self._ask("nvmlDeviceGetComputeRunningProcesses", gpu) or []
        return DeviceUsage(
            memory=int(memory.total) if memory else None,
            memory_used=int(memory.used) if memory else None,
            utilization=float(rates.gpu) / 100 if rates else None,
            processes=tuple(int(process.pid) for process in processes),
        )

    def _ask(self, function: str, gpu: Gpu) -> Any:
        """An answer of NVML, or None where this device has none to give (a MIG slice has no utilization)."""
        try:
            return getattr(self._nvml, function)(gpu.handle)
        except self._nvml.NVMLError as error:
            log.debug("NVML did not respond", function=function, gpu=gpu.id, error=str(error))
            return None

    def _unused(self, gpu: Gpu) -> bool:
        use = self._use(gpu)
        # In a container the processes of others are not listed: their memory is.
        return not use.processes and (use.memory_used or 0) <= FREE_BYTES

    def _device(self, gpu: Gpu) -> Device:
        use = self._use(gpu)
        return Device(
            id=gpu.id,
            kind="gpu",
            name=gpu.name,
            parent=gpu.parent,
            memory_bytes=use.memory,
            memory_used_bytes=use.memory_used,
            utilization=use.utilization,
            job_id=next((held.job_id for held in self._held if gpu.id in held.gpus), None),
        )


def default_slots(cpus: int, gpus: int) -> int:
    """CPU slots where no setting says: none beside GPUs, else one for every two cores."""
    return 0 if gpus else max(1, cpus // 2)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _driver() -> Any:
    """NVML, initialised; None on a machine without the driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        log.info("no NVIDIA driver: this worker offers CPU slots", reason=str(error))
        return None
    return pynvml
