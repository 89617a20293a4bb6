"""Which worker can take which job."""

from __future__ import annotations

from typing import Any

import pytest

from tapeworks.schemas.worker_protocol import PinnedComponent
from tapeworks.spec.job_spec import Resources
from tapeworks_service.queue.requirements import GIB, Requirements, why_unschedulable
from tapeworks_service.workers.repository import WorkerRow

MLP = PinnedComponent(kind="model", name="mlp", version="1", digest="a" * 64)
HAS = frozenset({("model", "mlp", "1", "a" * 64)})


def worker(*gib: int, **changes: Any) -> WorkerRow:
    """A worker with GPUs of so many GiB."""
    gpus = [{"id": f"GPU-{index}", "kind": "gpu", "memory_bytes": size * GIB} for index, size in enumerate(gib)]
    values: dict[str, Any] = {
        "id": "w", "devices": [*gpus, {"id": "cpu0", "kind": "cpu"}], "labels": {}, "versions": {}, "cpus": 8,
        "memory_bytes": 32 * GIB, "catalogue_digest": "", "draining": False, "registered_at": 0.0,
        "packages": False, "sandbox": {},
        "heartbeat_at": 0.0, "lost": False,
    }  # fmt: skip
    return WorkerRow(**{**values, **changes})


def needs(**resources: Any) -> Requirements:
    return Requirements.of(Resources(**resources), [MLP])


@pytest.mark.parametrize(
    ("wanted", "machine", "reason"),
    [
        ({}, worker(), None),
        ({}, worker(8), None),
        ({"gpus": 2}, worker(8, 8), None),
        ({"gpus": 3}, worker(8, 8), "it has 2 of 3 GPUs"),
        ({"gpus": 1, "gpu_memory_gib": 16.0}, worker(8, 8), "it has 0 of 1 GPUs with 16 GiB"),
        ({"gpu_memory_gib": 16.0}, worker(8, 80), None),
        ({"gpus": 0}, worker(8), None),
        ({"gpus": 0}, worker(8, devices=[{"id": "GPU-0", "kind": "gpu", "memory_bytes": GIB}]), "it has no CPU slot"),
        ({}, worker(devices=[]), "it has no CPU slot"),
        ({"cpus": 9}, worker(), "it has 8 of 9 cpus"),
        ({"memory_gib": 64.0}, worker(), "it has 32.0 of 64 GiB memory"),
        ({"memory_gib": 1.0}, worker(memory_bytes=None), "it has 0.0 of 1 GiB memory"),
        ({"worker_labels": {"zone": "a"}}, worker(labels={"zone": "b"}), "it has no label zone=a"),
        ({"worker_labels": {"zone": "a"}}, worker(labels={"zone": "a", "more": "x"}), None),
    ],
)  # fmt: skip
def test_what_a_worker_lacks_even_when_idle(wanted: dict[str, Any], machine: WorkerRow, reason: str | None) -> None:
    assert needs(**wanted).unmet(machine, HAS) == reason


def test_a_component_with_another_source_is_another_component() -> None:
    other = frozenset({("model", "mlp", "1", "b" * 64)})
    assert "'mlp'" in str(needs().unmet(worker(), other))


def test_free_devices_decide_whether_it_fits_now() -> None:
    two = needs(gpus=2)
    assert two.fits_now(worker(8, 8), free_gpus=["GPU-0", "GPU-1"], free_cpus=0)
    assert not two.fits_now(worker(8, 8), free_gpus=["GPU-1"], free_cpus=8)
    large = needs(gpu_memory_gib=40.0)
    assert large.fits_now(worker(8, 80), free_gpus=["GPU-1"], free_cpus=0)
    assert not large.fits_now(worker(8, 80), free_gpus=["GPU-0"], free_cpus=8)
    assert not needs().fits_now(worker(8), free_gpus=["unknown"], free_cpus=8)
    assert needs(gpus=0).fits_now(worker(8), free_gpus=[], free_cpus=8)
    assert not needs().fits_now(worker(), free_gpus=[], free_cpus=0)


def test_a_job_holds_the_cores_it_asks_for_or_a_slots_share() -> None:
    four = worker(devices=[{"id": f"cpu{n}", "kind": "cpu"} for n in range(4)])
    for wanted, cores in ((None, 2), (1, 1), (5, 5), (8, 8)):
        job = needs() if wanted is None else needs(cpus=wanted)
        assert job.fits_now(four, free_gpus=[], free_cpus=cores)
        assert not job.fits_now(four, free_gpus=[], free_cpus=cores - 1)
    three = worker(devices=[{"id": f"cpu{n}", "kind": "cpu"} for n in range(3)])
    assert needs(cpus=8).fits_now(three, free_gpus=[], free_cpus=6), "all cores that its slots have"


def test_jobs_that_need_the_same_share_a_key() -> None:
    assert needs(worker_labels={"a": "1", "b": "2"}).fit_key == needs(worker_labels={"b": "2", "a": "1"}).fit_key
    assert needs().fit_key != needs(gpus=1).fit_key
    assert needs().fit_key != Requirements.of(Resources(), []).fit_key
    assert Requirements.from_document(needs(gpus=1).document()) == needs(gpus=1)


def test_the_reason_names_each_worker() -> None:
    assert why_unschedulable(needs(), []) == "no worker is connected"
    one, two = worker(id="one"), worker(8, id="two")
    assert (
        why_unschedulable(needs(gpus=2), [(one, HAS), (two, HAS)]) == "one: it has 0 of 2 GPUs; two: it has 1 of 2 GPUs"
    )
    assert why_unschedulable(needs(gpus=1), [(one, HAS), (two, HAS)]) is None
