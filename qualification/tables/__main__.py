"""The differential test's command line."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")


def main() -> int:
    """Print every table that is read otherwise than by the libraries; 1 where there is one."""
    parser = argparse.ArgumentParser(prog="python -m qualification.tables", description=__doc__)
    parser.add_argument("--count", type=int, default=300, help="tables, with the seeds SEED · 100000 + 0, 1, …")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="one table, by the seed that was printed")
    options = parser.parse_args()

    from qualification.tables.comparison import differences
    from qualification.tables.setups import setup
    from tapeworks.components.loading import load_installed

    load_installed()
    first = options.seed * 100_000
    seeds = [options.only] if options.only is not None else range(first, first + options.count)
    began, different = time.monotonic(), 0
    for seed in seeds:
        one = setup(seed)
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = differences(one, Path(folder).resolve())
            except Exception as error:  # a table that cannot be read is one more difference, and the run continues
                found = [f"{type(error).__name__}: {error}"]
        if found or options.only is not None:
            different += bool(found)
            print("\n".join([f"{seed}", *one.lines(), *(f"  ! {line}"[:500] for line in found)]), flush=True)
    print(f"{len(seeds)} tables in {time.monotonic() - began:.0f} s: {different} different")
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
