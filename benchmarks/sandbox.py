"""What a sandbox costs a job: .venv/bin/python -m benchmarks.sandbox [--turns 7]

One server; the same small job with a built-in loss, and with one of an uploaded package, in turns. The first job of a
package makes its sandbox and is told apart. Prints seconds from POST to the first step and to the verified model.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

from qualification.security.attacked_server import PACKAGE, House, housed
from tapeworks.schemas.jobs import Job, State


def spec(loss: str) -> dict[str, Any]:
    """Five epochs of digits."""
    return {
        "data": {"source": "digits", "pipeline": [{"op": "shuffle", "buffer_size": 1000},
                                                  {"op": "batch", "batch_size": 32}]},
        "model": {"component": "mlp", "config": {"hidden": [64], "outputs": 10}},
        "optimizer": "keras/Adam", "loss": loss, "training": {"epochs": 5, "report_every_steps": 1},
    }  # fmt: skip


def taken(house: House, loss: str) -> tuple[float, float]:
    """Seconds from POST until the job is running, and until its model is published."""
    job = house.client.wait(house.client.submit(spec(loss)).id, 120)
    assert job.state is State.SUCCEEDED, job.failure
    return _seconds(job, job.created_at, _running(job)), _seconds(job, job.created_at, job.finished_at)


def _running(job: Job) -> datetime:
    return next(one.at for one in job.transitions if one.state is State.RUNNING)


def _seconds(job: Job, began: datetime, ended: datetime | None) -> float:
    assert ended is not None
    return (ended - began).total_seconds()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sandbox")
    parser.add_argument("--turns", type=int, default=7)
    turns = parser.parse_args().turns
    with tempfile.TemporaryDirectory() as folder, housed(Path(folder)) as house:
        taken(house, "focal")
        package = house.client.packages.settled(house.client.packages.push(PACKAGE), 120)
        assert package.state == "admitted", package
        told: dict[str, list[tuple[float, float]]] = {"built-in": [], "package": []}
        for _ in range(turns):
            told["built-in"].append(taken(house, "focal"))
            told["package"].append(taken(house, "story/Smooth"))
        cold = house.client.get(str(package.job_id))
        print(f"{turns} jobs each in turns, medians\n")
        print("| | POST to running, s | POST to the verified model, s |\n|---|---|---|")
        medians = {name: [statistics.median(one) for one in zip(*values, strict=True)] for name, values in told.items()}
        for name, (running, whole) in medians.items():
            print(f"| {name} | {running:.2f} | {whole:.2f} |")
        ratios = [mine / other for mine, other in zip(medians["package"], medians["built-in"], strict=True)]
        print(f"| ratio | {ratios[0]:.2f} | {ratios[1]:.2f} |")
        admission = _seconds(cold, cold.created_at, cold.finished_at)
        print(f"\nthe first of the package, its admission, with the sandbox made: {admission:.1f} s")


if __name__ == "__main__":
    main()
