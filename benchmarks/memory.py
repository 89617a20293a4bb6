"""Whether a runner's memory grows as it trains: .venv/bin/python benchmarks/memory.py [--steps 20000]

Trains digits with validation, an evaluator and callbacks in this process, and reads its resident memory at each epoch's
end. The first tenth of the steps is warm-up: TensorFlow's allocator and thread pools find their size in it.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from tapeworks.components.loading import load_installed
from tapeworks.spec.parsing import parse_spec
from tapeworks_workers import runner
from tapeworks_workers.processes.frames import Channel

MB = 1e6


def spec(steps: int) -> dict[str, Any]:
    """A small job that does between epochs all that a job can."""
    pipeline = [{"op": "shuffle", "buffer_size": 2000}, {"op": "batch", "batch_size": 32}]
    return {
        "data": {"source": "digits", "validation": 0.2, "pipeline": pipeline},
        "model": {"component": "mlp", "config": {"hidden": [64], "outputs": 10}},
        "optimizer": "keras/Adam",
        "loss": "focal",
        "metrics": ["keras/SparseCategoricalAccuracy"],
        "evaluators": ["linear_probe"],
        "callbacks": ["reduce_learning_rate", {"component": "tensorboard", "config": {"histograms": 20}}],
        "training": {"max_steps": steps, "checkpoint": {"every_seconds": 5.0}},
        "export": None,
    }


def measure(steps: int) -> list[tuple[int, float]]:
    """(step, resident bytes) at each epoch's end."""
    process = psutil.Process()
    readings: list[tuple[int, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = socket.socketpair()
        channel = Channel(ours)
        document = parse_spec(spec(steps)).document()
        lease = {"kind": "train", "attempt": 1, "spec": document, "timeout_seconds": None}
        channel.send({"type": "start", "lease": lease, "folder": str(Path(folder)), "data_roots": [], "resume": []})
        thread = threading.Thread(target=runner.main, args=(theirs,))
        thread.start()
        while (frame := channel.receive()) is not None and frame["type"] != "finish":
            record = frame.get("record", {})
            if record.get("type") == "epoch":
                readings.append((record["data"]["step"], process.memory_info().rss))
        assert frame is not None
        assert frame["outcome"] == "succeeded", frame
        thread.join()
    return readings


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    load_installed()
    began = time.monotonic()
    warm_up = options.steps // 10
    readings = np.array([r for r in measure(options.steps + warm_up) if r[0] >= warm_up], np.float64)
    steps, memory = readings.T
    result = {
        "steps": int(steps[-1] - steps[0]),
        "before_mb": round(memory[0] / MB, 1),
        "after_mb": round(memory[-1] / MB, 1),
        "growth_mb": round((memory[-1] - memory[0]) / MB, 1),
        "slope_mb_per_1000_steps": round(float(np.polyfit(steps, memory, 1)[0]) * 1000 / MB, 3),
        "seconds": round(time.monotonic() - began),
    }
    if options.json:
        sys.stdout.write(json.dumps(result) + "\n")
        return
    for name, value in result.items():
        print(f"{name:26} {value}")


if __name__ == "__main__":
    main()
