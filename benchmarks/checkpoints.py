"""What checkpoints cost a training: .venv/bin/python -m benchmarks.checkpoints

The digits job with a checkpoint every 5 seconds and without any, in turns on one server; steps per second of each
turn from the times of its reported points, medians, and the ratio. Then the same for weights of 14 MB (with Adam's
slots 42 MB) and a shuffle buffer of all rows. Prints a table.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

from examples.serving import served
from tapeworks import Client
from tapeworks.schemas.jobs import State

TURNS = 5
EVERY = {"every_steps": None, "every_seconds": 5.0, "keep": 2}
JOBS = {
    "digits, 64 units": ([64], 300_000, "fused"),
    "digits, 3 × 1024 units": ([1024, 1024, 1024], 3_000, "loop"),
}
"""Units, steps and the plan, which is named: a calibration in the midst of it is not what is measured."""


def spec(hidden: list[int], steps: int, plan: str, checkpoint: dict[str, Any] | None) -> dict[str, Any]:
    """A job of so many steps that exports nothing."""
    pipeline = [
        {"op": "shuffle", "buffer_size": 1797},
        {"op": "batch", "batch_size": 32, "drop_remainder": True},
    ]
    return {
        "data": {"source": "digits", "pipeline": pipeline},
        "model": {"component": "mlp", "config": {"hidden": hidden, "outputs": 10}},
        "optimizer": "keras/Adam",
        "loss": {"component": "keras/SparseCategoricalCrossentropy", "config": {"from_logits": True}},
        "training": {
            "max_steps": steps,
            "steps_per_epoch": steps,
            "report_every_steps": steps // 20,
            "checkpoint": checkpoint,
            "execution": {"plan": plan},
        },
        "export": None,
    }


def rate(client: Client, document: dict[str, Any]) -> tuple[float, int]:
    """Steps per second between the first and the last report, and how many checkpoints were announced by then."""
    job = client.wait(client.submit(document).id)
    assert job.state is State.SUCCEEDED, job.failure
    points = client.metrics(job.id)["loss"].points
    (first, _, began), (last, _, ended) = points[0], points[-1]
    written = sum(event.type == "checkpoint" for event in client.events(job.id))
    return (last - first) / (ended - began).total_seconds(), written


def main() -> None:
    """Measure and print."""
    print(f"{'job':24}{'without /s':>12}{'every 5 s /s':>14}{'ratio':>8}{'spread':>16}{'checkpoints':>13}")
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as url, Client(url) as client:
        for name, (hidden, steps, plan) in JOBS.items():
            ratios, without, with_them, written = [], [], [], 0
            for _ in range(TURNS):
                plain, _ = rate(client, spec(hidden, steps, plan, None))
                saved, count = rate(client, spec(hidden, steps, plan, EVERY))
                without.append(plain)
                with_them.append(saved)
                ratios.append(saved / plain)
                written += count - 1  # the last one is written after the last report
            medians = f"{statistics.median(without):12.0f}{statistics.median(with_them):14.0f}"
            spread = f"{min(ratios):.3f}-{max(ratios):.3f}"
            print(f"{name:24}{medians}{statistics.median(ratios):8.3f}{spread:>16}{written:13}", flush=True)


if __name__ == "__main__":
    main()
