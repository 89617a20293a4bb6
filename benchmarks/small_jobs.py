"""A hundred small jobs through one machine: .venv/bin/python -m benchmarks.small_jobs [--jobs 100 --scripts 20]

The digits for five epochs, exported and proved to load again, as jobs that ask for one core each, all submitted at
once to a warm worker; beside `train_py.py`, which trains, saves and exports the same, one run after another. Scripts
take the same time each, so fewer of them are run: some before the jobs and some after. Prints jobs per minute of both,
and the ratio; with the script's reload in a fresh process too, which is what a job's verification stands for.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.start import SPEC, of_script
from examples.serving import served
from tapeworks import Client
from tapeworks.schemas.jobs import State

ONE_CORE = {**SPEC, "resources": {"cpus": 1}}


def through(client: Client, jobs: int) -> float:
    """Seconds from the first POST to the last published model."""
    began = time.monotonic()
    submitted = [client.submit(ONE_CORE).id for _ in range(jobs)]
    ended = [client.wait(one) for one in submitted]
    assert all(job.state is State.SUCCEEDED and job.model is not None for job in ended)
    return time.monotonic() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--scripts", type=int, default=20)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as url, Client(url) as client:
        through(client, 2)  # the worker is warm
        scripts = [of_script() for _ in range(given.scripts // 2)]
        seconds = through(client, given.jobs)
        scripts += [of_script() for _ in range(given.scripts - given.scripts // 2)]
    rate = 60 * given.jobs / seconds
    print(f"{given.jobs} jobs in {seconds:.1f} s: {rate:.1f} a minute\n")
    print("| `python train.py`, one after another | s each | a minute | ratio | wanted |\n|---|---|---|---|---|")
    for what, name, wanted in (("train, save, export", "exported", "5"), ("and reload", "verified", "")):
        each = statistics.mean(script[name] for script in scripts)
        print(f"| {what} | {each:.2f} | {60 / each:.1f} | {rate * each / 60:.1f} | {wanted} |")


if __name__ == "__main__":
    main()
