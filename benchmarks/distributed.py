"""What a second device costs a step, by the size of the model: .venv/bin/python -m benchmarks.distributed

Steps per second of a dense model on one CPU device and on two logical ones at the same global batch, each in a process
of its own, in turns there and back; medians, with the lowest and the highest. Two logical devices share the cores of
one: the difference is the cost of cutting batches, of summing gradients and of copying weights, and no speed-up can be
seen. The second table is computed, not measured: what the exchange of gradients and copies would take on 8 GPUs, from
the bytes of the weights and a bandwidth.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

CASES: dict[str, tuple[list[int], int]] = {
    "64-64-10, batch 32": ([64], 32),
    "64-256-256-10, batch 128": ([256, 256], 128),
    "64-1024-1024-10, batch 256": ([1024, 1024], 256),
}
"""Name → hidden sizes, global batch."""
BANDWIDTHS = {"PCIe 4.0 x16, 25 GB/s": 25e9, "NVLink, 300 GB/s": 300e9}
GPUS = 8
FEATURES, OUTPUTS = 64, 10


def measured(name: str, devices: int, seconds: float) -> float:
    """Steps per second, in this process."""
    import tensorflow as tf

    from tapeworks.components.loading import load_installed
    from tapeworks.spec.parsing import parse_spec
    from tapeworks_workers.engine.devices.selection import configure, devices_of
    from tapeworks_workers.engine.step.assembly import assemble
    from tapeworks_workers.engine.step.compiled_step import compile_train_step

    configure()
    load_installed()
    hidden, size = CASES[name]
    spec = parse_spec(
        {
            "data": {"source": "digits", "pipeline": [{"op": "batch", "batch_size": size}]},
            "model": {"component": "mlp", "config": {"hidden": hidden, "outputs": OUTPUTS}},
            "optimizer": "keras/Adam",
            "loss": {"component": "keras/SparseCategoricalCrossentropy", "config": {"from_logits": True}},
            "resources": {"gpus": devices},
        }
    )
    element = (tf.TensorSpec([None, FEATURES], tf.float32), tf.TensorSpec([None], tf.int64))
    assembly = assemble(spec, element, devices=devices_of(spec))  # held: it owns the variables
    step = compile_train_step(assembly).on_device
    x, y = tf.random.normal([size, FEATURES]), tf.random.uniform([size], maxval=OUTPUTS, dtype=tf.int64)

    @tf.function(autograph=False)
    def loop(steps: tf.Tensor) -> None:
        def one(done: tf.Tensor) -> tuple[tf.Tensor]:
            step((x, y))
            return (done + 1,)

        tf.while_loop(lambda done: done < steps, one, (tf.constant(0),))

    loop(tf.constant(5))
    done, began = 0, time.monotonic()
    while time.monotonic() - began < seconds:
        loop(tf.constant(20))
        done += 20
    return done / (time.monotonic() - began)


def turn(name: str, devices: int, seconds: float) -> float:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.distributed", "--one", name, str(devices), str(seconds)]
    environment = {**os.environ, "TAPEWORKS_LOGICAL_DEVICES": "2", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def weights(hidden: list[int]) -> int:
    """How many weights the model has."""
    sizes = [FEATURES, *hidden, OUTPUTS]
    return sum((one + 1) * other for one, other in itertools.pairwise(sizes))


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=3, metavar=("CASE", "DEVICES", "SECONDS"))
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measured(given.one[0], int(given.one[1]), float(given.one[2]))))
        return
    lines: list[Any] = [
        "| model | weights | one device, ms | two logical devices, ms | added, ms |",
        "|---|---|---|---|---|",
    ]
    for name, (hidden, _) in CASES.items():
        took: dict[int, list[float]] = {1: [], 2: []}
        for index in range(given.turns):
            for devices in (1, 2) if index % 2 == 0 else (2, 1):
                took[devices].append(1000 / turn(name, devices, given.seconds))
        middle = {devices: statistics.median(values) for devices, values in took.items()}
        cells = [f"{middle[n]:.3g} ({min(took[n]):.3g} … {max(took[n]):.3g})" for n in (1, 2)]
        lines.append(f"| {name} | {weights(hidden)} | {cells[0]} | {cells[1]} | {middle[2] - middle[1]:.3g} |")
    lines += ["", f"Computed for {GPUS} GPUs, float32: a ring sums 2·(n-1)/n of the weights' bytes, and the first", ""]
    lines[-2] += " GPU then sends them to each other one."
    lines += ["| weights | " + " | ".join(BANDWIDTHS) + " |", "|---" * (len(BANDWIDTHS) + 1) + "|"]
    for count in (10**6, 10**7, 10**8, 10**9):
        moved = 4 * count * (2 * (GPUS - 1) / GPUS + (GPUS - 1))
        lines.append(
            f"| {count:,} | " + " | ".join(f"{1000 * moved / one:.3g} ms" for one in BANDWIDTHS.values()) + " |"
        )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
