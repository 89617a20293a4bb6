"""Curves of four metrics of a thousand points and of a million: .venv/bin/python -m benchmarks.curves [--database …]

Points are written as a job of an earlier version left them, so that the first read makes their buckets; then the whole
range and a hundredth of it are read in turns. Prints medians, and the size of the answer. At last, what a request with
1000 points costs on a job that stores them, with the buckets that it makes.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import statistics
import time

import httpx
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.claims import installation
from tapeworks_service.database.tables import metric_points
from tests.support.hand_worker import HandWorker, spec

METRICS = ("loss", "val_loss", "accuracy", "val_accuracy")
ROWS = 20_000
READS = 30


async def write(url: str, job: str, points: int) -> None:
    """So many points of each metric, a spike and a NaN among them."""
    chance, engine = random.Random(0), create_async_engine(url)
    for start in range(0, points, ROWS // len(METRICS)):
        rows = []
        for step in range(start, min(points, start + ROWS // len(METRICS))):
            value: float | None = math.exp(-step / points) + chance.gauss(0, 0.02)
            value = None if step == points // 3 else 1e6 if step == points // 2 else value
            rows += [
                {"project_id": "default", "job_id": job, "seq": step * len(METRICS) + number + 1, "at": time.time(),
                 "attempt": 1, "name": name, "step": step, "value": value}
                for number, name in enumerate(METRICS)
            ]  # fmt: skip
        async with engine.begin() as connection:
            await connection.execute(insert(metric_points), rows)
    async with engine.begin() as connection:
        given = {"seq": points * len(METRICS), "id": job}
        await connection.execute(text("UPDATE jobs SET metric_seq = :seq WHERE id = :id"), given)
    await engine.dispose()


def read(client: httpx.Client, path: str, **asked: int) -> tuple[float, int]:
    """Median time of a read in ms, and its bytes."""
    took, size = [], 0
    for _ in range(READS):
        began = time.perf_counter()
        answer = client.get(path, params=asked)
        took.append(time.perf_counter() - began)
        assert answer.is_success, answer.text
        size = len(answer.content)
        assert asked.get("from_step") or all(
            any(one[4] == 1e6 for one in series["buckets"]) and sum(one[6] for one in series["buckets"]) == 1
            for series in answer.json()["data"]
        ), "the spike and the NaN are there"
    return statistics.median(took) * 1e3, size


def stored(worker: HandWorker) -> float:
    """Milliseconds of a request that reports 1000 points, median."""
    worker.submit(spec(export=None))
    lease, took = worker.lease(), []
    for batch in range(READS):
        records = [
            {"record": "metric", "step": batch * 250 + step, "values": dict.fromkeys(METRICS, 0.5)}
            for step in range(250)
        ]
        began = time.perf_counter()
        assert lease.records(*records).is_success
        took.append(time.perf_counter() - began)
    lease.finish("succeeded")
    return statistics.median(took) * 1e3


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--points", type=int, nargs="+", default=[1_000, 1_000_000], help="of each of four metrics")
    given = parser.parse_args()
    print(
        "| points of each of 4 metrics | first read, ms | whole, ms | a hundredth, ms | answer, bytes |\n"
        + "|---" * 5
        + "|"
    )
    with installation(given.database) as (client, _, url):
        worker = HandWorker(client)
        worker.register()
        for points in given.points:
            job = worker.submit(spec(export=None))["id"]
            worker.lease().finish("succeeded")
            asyncio.run(write(url, job, points))
            path = f"/v1/jobs/{job}/metrics"
            began = time.perf_counter()
            while client.get(path, params={"buckets": 1000}).status_code == 503:  # goes on with the next request
                pass
            first = (time.perf_counter() - began) * 1e3
            whole, size = read(client, path, buckets=1000)
            zoomed, _ = read(client, path, buckets=1000, from_step=points // 7, to_step=points // 7 + points // 100)
            print(f"| {points} | {first:.0f} | {whole:.1f} | {zoomed:.1f} | {size} |", flush=True)
        print(f"\na request with 1000 points is stored in {stored(worker):.1f} ms (median)")


if __name__ == "__main__":
    main()
