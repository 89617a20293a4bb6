"""The HTTP fuzzer's command line."""

from __future__ import annotations

import argparse
import sys

from qualification.http.attack import Report, attack

MOST_LATE_SECONDS = 0.1
MOST_GROWTH = 64 << 20


def main() -> int:
    """Print what came of it; 1 where a request was answered with 5xx, the loop stood still or memory grew."""
    parser = argparse.ArgumentParser(prog="python -m qualification.http", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    options = parser.parse_args()
    report = attack(options.seconds, seed=options.seed, database=options.database, threads=options.threads)
    for line in report.wrong[:20]:
        print(f"! {line}")
    print(_table(report))
    late = report.late(0.99, own=True) > MOST_LATE_SECONDS
    return int(bool(report.wrong) or late or report.growth > MOST_GROWTH)


def _table(report: Report) -> str:
    answers = sum(report.statuses.values())
    listed = ", ".join(f"{count} × {status}" for status, count in sorted(report.statuses.items()))
    delays = sorted(report.delays) or [0.0]
    rows = {
        "answers": f"{answers} in {report.seconds:.0f} s: {listed}",
        "5xx, no answer, lost": str(len(report.wrong)),
        "loop lateness": f"p50 ≤ {report.late(0.5) * 1000:g} ms, p99 ≤ {report.late(0.99) * 1000:g} ms",
        "of that by the service's own work": f"p50 ≤ {report.late(0.5, own=True) * 1000:g} ms, "
        f"p99 ≤ {report.late(0.99, own=True) * 1000:g} ms",
        "the other project's calls": f"p50 {delays[len(delays) // 2] * 1000:.0f} ms, "
        f"p99 {delays[int(len(delays) * 0.99)] * 1000:.0f} ms, worst {delays[-1] * 1000:.0f} ms of {len(delays)}",
        "memory": f"{report.memory[0] >> 20} MiB at first, {max(report.memory) >> 20} MiB at most, "
        f"{report.growth >> 20} MiB from the middle third to the last",
    }
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows.items())


if __name__ == "__main__":
    sys.exit(main())
