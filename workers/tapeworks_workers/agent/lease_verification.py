"""How the bundle of one attempt is verified, by what its lease says of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tapeworks.schemas import worker_protocol
from tapeworks.schemas.jobs import JobKind
from tapeworks_workers.agent.execution_environment import ExecutionEnvironment
from tapeworks_workers.machine.devices import LOGICAL
from tapeworks_workers.settings import WorkerSettings
from tapeworks_workers.verification.verification import BundleVerification, VerificationPlace, VerificationTerms


def verification_of(
    lease: worker_protocol.Lease,
    place: ExecutionEnvironment,
    settings: WorkerSettings,
    *,
    keep: Callable[[Mapping[str, Any]], None],
) -> BundleVerification | None:
    """The verification, in a place that is settled; None where there will be no bundle. `keep` takes records."""
    if lease.spec is None or lease.spec.export is None:
        return None
    return BundleVerification(
        VerificationPlace(
            place.launcher, place.trusted, place.environment, run=place.folder, sealed=place.sealed, own=place.own,
            started=place.started, oom_kills=place.oom_kills,
            limit=place.bounds.disk_bytes if place.sandboxed else 1 << 62, reserve=settings.reserve_bytes,
        ),
        VerificationTerms(
            tolerance=lease.spec.export.tolerance, formats=lease.spec.export.formats, 
            gpu=lease.gpus > 0 and LOGICAL not in place.environment,
            pack=lease.kind is JobKind.TRAIN,
            max_artifact_bytes=lease.spec.limits.max_artifact_bytes,
        ),
        keep=keep,
        seconds=settings.verify_seconds,
    )  # fmt: skip
