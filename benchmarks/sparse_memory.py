"""The memory that sparse columns take: .venv/bin/python benchmarks/sparse_memory.py [--columns 100000] [--json]

Trains `sparse_dense` on a matrix in CSR parts, 20 values a row, in batches of 2048 rows, exports it and calls the
SavedModel with a batch; once with 100 columns and once with many, each in a process of its own. Source, batches,
gradients and the exported signature hold the values only: the peaks differ by some copies of the weights. One
dense batch would be 2048 · columns · 4 bytes, the dense matrix four times that.
"""

from __future__ import annotations

import argparse
import json
import resource
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tapeworks.components.loading import load_installed
from tapeworks.spec.parsing import parse_spec
from tapeworks_workers import runner
from tapeworks_workers.processes.frames import Channel

ROWS, BATCH, VALUES, UNITS = 8192, 2048, 20, 8
FEW = 100
MB = 1e6


def spec() -> dict[str, Any]:
    """A job from file to SavedModel."""
    layers = [
        {"component": "sparse_dense", "config": {"units": UNITS, "activation": "relu"}},
        {"component": "keras/Dense", "config": {"units": 3}},
    ]
    return {
        "data": {
            "source": {"component": "arrays", "config": {"files": "wide.npz"}},
            "validation": 0.25,
            "pipeline": [{"op": "shuffle", "buffer_size": ROWS}, {"op": "batch", "batch_size": BATCH}],
        },
        "model": {"component": "sequential", "config": {"layers": layers}},
        "optimizer": "keras/Adam",
        "loss": {"component": "keras/SparseCategoricalCrossentropy", "config": {"from_logits": True}},
        "metrics": ["keras/SparseCategoricalAccuracy"],
        "training": {"epochs": 3},
    }


def write(file: Path, columns: int) -> None:
    """The matrix as SciPy would save its parts."""
    random = np.random.default_rng(0)
    np.savez(
        file,
        y=random.integers(0, 3, ROWS),
        **{
            "x.data": np.ones(ROWS * VALUES, "float32"),
            "x.indices": np.sort(random.permuted(np.tile(np.arange(FEW), (ROWS, 1)), axis=1)[:, :VALUES]).ravel()
            * (columns // FEW),
            "x.indptr": np.arange(0, ROWS * VALUES + 1, VALUES),
            "x.shape": np.array([ROWS, columns]),
        },
    )


def trained(folder: Path) -> None:
    """One attempt of the job, as a worker runs it; the agent's answers are given here."""
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    lease = {"kind": "train", "attempt": 1, "spec": parse_spec(spec()).document(), "timeout_seconds": None}
    start = {"lease": lease, "folder": str(folder), "data_roots": [str(folder)], "resume": [], "inputs": []}
    channel.send({"type": "start", **start})
    thread = threading.Thread(target=runner.main, args=(theirs,))
    thread.start()
    while (frame := channel.receive()) is not None and frame["type"] != "finish":
        if frame["type"] == "verify":
            channel.send({"reply": frame["id"], "ok": True, "report": {}})
    thread.join()
    assert frame is not None
    assert frame["outcome"] == "succeeded", frame["failure"]


def measure(columns: int) -> dict[str, float]:
    """In this process: the peak of its resident memory, and what the model's weights and Adam's slots take."""
    load_installed()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "wide.npz", columns)
        trained(folder)
        (saved,) = folder.rglob("saved_model/model/1")
        serve = tf.saved_model.load(str(saved)).signatures["serving_flat"]
        rows = np.repeat(np.arange(BATCH), VALUES)
        cells = np.stack([rows, np.tile(np.arange(VALUES), BATCH) * (columns // FEW)], 1)
        outputs = serve(
            indices=tf.constant(cells), values=tf.ones(len(cells)), dense_shape=tf.constant([BATCH, columns], tf.int64)
        )
        assert next(iter(outputs.values())).shape == (BATCH, 3)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"peak_mb": round(peak / MB, 1), "state_mb": round(3 * 4 * columns * UNITS / MB, 1)}


def main() -> None:
    """Measure both and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--columns", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--here", action="store_true", help="measure these columns in this process, and no others")
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measure(options.columns)))
        return

    def apart(columns: int) -> dict[str, float]:
        command = [sys.executable, __file__, "--here", "--columns", str(columns)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        return dict(json.loads(done.stdout.splitlines()[-1]))

    few, many = apart(FEW), apart(options.columns)
    result = {
        "columns": options.columns,
        f"peak_mb_of_{FEW}_columns": few["peak_mb"],
        "peak_mb": many["peak_mb"],
        "growth_mb": round(many["peak_mb"] - few["peak_mb"], 1),
        "weights_and_slots_mb": many["state_mb"],
        "one_dense_batch_mb": round(BATCH * options.columns * 4 / MB, 1),
        "dense_matrix_mb": round(ROWS * options.columns * 4 / MB, 1),
    }
    if options.json:
        sys.stdout.write(json.dumps(result) + "\n")
        return
    for name, value in result.items():
        print(f"{name:26} {value}")


if __name__ == "__main__":
    main()
