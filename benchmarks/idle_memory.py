"""What a server costs that has nothing to do: .venv/bin/python -m benchmarks.idle_memory

`tapeworks serve` after one job: memory of the service, the agent and the zygotes, and of two runners that train small
jobs. RSS counts shared pages in each process; PSS divides them among those that share them. A table in MiB.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.start import SPEC
from examples.serving import served
from tapeworks import Client
from tapeworks.schemas.jobs import State

MIB = 1 << 20
WANTED = {"service": 150, "agent": 60}
LONG = {
    **SPEC,
    "training": {"epochs": 1_000_000, "checkpoint": None, "execution": {"plan": "loop"}},
    "export": None,
    "resources": {"cpus": 1},
}


def workers(agent: psutil.Process) -> list[psutil.Process]:
    """What an agent started: the zygotes of the base, of the engine and of the components, then the runners."""
    return sorted(agent.children(), key=psutil.Process.create_time)


def row(what: str, process: psutil.Process) -> str:
    """RSS, PSS and what is its own."""
    told: Any = process.memory_full_info()
    wanted = WANTED.get(what, "")
    return f"| {what} | {told.rss / MIB:.0f} | {told.pss / MIB:.0f} | {told.uss / MIB:.0f} | {wanted} |"


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as url, Client(url) as client:
        assert client.wait(client.submit(SPEC).id).state is State.SUCCEEDED
        server = psutil.Process(json.loads((Path(folder) / "data" / "server.json").read_text())["pid"])
        time.sleep(5)  # pages that the last job's processes shared are back
        print("| MiB | RSS | PSS | its own | wanted RSS |\n|---|---|---|---|---|")
        (agent,) = [one for one in server.children() if "tapeworks_workers" in one.cmdline()]
        base, engine, component = workers(agent)
        zygotes = {"base zygote": base, "engine zygote": engine, "component zygote": component}
        named = {"service": server, "agent": agent, **zygotes}
        for what, process in named.items():
            print(row(what, process))
        jobs = [client.submit(LONG).id for _ in range(2)]
        for job in jobs:
            began(client, job)
        for runner in workers(agent)[3:]:
            print(row("a runner beside another", runner))
        for job in jobs:
            client.cancel(job)
            client.wait(job)


def began(client: Client, job_id: str) -> None:
    """Wait for a job's first step."""
    job = client.get(job_id)
    while not job.progress.step:
        assert not job.finished, job.failure
        job = client.changed(job, wait=30)


if __name__ == "__main__":
    main()
