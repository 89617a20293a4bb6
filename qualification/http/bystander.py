"""A worker of another project, played by hand: it renews its lease, reports and uploads, and notes every delay."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

import httpx

from tests.support.hand_worker import HandLease, HandWorker, spec

PAUSE_SECONDS = 0.1


@dataclass
class Bystander:
    """What it saw."""

    worker: HandWorker
    lease: HandLease
    delays: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def with_a_job(cls, client: httpx.Client) -> Bystander:
        """One that holds the only job there is."""
        worker = HandWorker(client)
        worker.register()
        worker.submit(spec(limits={"max_attempts": 1}))
        return cls(worker, worker.lease(wait=10))

    def run(self) -> None:
        """Hold the job until `stop`, then end it."""
        lease, number = self.lease, 0
        while not self._stop.wait(PAUSE_SECONDS):
            number += 1
            self._timed(lease.heartbeat())
            self._timed(lease.records({"record": "metric", "step": number, "values": {"loss": 1.0 / number}}))
            if number % 10 == 0:
                began = time.monotonic()
                lease.upload(f"file-{number}.bin", number.to_bytes(4, "big") * 256)
                self.delays.append(time.monotonic() - began)
        ended = lease.finish("succeeded")
        seen = self.worker.job(lease.job_id)
        if not ended.is_success or (seen["state"], seen["failed_attempts"]) != ("succeeded", 0):
            self.wrong.append(f"its job ended as {seen['state']} after {seen['failed_attempts']} failed attempts")

    def stop(self) -> None:
        """End the job."""
        self._stop.set()

    def _timed(self, answer: httpx.Response) -> None:
        self.delays.append(answer.elapsed.total_seconds())
        if not answer.is_success:
            self.wrong.append(f"{answer.request.url.path}: {answer.status_code} {answer.text[:200]}")
