"""Which worker can take which job.

What a job needs is hashed into its `fit_key`; a worker's lease request is answered from the keys
that it satisfies, so the claim looks at needs once per key, not once per job.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tapeworks.schemas.worker_protocol import PinnedComponent
from tapeworks.spec.job_spec import Resources
from tapeworks_service.catalogue.catalogue import ComponentKey
from tapeworks_service.workers.repository import WorkerRow

GIB = 1024**3


@dataclass(frozen=True)
class Requirements:
    """What a job needs of a worker. `gpus` None: one GPU where the worker has any, else a CPU slot."""

    gpus: int | None
    gpu_memory_gib: float | None
    cpus: int | None
    memory_gib: float | None
    labels: tuple[tuple[str, str], ...]
    components: tuple[ComponentKey, ...]
    """Those that workers have; what packages bring comes with the job."""
    packages: bool = False

    @classmethod
    def of(cls, resources: Resources, components: Iterable[PinnedComponent], *, packages: bool = False) -> Requirements:
        """The needs of a job; `packages`: whether it brings some."""
        return cls(
            resources.gpus,
            resources.gpu_memory_gib,
            resources.cpus,
            resources.memory_gib,
            tuple(sorted(resources.worker_labels.items())),
            tuple(sorted((c.kind, c.name, c.version, c.digest) for c in components)),
            packages,
        )

    @classmethod
    def of_a_look(cls, *, packages: bool) -> Requirements:
        """Returns the requirements of the inspection of an upload: one CPU slot."""
        return cls(0, None, None, None, (), (), packages)

    def document(self) -> dict[str, Any]:
        """The requirements as a JSON document."""
        return {
            "gpus": self.gpus,
            "gpu_memory_gib": self.gpu_memory_gib,
            "cpus": self.cpus,
            "memory_gib": self.memory_gib,
            "labels": [list(item) for item in self.labels],
            "components": [list(item) for item in self.components],
            # Left out where it is false: needs that were stored before it keep their key.
            **({"packages": True} if self.packages else {}),
        }

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Requirements:
        """From `document()`."""
        return cls(
            document["gpus"],
            document["gpu_memory_gib"],
            document["cpus"],
            document["memory_gib"],
            tuple((key, value) for key, value in document["labels"]),
            tuple((kind, name, version, digest) for kind, name, version, digest in document["components"]),
            document.get("packages", False),
        )

    @cached_property
    def fit_key(self) -> str:
        """The same for all jobs that need the same."""
        return hashlib.sha256(json.dumps(self.document(), sort_keys=True).encode()).hexdigest()

    def gpus_on(self, worker: WorkerRow) -> int:
        """How many GPUs the job takes there; 0 is a CPU slot."""
        if self.gpus is not None:
            return self.gpus
        return 1 if worker.gpus else 0

    def unmet(self, worker: WorkerRow, components: frozenset[ComponentKey]) -> str | None:
        """What the worker lacks even when idle, or None where the job fits."""
        for key, value in self.labels:
            if worker.labels.get(key) != value:
                return f"it has no label {key}={value}"
        if self.packages and not worker.packages:
            return "it does not accept uploaded packages"
        missing = [item for item in self.components if item not in components]
        if missing:
            kind, name, version, _ = missing[0]
            return f"it does not have the {kind} {name!r} (version {version}) that the job was accepted with"
        if self.cpus is not None and worker.cpus < self.cpus:
            return f"it has {worker.cpus} of {self.cpus} cpus"
        if self.memory_gib is not None and (worker.memory_bytes or 0) < self.memory_gib * GIB:
            return f"it has {(worker.memory_bytes or 0) / GIB:.1f} of {self.memory_gib:g} GiB memory"
        wanted = self.gpus_on(worker)
        if wanted == 0 and not worker.cpu_slots:
            return "it has no CPU slot"
        large = sum(self._large_enough(device) for device in worker.gpus)
        if large < wanted:
            size = f" with {self.gpu_memory_gib:g} GiB" if self.gpu_memory_gib else ""
            return f"it has {large} of {wanted} GPUs{size}"
        return None

    def fits_now(self, worker: WorkerRow, *, free_gpus: Sequence[str], free_cpus: int) -> bool:
        """Whether what is free is enough; call it only where nothing is `unmet`."""
        wanted = self.gpus_on(worker)
        if wanted == 0:
            return free_cpus >= worker.cpus_for(self.cpus)
        free = [device for device in worker.gpus if device["id"] in free_gpus]
        return sum(self._large_enough(device) for device in free) >= wanted

    def _large_enough(self, device: dict[str, Any]) -> bool:
        return self.gpu_memory_gib is None or (device.get("memory_bytes") or 0) >= self.gpu_memory_gib * GIB


def why_unschedulable(needs: Requirements, workers: Sequence[tuple[WorkerRow, frozenset[ComponentKey]]]) -> str | None:
    """Why no live worker can ever take the job, or None where one can."""
    if not workers:
        return "no worker is connected"
    reasons = []
    for worker, components in workers:
        reason = needs.unmet(worker, components)
        if reason is None:
            return None
        reasons.append(f"{worker.id}: {reason}")
    more = f"; and {len(reasons) - 3} more workers" if len(reasons) > 3 else ""
    return "; ".join(reasons[:3]) + more
