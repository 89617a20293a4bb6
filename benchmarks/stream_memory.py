"""Whether a stream keeps memory flat: .venv/bin/python benchmarks/stream_memory.py [--gigabytes 2] [--json]

Writes Parquet files of that size into a temporary folder, trains one epoch on them (shuffled, batched) in this process
and reads its resident memory as it goes. The first quarter is warm-up: buffers fill, and TensorFlow's allocator and
threads find their size.
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
import pyarrow as pa
import pyarrow.parquet as pq

from tapeworks.components.loading import load_installed
from tapeworks.spec.parsing import parse_spec
from tapeworks_workers import runner
from tapeworks_workers.processes.frames import Channel

WIDTH, GROUP, BATCH = 1024, 512, 256
FILES = 8
MB = 1e6


def write(folder: Path, gigabytes: float) -> int:
    """Files of float32 rows and a label, uncompressed, a row group of 2 MiB at a time; how many rows there are."""
    random = np.random.default_rng(0)
    groups = max(1, round(gigabytes * 1e9 / FILES / (GROUP * WIDTH * 4)))
    flat = pa.array(random.random(GROUP * WIDTH, np.float32))
    rows = pa.FixedSizeListArray.from_arrays(flat, WIDTH)
    table = pa.table({"x": rows, "y": random.integers(0, 10, GROUP)})
    for number in range(FILES):
        with pq.ParquetWriter(
            folder / f"{number}.parquet", table.schema, compression="none", use_dictionary=False
        ) as writer:
            for _ in range(groups):
                writer.write_table(table, row_group_size=GROUP)
    return FILES * groups * GROUP


def spec(rows: int) -> dict[str, Any]:
    """One epoch over all of it."""
    return {
        "data": {
            "source": {"component": "parquet", "config": {"files": "*.parquet", "features": "x", "labels": "y"}},
            "pipeline": [{"op": "shuffle", "buffer_size": 4096}, {"op": "batch", "batch_size": BATCH}],
        },
        "model": {"component": "mlp", "config": {"hidden": [16], "outputs": 10}},
        "optimizer": "keras/Adam",
        "loss": "focal",
        "training": {"max_steps": rows // BATCH, "checkpoint": None, "report_every_steps": 50},
        "export": None,
    }


def measure(folder: Path, rows: int) -> list[int]:
    """Resident bytes at each report of the job."""
    process, readings = psutil.Process(), []
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    lease = {"kind": "train", "attempt": 1, "spec": parse_spec(spec(rows)).document(), "timeout_seconds": None}
    start = {"lease": lease, "folder": str(folder / "attempt"), "data_roots": [str(folder)], "resume": [], "inputs": []}
    channel.send({"type": "start", **start})
    thread = threading.Thread(target=runner.main, args=(theirs,))
    thread.start()
    while (frame := channel.receive()) is not None and frame["type"] != "finish":
        readings.append(process.memory_info().rss)
    thread.join()
    assert frame is not None
    assert frame["outcome"] == "succeeded", frame["failure"]
    return readings


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    load_installed()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "attempt").mkdir()
        rows = write(folder, options.gigabytes)
        size = sum(file.stat().st_size for file in folder.glob("*.parquet"))
        began = time.monotonic()
        readings = measure(folder, rows)
    settled = readings[len(readings) // 4 :]
    result = {
        "rows": rows,
        "read_mb": round(size / MB),
        "lowest_mb": round(min(settled) / MB, 1),
        "highest_mb": round(max(settled) / MB, 1),
        "last_mb": round(settled[-1] / MB, 1),
        "readings": len(settled),
        "seconds": round(time.monotonic() - began),
    }
    if options.json:
        sys.stdout.write(json.dumps(result) + "\n")
        return
    for name, value in result.items():
        print(f"{name:12} {value}")


if __name__ == "__main__":
    main()
