"""The fault table for real, on both databases: `make faults`, or `make faults ROWS=runner,agent DATABASE=sqlite`.

Each row is told as soon as it is known, then the whole table, then what was left running. Ends with 0 only if every
row holds and nothing is left.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
import traceback

from qualification.faults.outcome import Outcome, header, line
from qualification.faults.table import BOTH, ROWS, Row
from qualification.faults.worlds import Leases, Worlds, worlds
from tests.support.paths import ROOT

FOLDER = ROOT / "build" / "faults"


def tried(row: Row, made: Worlds) -> Outcome:
    """A row's outcome; one that could not be run to its end is a problem of its own."""
    try:
        return row.run(made.get(row.world), row.full)
    except Exception as error:
        traceback.print_exc()
        return Outcome(row.name, row.full, problems=[f"{type(error).__name__}: {error}"])


def main(rows: str, database: str) -> int:
    """Run the rows and print; the exit code."""
    chosen = [row for row in ROWS if row.full and (not rows or row.name in rows.split(","))]
    lines, left, wrong = [], [], 0
    began = time.monotonic()
    for name in (database,) if database else BOTH:
        shutil.rmtree(FOLDER / name, ignore_errors=True)
        with worlds(FOLDER / name, name, Leases(), left) as made:
            for row in [row for row in chosen if name in row.databases]:
                at = time.monotonic()
                outcome = tried(row, made)
                wrong += bool(outcome.wrong)
                lines.append(line(outcome.cells(name)))
                print(lines[-1], f"({time.monotonic() - at:.0f} s)", flush=True)
    print("\n" + "\n".join([header(), *lines]))
    print(f"\n{len(lines) - wrong} of {len(lines)} rows hold, {time.monotonic() - began:.0f} s in all")
    print(f"hung processes: {len(left)}" + "".join(f"\n  {one}" for one in left))
    return 1 if wrong or left else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m qualification.faults")
    parser.add_argument("--rows", default="", help="names, with commas between them")
    parser.add_argument("--database", default="", choices=("", *BOTH))
    options = parser.parse_args()
    sys.exit(main(options.rows, options.database))
