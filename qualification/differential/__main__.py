"""The fuzzer's command line."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")


CHUNK = 50
"""Set-ups of one process: TensorFlow keeps some 30 MiB of each."""
_TO_BE_FIXED = ("different", "broken", "refused")


def main() -> int:
    """Print every set-up that is not equal, then how many there were of each kind; 1 where something is to be fixed."""
    parser = argparse.ArgumentParser(prog="python -m qualification.differential", description=__doc__)
    parser.add_argument("--count", type=int, default=500, help="set-ups, with the seeds SEED · 100000 + FIRST, …")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", type=int, help="one set-up, by the seed that was printed")
    parser.add_argument("--log", type=Path, help="a file that every line is appended to")
    options = parser.parse_args()
    began = time.monotonic()
    if options.only is not None or options.count <= CHUNK:
        counts = _run(options)
    else:
        counts = _in_processes(options)
    summary = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()) if count)
    _print([f"{sum(counts.values())} set-ups in {time.monotonic() - began:.0f} s: {summary}"], options.log)
    return int(any(counts[verdict] for verdict in _TO_BE_FIXED))


def _in_processes(options: argparse.Namespace) -> Counter[str]:
    """The verdicts of all set-ups, each chunk in a process of its own."""
    counts: Counter[str] = Counter()
    for first in range(options.first, options.first + options.count, CHUNK):
        size = min(CHUNK, options.first + options.count - first)
        command = [sys.executable, "-m", "qualification.differential", "--seed", str(options.seed)]
        command += ["--first", str(first), "--count", str(size)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            found = 0
            for line in process.stdout:
                verdict = re.match(r"\d+ (equal|rightly refused|unfit|different|broken|refused)$", line.strip())
                if verdict is not None:
                    counts[verdict[1]] += 1
                    found += 1
                if " set-ups in " not in line:
                    _print([line.rstrip("\n")], options.log)
        counts["broken"] += size - found  # where the process ended before it had tried them all
    return counts


def _run(options: argparse.Namespace) -> Counter[str]:
    """The verdicts of the set-ups, in this process."""
    from qualification.differential.comparison import Verdict, outcome
    from qualification.differential.registered import register
    from qualification.differential.setups import setup

    register()
    first = options.seed * 100_000 + options.first
    counts: Counter[str] = Counter()
    for seed in [options.only] if options.only is not None else range(first, first + options.count):
        one = setup(seed)
        found = outcome(one)
        counts[found.verdict] += 1
        lines = [f"{seed} {found.verdict}"]
        if found.verdict not in (Verdict.EQUAL, Verdict.RIGHTLY_REFUSED) or options.only is not None:
            lines += [*one.lines(), *(f"  ! {line}" for line in found.details)]
        _print(lines, options.log)
    return counts


def _print(lines: list[str], log: Path | None) -> None:
    text = "\n".join(lines) + "\n"
    sys.stdout.write(text)
    sys.stdout.flush()
    if log is not None:
        with log.open("a") as file:
            file.write(text)


if __name__ == "__main__":
    sys.exit(main())
