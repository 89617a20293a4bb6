"""How soon a job trains and how soon its model is there, beside `python train.py`: .venv/bin/python -m benchmarks.start

The digits for five epochs, in turns: a job on a warm worker, from POST to the first step that its user sees and to the
verified bundle; and a script of the same (`train_py.py`), from the start of its process to its first step, and to the
end of a reload in a fresh process, which is what the bundle's verification stands for. Both run from bytecode.
Prints medians with their spread, ratios, and where a job's time goes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.main_job import timed
from examples.serving import ROOT, served
from tapeworks import Client

SCRIPT = Path(__file__).with_name("train_py.py")
SPEC = {
    "data": {
        "source": "digits", "validation": 0.2,
        "pipeline": [{"op": "shuffle", "buffer_size": 1797}, {"op": "batch", "batch_size": 32}],
    },
    "model": {"component": "mlp", "config": {"hidden": [64], "outputs": 10}},
    "optimizer": "keras/Adam",
    "loss": {"component": "keras/SparseCategoricalCrossentropy", "config": {"from_logits": True}},
    "metrics": ["keras/SparseCategoricalAccuracy"],
    "training": {"epochs": 5},
}  # fmt: skip


def of_job(client: Client) -> tuple[dict[str, float], list[tuple[str, float]]]:
    """Seconds from POST, and (phase, seconds) of the job by its events."""
    job, first, published = timed(client, SPEC)
    told = [event for event in client.events(job.id) if event.type == "state"]
    names = [f"{event.data['state']} {event.data.get('phase') or ''}".strip() for event in told]
    lengths = [(after.at - before.at).total_seconds() for before, after in itertools.pairwise(told)]
    return {"first step": first, "verified": published}, list(zip(names, lengths, strict=False))


def of_script() -> dict[str, float]:
    """The same of the script and its reload."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.time()
        trained = _run("train", folder)
        first, ended = trained["first_step"] - began, time.time() - began
        _run("reload", folder)
        return {"first step": first, "exported": ended, "verified": time.time() - began}


def _run(what: str, folder: str) -> dict[str, float]:
    command = [sys.executable, str(SCRIPT), what, folder]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told


def told(values: Sequence[float]) -> str:
    """Median and spread."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    given = parser.parse_args()
    jobs: dict[str, list[float]] = defaultdict(list)
    scripts: dict[str, list[float]] = defaultdict(list)
    phases: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as url, Client(url) as client:
        of_job(client)  # the worker is warm, and so are the disk's caches
        of_script()
        for _ in range(given.turns):
            seconds, lengths = of_job(client)
            _add(jobs, seconds)
            _add(phases, _sums(lengths))
            _add(scripts, of_script())
    print("| seconds, medians and spread | a job | `python train.py` | ratio |\n|---|---|---|---|")
    for name, what in {"first step": "first step", "verified": "model verified in a fresh process"}.items():
        ratio = statistics.median(jobs[name]) / statistics.median(scripts[name])
        print(f"| {what} | {told(jobs[name])} | {told(scripts[name])} | {ratio:.2f} |")
    print(f"\nthe script has exported after {told(scripts['exported'])} s\n\nwhere a job's time goes:")
    for name, seconds in phases.items():
        print(f"  {name:24}{told(seconds)}")


def _sums(lengths: Sequence[tuple[str, float]]) -> dict[str, float]:
    sums: dict[str, float] = defaultdict(float)
    for name, seconds in lengths:
        sums[name] += seconds
    return sums


def _add(into: dict[str, list[float]], values: Any) -> None:
    for name, value in values.items():
        into[name].append(value)


if __name__ == "__main__":
    main()
