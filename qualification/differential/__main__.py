"""The fuzzer's command line."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")


def main() -> int:
    """Print every set-up that is not equal, then how many there were of each kind; 1 where something is to be fixed."""
    parser = argparse.ArgumentParser(prog="python -m qualification.differential", description=__doc__)
    parser.add_argument("--count", type=int, default=500, help="set-ups, with the seeds SEED · 100000 + 0, 1, …")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="one set-up, by the seed that was printed")
    parser.add_argument("--log", type=Path, help="a file that every line is appended to")
    options = parser.parse_args()

    from qualification.differential.comparison import Verdict, outcome
    from qualification.differential.registered import register
    from qualification.differential.setups import setup

    register()
    first = options.seed * 100_000
    seeds = [options.only] if options.only is not None else range(first, first + options.count)
    counts: Counter[str] = Counter()
    began = time.monotonic()
    for seed in seeds:
        one = setup(seed)
        found = outcome(one)
        counts[found.verdict] += 1
        lines = [f"{seed} {found.verdict}"]
        if found.verdict not in (Verdict.EQUAL, Verdict.RIGHTLY_REFUSED) or options.only is not None:
            lines += [*one.lines(), *(f"  ! {line}" for line in found.details)]
        _print(lines, options.log)
    summary = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
    _print([f"{sum(counts.values())} set-ups in {time.monotonic() - began:.0f} s: {summary}"], options.log)
    return int(any(counts[verdict] for verdict in (Verdict.DIFFERENT, Verdict.BROKEN, Verdict.REFUSED)))


def _print(lines: list[str], log: Path | None) -> None:
    text = "\n".join(lines) + "\n"
    sys.stdout.write(text)
    sys.stdout.flush()
    if log is not None:
        with log.open("a") as file:
            file.write(text)


if __name__ == "__main__":
    sys.exit(main())
