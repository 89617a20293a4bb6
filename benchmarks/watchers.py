"""Many who watch a few jobs: .venv/bin/python -m benchmarks.watchers [--database …]

A thousand long-polls and two hundred streams of events on ten jobs, whose workers, played by hand, send a batch of
records each second: metric points, a log line, progress, an event. It measures how long after a batch was sent each
watcher had it, how many answers there were and with which statuses, and the service's memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import psutil

from benchmarks.claims import installation
from benchmarks.http_load import Load, connection, get, post
from tapeworks.schemas.worker_protocol import LEASE_HEADER
from tests.support.hand_worker import HandLease, HandWorker, spec

JOBS, POLLERS, STREAMS = 10, 1_000, 200
BATCH_SECONDS = 1.0
"""As often as a job tells its progress."""
HEARTBEAT_SECONDS = 5.0
WARM_SECONDS = 5.0
"""All watchers are there then; what they saw before does not count."""
POINTS = 10
_STEP = re.compile(rb'"progress":\{"step":(\d+)')
_REVISION = re.compile(rb'"revision":(\d+)')


@dataclass
class Seen:
    """What the watchers saw."""

    port: int
    until: float
    counted_from: float
    sent: dict[tuple[str, int], float] = field(default_factory=dict)
    """When the batch of a job's step was sent."""
    polled: list[float] = field(default_factory=list)
    streamed: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)

    def arrived(self, at: list[float], job_id: str, step: int) -> None:
        """A watcher has what came with a step."""
        sent = self.sent.get((job_id, step), 0.0)
        if sent > self.counted_from:
            at.append(time.perf_counter() - sent)


async def worker(seen: Seen, lease: HandLease, begin: float) -> None:
    """Send batches and heartbeats until the time is over, then finish. `begin`: jobs do not tell at the same moment."""
    await asyncio.sleep(begin)
    headers = {LEASE_HEADER: lease.headers[LEASE_HEADER]}
    async with connection(seen.port) as ask:

        async def call(name: str, body: object, expected: int = 200) -> None:
            status, told = await ask(post(f"{lease.path}/{name}", json.dumps(body).encode(), **headers))
            seen.statuses[status] += 1
            assert status == expected, told

        index, step, beat = 0, 0, 0.0
        while (now := time.perf_counter()) < seen.until:
            step += 1
            points = range(100 * step, 100 * step + POINTS)
            batch = [
                *({"record": "metric", "step": point, "values": {"loss": 1 / point}} for point in points),
                {"record": "log", "stream": "stdout", "text": f"step {step}"},
                {"record": "facts", "progress": {"step": step, "epoch": 0}},
                {"record": "event", "type": "tick", "data": {"step": step}},
            ]  # fmt: skip
            seen.sent[lease.job_id, step] = now
            await call("records", {"records": [{"index": index + n, **one} for n, one in enumerate(batch, 1)]})
            index += len(batch)
            if now - beat > HEARTBEAT_SECONDS:
                await call("heartbeat", {})
                beat = now
            await asyncio.sleep(max(0.0, now + BATCH_SECONDS - time.perf_counter()))
        await call("finish", {"outcome": "succeeded", "last_record": index})


async def poller(seen: Seen, job_id: str) -> None:
    """Wait for one change after another until the job has ended."""
    async with connection(seen.port) as ask:
        revision, last = 0, 0
        while True:
            status, body = await ask(get(f"/v1/jobs/{job_id}?wait=30&unless={revision}"))
            seen.statuses[status] += 1
            step, found = _STEP.search(body), _REVISION.search(body)
            if status != 200 or step is None or found is None:
                return
            if int(step[1]) > last:  # a heartbeat or the end change the job too
                last = int(step[1])
                seen.arrived(seen.polled, job_id, last)
            if b'"state":"succeeded"' in body:
                return
            revision = int(found[1])


async def stream(seen: Seen, job_id: str) -> None:
    """Read events until the job has ended."""
    reader, writer = await asyncio.open_connection("127.0.0.1", seen.port)
    try:
        writer.write(get(f"/v1/jobs/{job_id}/events", accept="text/event-stream"))
        seen.statuses[int((await reader.readuntil(b"\r\n\r\n"))[9:12])] += 1
        while line := await reader.readline():
            if b'"tick"' in line:
                seen.arrived(seen.streamed, job_id, json.loads(line.partition(b":")[2])["data"]["step"])
            elif line == b"0\r\n":
                return
    finally:
        writer.close()


async def watch(port: int, leases: Sequence[HandLease], seconds: float) -> Seen:
    """All of it at once."""
    now = time.perf_counter()
    seen = Seen(port, until=now + WARM_SECONDS + seconds, counted_from=now + WARM_SECONDS)
    ids = [lease.job_id for lease in leases]
    watchers = [poller(seen, ids[n % JOBS]) for n in range(POLLERS)]
    watchers += [stream(seen, ids[n % JOBS]) for n in range(STREAMS)]
    workers = [worker(seen, lease, BATCH_SECONDS * n / len(leases)) for n, lease in enumerate(leases)]
    await asyncio.gather(*watchers, *workers)
    return seen


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--seconds", type=float, default=30.0)
    given = parser.parse_args()
    with installation(given.database) as (client, _, _):
        worker = HandWorker(client)
        worker.register()
        for _ in range(JOBS):
            worker.submit(spec(export=None))
        leases = [worker.lease() for _ in range(JOBS)]
        for lease in leases:
            lease.state("running", "training")
        seen = asyncio.run(watch(int(client.base_url.port or 0), leases, given.seconds))
        (process,) = [one for one in psutil.Process().children() if "tapeworks_service" in one.cmdline()]
        memory = process.memory_info().rss / 2**20
    answers = sum(seen.statuses.values()) / (WARM_SECONDS + given.seconds)
    print(f"{POLLERS} long-polls and {STREAMS} streams on {JOBS} jobs, {given.database}, {given.seconds:g} s\n")
    print("| after a batch was sent, in ms | p50 | p99 | longest | wanted p99 |\n|---|---|---|---|---|")
    for what, arrivals in (("a long-poll is answered", seen.polled), ("a stream has its event", seen.streamed)):
        load = Load(answers, sorted(arrivals))
        print(f"| {what} | {load.percentile(0.5):.0f} | {load.percentile(0.99):.0f} | {load.percentile(1):.0f} | 250 |")
    statuses = dict(sorted(seen.statuses.items()))
    print(f"\n{answers:.0f} answers/s; statuses {statuses}; service {memory:.0f} MiB (wanted 250)")


if __name__ == "__main__":
    main()
