"""Whether work grows faster than what it is done on: .venv/bin/python -m benchmarks.scaling

Training: examples per second of one model at batches from 1 to 4096, as a job trains it, and as `fit` does. Metrics: a
job's points are stored in batches of 1000 as a worker sends them, from a hundred to a million; how long a batch takes
and a page of the job's metrics of 500 points, when so many are there. Prints two tables.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.claims import service
from tests.support.hand_worker import HandLease, HandWorker, spec

BATCHES = (1, 8, 64, 512, 4096)
POINTS = (100, 1_000, 10_000, 100_000, 1_000_000)
AT_ONCE = 1_000
LOOKS = 5


def trained(batch: int) -> None:
    """Print steps per second of a job and of `fit` at one batch size."""
    import keras

    from benchmarks.training import fit, ours
    from benchmarks.training_cases import ROWS, mlp
    from tapeworks.components.loading import load_installed

    load_installed()
    case = mlp(batch, 64, 64)
    with tempfile.TemporaryDirectory() as folder:
        case.write(Path(folder))
        (mine,) = ours(case.spec(), Path(folder)).values()
        keras.utils.clear_session()
        dataset, model = case.usual(Path(folder))
        (other,) = fit(model, dataset, batch, ROWS).values()
        print(json.dumps([statistics.median(way() for _ in range(3)) for way in (mine, other)]))


def send(lease: HandLease, count: int, first: int) -> float:
    """Seconds until so many points are stored."""
    assert lease.heartbeat().status_code == 200
    began = time.perf_counter()
    values = ({"record": "metric", "step": first + n, "values": {"loss": 1 / (1 + first + n)}} for n in range(count))
    answer = lease.records(*values)
    assert answer.status_code == 200, answer.text
    return time.perf_counter() - began


def stored(most: int) -> None:
    """The table of metric points."""
    print("\n| points of a job | storing 1000 more, ms | a page of 500 points, ms |\n|---|---|---|")
    with (
        tempfile.TemporaryDirectory() as name,
        service(Path(name), f"sqlite+aiosqlite:///{name}/tapeworks.db") as client,
    ):
        worker = HandWorker(client)
        worker.register()
        worker.submit(spec(export=None))
        lease, there = worker.lease(), 0
        for points in (one for one in POINTS if one <= most):
            taken = []
            while there < points:
                count = min(AT_ONCE, points - there)
                seconds = send(lease, count, there)
                there += count
                taken.append(1000 * seconds * AT_ONCE / count)
            looks = []
            for _ in range(LOOKS):
                began = time.perf_counter()
                answer = client.get(f"/v1/jobs/{lease.job_id}/metrics", params={"points": 500})
                assert answer.status_code == 200, answer.text
                looks.append(1000 * (time.perf_counter() - began))
            print(f"| {points:,} | {statistics.median(taken[-20:]):.0f} | {statistics.median(looks):.0f} |", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, help="train at that batch size in this process")
    parser.add_argument("--points", type=int, default=POINTS[-1], help="leave out what is more")
    given = parser.parse_args()
    if given.batch:
        trained(given.batch)
        return
    print("| batch | a job, steps/s | examples/s | `fit`, steps/s | ratio |\n|---|---|---|---|---|")
    for batch in BATCHES:
        command = [sys.executable, "-m", "benchmarks.scaling", "--batch", str(batch)]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        mine, other = json.loads(told.splitlines()[-1])
        print(f"| {batch} | {mine:.0f} | {mine * batch:.0f} | {other:.0f} | {mine / other:.1f} |", flush=True)
    stored(given.points)


if __name__ == "__main__":
    main()
