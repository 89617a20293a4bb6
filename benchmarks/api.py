"""Requests per second beside a FastAPI route that does nothing: .venv/bin/python -m benchmarks.api [--database …]

A service process with 10 000 queued jobs, and a bare application (`bare.py`) whose typed routes give the same bodies
from memory, in turns: looking at a job, looking when it has not changed (304), a page of 50 jobs, and a submit, which
is in the database, synced, before it is answered. Prints medians, ratios and 99th percentiles.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from benchmarks.claims import answering, fill, free_port, installation
from benchmarks.http_load import Load, get, hammer, post
from tests.support.hand_worker import HandWorker, spec

QUEUED, KINDS = 10_000, 50
SECONDS = 3.0
LOOKERS, SUBMITTERS = 8, 32
"""Connections of those who look, and of those who submit: commits gather what comes at the same time."""
TARGETS = {"look at a job": 0.5, "look, not changed (304)": 0.5, "a page of 50 jobs": 0.5, "submit a job": 0.2}


@contextmanager
def bare(folder: Path, job: Any, page: Any) -> Iterator[int]:
    """The bare application's port."""
    file, port = folder / "bare.json", free_port()
    file.write_text(json.dumps({"job": job, "page": page}))
    with answering(["-m", "benchmarks.fastapi_baseline", str(port), str(file)], port, "/job", folder / "bare.log"):
        yield port


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()
    with installation(given.database) as (client, folder, url):
        _measure(client, folder, url, given.turns)


def _measure(client: httpx.Client, folder: Path, url: str, turns: int) -> None:
    worker = HandWorker(client)
    worker.register()
    job = worker.submit(spec(export=None))
    asyncio.run(fill(url, QUEUED, KINDS))
    worker.lease().finish("succeeded")  # what is looked at does not change
    looked = client.get(f"/v1/jobs/{job['id']}")
    page = client.get("/v1/jobs", params={"limit": 50})
    body = json.dumps(spec()).encode()
    ours = int(client.base_url.port or 0)
    cases: dict[str, tuple[bytes, bytes, int, int]] = {
        "look at a job": (get(f"/v1/jobs/{job['id']}"), get("/job"), 200, LOOKERS),
        "look, not changed (304)": (
            get(f"/v1/jobs/{job['id']}", if_none_match=looked.headers["etag"]), get("/job"), 304, LOOKERS,
        ),
        "a page of 50 jobs": (get("/v1/jobs?limit=50"), get("/jobs"), 200, LOOKERS),
        "submit a job": (post("/v1/jobs", body), post("/jobs", body), 201, SUBMITTERS),
    }  # fmt: skip
    with bare(folder, looked.json(), page.json()) as theirs:
        print(
            f"{len(looked.content)} bytes a job, {len(page.content)} a page, {len(body)} a spec; {url.split('+')[0]}\n"
        )
        print("| call | Tapeworks, answers/s | a bare route | ratio | wanted | p50, p99 in ms |\n" + 6 * "|---" + "|")
        for what, (mine, other, status, connections) in cases.items():
            loads: list[tuple[Load, Load]] = []
            for _ in range(turns):
                loads.append(
                    (
                        _load(ours, mine, status, connections),
                        _load(theirs, other, 200 if status == 304 else status, connections),
                    )
                )
            print(_row(what, loads), flush=True)


def _load(port: int, request: bytes, status: int, connections: int) -> Load:
    return hammer(port, request, status=status, connections=connections, seconds=SECONDS)


def _row(what: str, loads: list[tuple[Load, Load]]) -> str:
    mine, other = (statistics.median(load.rate for load in column) for column in zip(*loads, strict=True))
    spread = sorted(load.rate / beside.rate for load, beside in loads)
    p50, p99 = (statistics.median(load.percentile(part) for load, _ in loads) for part in (0.5, 0.99))
    ratio = f"{mine / other:.2f} ({spread[0]:.2f}–{spread[-1]:.2f})"
    return f"| {what} | {mine:.0f} | {other:.0f} | {ratio} | {TARGETS[what]} | {p50:.1f}, {p99:.1f} |"


if __name__ == "__main__":
    main()
