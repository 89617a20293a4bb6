"""`python -m tapeworks_workers.health [WORK_DIR]`: whether the agent of a work folder answers; for health checks.

Ends with 0 where its event loop has run within the last 30 s, else with 1 and a line that says why. WORK_DIR defaults
to TAPEWORKS_WORKER_WORK_DIR. It asks neither the service nor the agent and imports little: it may run often.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path

FILE = "worker.beat"
"""In the work folder; written by `beats.py`."""
LONGEST_SILENCE = 30.0


def main(arguments: list[str]) -> int:
    """The command; its exit code."""
    folder = Path(arguments[0] if arguments else os.environ.get("TAPEWORKS_WORKER_WORK_DIR", "tapeworks-work"))
    seconds = age(folder)
    if seconds is None:
        sys.stderr.write(f"no worker has run in {folder} since this machine started\n")
        return 1
    if seconds > LONGEST_SILENCE:
        sys.stderr.write(f"the worker in {folder} has not responded for {seconds:.0f} s: restart it\n")
        return 1
    return 0


def age(folder: Path) -> float | None:
    """Seconds since the last sign of life in a work folder; None where there is none since the machine started."""
    with suppress(OSError, ValueError):
        seconds = time.monotonic() - float((folder / FILE).read_text())
        return seconds if seconds >= 0 else None
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
