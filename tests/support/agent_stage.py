"""A stage for acting runners: a launcher of them, and a real service to lease their jobs from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tapeworks.schemas import worker_protocol
from tapeworks.schemas.jobs import Device
from tapeworks.schemas.report_limits import LIMITS, ReportLimits
from tapeworks_workers.agent.attempt import Attempt, AttemptConfig
from tapeworks_workers.agent.service_client import Link, canonical_digest
from tapeworks_workers.inputs.upload_cache import Cache
from tapeworks_workers.processes import handles
from tapeworks_workers.processes.launcher import ForkLauncher
from tapeworks_workers.sandbox.pool import ResourceLimits
from tapeworks_workers.settings import WorkerSettings

ACTING = Path(__file__).with_name("acting_runner.py")
SCHEMA = {"type": "object", "properties": {}, "additionalProperties": False}
ROLES = {"models": ["model"], "optimizers": {}, "losses": [], "frozen": [], "validation_step": False}
CATALOGUE = worker_protocol.Catalogue.model_validate(
    {
        "components": [
            {"kind": kind, "name": name, "digest": "0" * 64, "config_schema": SCHEMA, "roles": roles}
            for kind, name, roles in (("source", "rows", None), ("model", "net", None), ("step", "supervised", ROLES))
        ]
    }
)
Result = TypeVar("Result")


@dataclass
class Stage:
    """A launcher of acting runners, and a service to lease jobs from."""

    loop: asyncio.Runner
    launcher: ForkLauncher
    service: Any
    folder: Path

    def run(self, scene: Coroutine[Any, Any, Result]) -> Result:
        return self.loop.run(scene)

    @asynccontextmanager
    async def linked(self) -> AsyncIterator[Link]:
        link = Link(self.service.url, key=None)
        digest = canonical_digest(CATALOGUE.model_dump(mode="json"))
        devices = [Device(id="cpu0", kind="cpu")]
        registration = worker_protocol.Registration(devices=devices, catalogue_digest=digest, catalogue=CATALOGUE)
        try:
            await link.register("stage", registration)
            yield link
        finally:
            await link.aclose()

    async def lease(self, link: Link, job_id: str, request_id: str) -> worker_protocol.Lease:
        request = worker_protocol.LeaseRequest(worker_id="stage", request_id=request_id, free_cpus=4)
        lease = await link.lease(request)
        assert lease is not None
        assert lease.job_id == job_id
        return lease

    def attempt(
        self,
        link: Link,
        lease: worker_protocol.Lease,
        *,
        report: ReportLimits = LIMITS,
        memory: int = 1 << 40,
        **settings: Any,
    ) -> Attempt:
        settings = {"work_dir": self.folder, "grace_seconds": 60, **settings}
        terms = AttemptConfig(
            WorkerSettings(**settings),
            self.launcher,
            {"CUDA_VISIBLE_DEVICES": "-1"},
            heartbeat_seconds=0.5,
            compiled=self.folder / "compiled",
            cache=Cache(self.folder / "uploads", reserve=0),
            rooms=None,
            bounds=ResourceLimits(memory, 1 << 40),
            limits=report,
        )
        return Attempt(lease, link.attempt(lease), terms)

    def submit(self, name: str, **parts: Any) -> str:
        data = {"source": "rows", "pipeline": [{"op": "batch", "batch_size": 2}]}
        once = {"max_attempts": 1, **parts.pop("limits", {})}
        return str(
            self.service.submit({"name": name, "data": data, "model": "net", "export": None, "limits": once, **parts})
        )

    def play(self, name: str, *, cancel_in: str | None = None, **settings: Any) -> dict[str, Any]:
        """Run one attempt of a job of that name; the job afterwards. `cancel_in`: cancel once it is in that state."""
        limits = settings.pop("limits", {})
        parts = {part: settings.pop(part) for part in ("export", "labels") if part in settings}

        async def scene() -> dict[str, Any]:
            async with self.linked() as link:
                job_id = self.submit(name, limits=limits, **parts)
                lease = await self.lease(link, job_id, job_id)
                running = asyncio.create_task(self.attempt(link, lease, **settings).run())
                if cancel_in is not None:
                    await asyncio.to_thread(self.service.until, job_id, lambda job: job["state"] == cancel_in)
                    await asyncio.to_thread(self.service.api.post, f"/v1/jobs/{job_id}/cancel")
                await running
                job: dict[str, Any] = self.service.job(job_id)
                return job

        job = self.run(scene())
        assert list((self.folder / "attempts").iterdir()) == []
        return job

    def notes(self, job: dict[str, Any]) -> list[dict[str, Any]]:
        events = self.service.data(f"/v1/jobs/{job['id']}/events")
        return [event["data"] for event in events if event["type"] in ("note", "diagnostic")]


@contextmanager
def staged(service: Any, folder: Path) -> Iterator[Stage]:
    """A stage for the jobs of this service."""
    handles.become_subreaper()
    with asyncio.Runner() as loop:
        launcher = ForkLauncher(runner=f"{ACTING}:main", admission=f"{ACTING}:catalogue")
        loop.run(launcher.start())
        loop.run(launcher.load([]))
        yield Stage(loop, launcher, service, folder)
        loop.run(launcher.close())
