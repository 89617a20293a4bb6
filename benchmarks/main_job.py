"""How long the main job takes on this machine, and what the service costs: .venv/bin/python benchmarks/main_job.py

Prints a table for the README: from starting `tapeworks serve` until it is ready (for the first time, in another folder,
and again), from POST to the first training step and to the published model, twenty jobs at once, and the service's
memory after them.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from tapeworks import Client
from tapeworks.schemas.jobs import Job, State

ROOT = Path(__file__).resolve().parents[1]
SPEC = json.loads((ROOT / "examples" / "digits_focal.json").read_text())
SMALL = {**SPEC, "export": None, "training": {"epochs": 1}}


@contextmanager
def served(data: Path) -> Iterator[tuple[Client, subprocess.Popen[bytes], float]]:
    """A ready server, and how many seconds it took."""
    began = time.monotonic()
    command = [sys.executable, "-m", "tapeworks.cli.main", "serve", "--port", "0", "--data-dir", str(data)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(data.parent / "cache")}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    try:
        while True:
            try:
                url = json.loads((data / "server.json").read_text())["url"]
                if httpx.get(f"{url}/readyz").status_code == 200:
                    break
            except (FileNotFoundError, httpx.TransportError):
                assert process.poll() is None, "serve ended"
            time.sleep(0.05)
        with Client(url) as client:
            yield client, process, time.monotonic() - began
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def timed(client: Client, spec: dict[str, Any]) -> tuple[Job, float, float]:
    """A job that succeeded, and seconds from POST to its first step and to its published model."""
    began = time.monotonic()
    first: list[float] = []

    def stepped(job: Job) -> None:
        if job.progress.step and not first:
            first.append(time.monotonic() - began)

    job = client.wait(client.submit(spec).id, on_change=stepped)
    published = time.monotonic() - began
    assert job.state is State.SUCCEEDED, job.failure
    return job, first[0], published


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        with served(Path(folder) / "first") as (_, _, first_time):
            pass
        with served(data) as (_, _, cold):
            pass
        with served(data) as (client, process, warm):
            runs = [timed(client, SPEC)[1:] for _ in range(3)]
            began = time.monotonic()
            jobs = [client.submit(SMALL).id for _ in range(20)]
            assert all(client.wait(job).state is State.SUCCEEDED for job in jobs)
            twenty = time.monotonic() - began
            memory = psutil.Process(process.pid).memory_info().rss / 2**20
    first, published = (statistics.median(times) for times in zip(*runs, strict=True))
    rows = {
        "`tapeworks serve` to ready, the first time (every component admitted)": f"{first_time:.1f} s",
        "`tapeworks serve` to ready, another new folder": f"{cold:.1f} s",
        "`tapeworks serve` to ready, the same folder again": f"{warm:.1f} s",
        "POST to the first reported step of `examples/digits_focal.json`": f"{first:.1f} s",
        "POST to the published model: 800 steps, export, both verifications": f"{published:.1f} s",
        "20 jobs of one epoch, nothing exported, one after the other": f"{twenty:.1f} s",
        "memory of the service after them (RSS)": f"{memory:.0f} MiB",
    }
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print("| figure | value |\n|---|---|")
    for name, value in rows.items():
        print(f"| {name} | {value} |")


if __name__ == "__main__":
    main()
