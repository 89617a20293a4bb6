"""Devices with an NVML that is told what to answer: listing, use, holding, the runner's environment."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from tapeworks_workers.machine.devices import Devices, DeviceTaken, default_slots

GIB = 1 << 30


class NVMLError(Exception):
    """What NVML raises where a device cannot do a thing."""


@dataclass
class Card:
    """A GPU or a slice."""

    uuid: str
    used: int = GIB // 2
    processes: list[int] = field(default_factory=list)
    slices: list[Card] | None = None
    utilization: int | None = 40


class Nvml:
    """Answers as `pynvml` does."""

    NVMLError = NVMLError

    def __init__(self, *cards: Card) -> None:
        self._cards = cards

    def nvmlDeviceGetCount(self) -> int:
        return len(self._cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Card:
        return self._cards[index]

    def nvmlDeviceGetUUID(self, card: Card) -> str | bytes:
        return card.uuid.encode()

    def nvmlDeviceGetName(self, card: Card) -> str:
        return "A Card"

    def nvmlDeviceGetMigMode(self, card: Card) -> tuple[int, int]:
        if card.slices is None:
            raise NVMLError("not supported")
        return 1, 1

    def nvmlDeviceGetMaxMigDeviceCount(self, card: Card) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, card: Card, index: int) -> Card:
        if card.slices is None or index >= len(card.slices):
            raise NVMLError("not found")
        return card.slices[index]

    def nvmlDeviceGetMemoryInfo(self, card: Card) -> Any:
        return SimpleNamespace(total=80 * GIB, used=card.used)

    def nvmlDeviceGetUtilizationRates(self, card: Card) -> Any:
        if card.utilization is None:
            raise NVMLError("not supported")
        return SimpleNamespace(gpu=card.utilization)

    def nvmlDeviceGetComputeRunningProcesses(self, card: Card) -> list[Any]:
        return [SimpleNamespace(pid=pid) for pid in card.processes]


def test_gpus_are_listed_with_memory_use_and_who_holds_them() -> None:
    devices = Devices(nvml=Nvml(Card("GPU-a"), Card("GPU-b", used=3 * GIB, processes=[42])))
    with devices.hold("job_1", 1) as held:
        assert held.gpus == ("GPU-a",)
        first, second = devices.listing()
    assert (first.id, first.kind, first.name, first.job_id) == ("GPU-a", "gpu", "A Card", "job_1")
    assert (first.memory_bytes, first.memory_used_bytes, first.utilization) == (80 * GIB, GIB // 2, 0.4)
    assert (second.id, second.job_id) == ("GPU-b", None)


def test_a_gpu_in_use_by_others_is_not_offered() -> None:
    busy, full, free = Card("GPU-busy", processes=[42]), Card("GPU-full", used=9 * GIB), Card("GPU-free")
    devices = Devices(nvml=Nvml(busy, full, free))
    assert devices.free_gpus() == ["GPU-free"]
    with devices.hold("job_1", 1):
        assert devices.free_gpus() == []
        with pytest.raises(DeviceTaken, match="needs 1 GPUs"), devices.hold("job_2", 1):
            pass
    assert devices.free_gpus() == ["GPU-free"]


def test_a_sliced_gpu_is_offered_by_its_slices() -> None:
    slices = [Card("MIG-1", utilization=None), Card("MIG-2", utilization=None)]
    devices = Devices(nvml=Nvml(Card("GPU-a", slices=slices), Card("GPU-b", slices=[])))
    assert [(device.id, device.parent) for device in devices.listing()] == [
        ("MIG-1", "GPU-a"),
        ("MIG-2", "GPU-a"),
        ("GPU-b", None),
    ]
    assert devices.listing()[0].utilization is None
    with devices.hold("job_1", 1) as held:
        assert devices.environment(held)["CUDA_VISIBLE_DEVICES"] == "MIG-1"


def test_the_environment_names_the_gpus_that_are_held() -> None:
    devices = Devices(nvml=Nvml(Card("GPU-a"), Card("GPU-b"), Card("GPU-c")))
    with devices.hold("job_1", 1), devices.hold("job_2", 2) as held:
        environment = devices.environment(held)
    assert environment["CUDA_VISIBLE_DEVICES"] == "GPU-b,GPU-c"
    assert environment["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"


def test_a_machine_without_gpus_offers_cpu_slots() -> None:
    devices = Devices(nvml=Nvml(), cpu_slots=2)
    assert devices.free_gpus() == []
    with devices.hold("job_1", 0) as held:
        assert devices.environment(held)["CUDA_VISIBLE_DEVICES"] == "-1"
        assert [(device.id, device.kind, device.job_id) for device in devices.listing()] == [
            ("cpu0", "cpu", "job_1"),
            ("cpu1", "cpu", None),
        ]
        with devices.hold("job_2", 0), pytest.raises(DeviceTaken), devices.hold("job_3", 0):
            pass
    assert devices.free_cpus() == max(2, devices.cpus // 2 * 2)


def test_small_jobs_share_a_machine_by_their_cores() -> None:
    devices = Devices(nvml=Nvml(), cpu_slots=1)
    with ExitStack() as running:
        held = [running.enter_context(devices.hold(f"job_{n}", 0, cpus=1)) for n in range(devices.cpus)]
        assert devices.free_cpus() == 0
        assert {devices.environment(one)["TF_NUM_INTRAOP_THREADS"] for one in held} == {"1"}
        with pytest.raises(DeviceTaken), devices.hold("one_more", 0, cpus=1):
            pass
    with devices.hold("alone", 0) as whole:
        assert devices.environment(whole)["TF_NUM_INTRAOP_THREADS"] == str(devices.cpus)
        assert devices.free_cpus() == 0


def test_a_machine_without_cpu_slots_has_no_cores_to_give_alone() -> None:
    devices = Devices(nvml=Nvml(Card("GPU-a")))
    assert devices.free_cpus() == 0
    with pytest.raises(DeviceTaken), devices.hold("job_1", 0):
        pass
    with devices.hold("job_1", 1, cpus=1) as held:
        assert devices.environment(held)["OMP_NUM_THREADS"] == "1"


def test_this_machine_is_listed_with_its_own_driver_or_none() -> None:
    devices = Devices()
    assert devices.listing()
    assert {device.kind for device in devices.listing()} <= {"gpu", "cpu"}


@pytest.mark.parametrize(("cpus", "gpus", "slots"), [(1, 0, 1), (2, 0, 1), (8, 0, 4), (8, 1, 0)])
def test_default_slots(cpus: int, gpus: int, slots: int) -> None:
    assert default_slots(cpus, gpus) == slots


def test_device_memory_is_seen_free_before_the_next_job() -> None:
    card = Card("GPU-a", used=40 * GIB)
    devices = Devices(nvml=Nvml(card))

    async def freed() -> tuple[bool, bool]:
        waiting = asyncio.create_task(devices.seen_free(["GPU-a"]))
        await asyncio.sleep(0)
        before = waiting.done()
        card.used = 0
        return before, await waiting

    assert asyncio.run(freed()) == (False, True)
    card.used = 40 * GIB
    assert asyncio.run(devices.seen_free(["GPU-a"], seconds=0.01)) is False
    assert devices.free_gpus() == []


def test_logical_devices_stand_for_gpus_where_a_setting_says_so() -> None:
    devices = Devices(nvml=Nvml(), logical=3, cpu_slots=1)
    assert [(device.id, device.kind, device.name) for device in devices.listing()[:3]] == [
        (f"logical-{n}", "gpu", "logical CPU device") for n in range(3)
    ]
    with devices.hold("job_1", 2) as held:
        environment = devices.environment(held)
        assert devices.free_gpus() == ["logical-2"]
    assert environment["CUDA_VISIBLE_DEVICES"] == "-1"
    assert environment["TAPEWORKS_LOGICAL_DEVICES"] == "2"
    with devices.hold("job_2", 0) as held:
        assert "TAPEWORKS_LOGICAL_DEVICES" not in devices.environment(held)


def test_logical_devices_beside_gpus_are_refused() -> None:
    with pytest.raises(ValueError, match="this machine has GPUs"):
        Devices(nvml=Nvml(Card("GPU-a")), logical=2)
