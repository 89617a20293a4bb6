"""Every example on a server of its own, as a table: `make examples`, or `make examples ONLY=gan`.

Each job is submitted over HTTP, its bundle downloaded and loaded in fresh processes where Tapeworks cannot be imported
(reload.py). Prints row, example, seconds, metric reached beside the stated one, reload, trace count; ends with 0 only
if all of it is right.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from examples.rows import Example, examples, submit, traces
from examples.serving import ROOT, options, served
from tapeworks import Client
from tapeworks.bundle import check, extract
from tapeworks.jobs import Job, State

FOLDER = ROOT / "build" / "examples"
JOB_SECONDS = 900


def main(only: str) -> int:
    """Run those whose row or file holds `only`; the exit code."""
    chosen = [example for example in examples() if only in example.row or only in example.spec]
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    began = time.monotonic()
    with served(FOLDER, [*options(), "--cpu-slots", "2"]) as url, Client(url) as client:
        print(f"{len(chosen)} examples; serving after {time.monotonic() - began:.0f} s", flush=True)
        known: dict[str, str] = {}
        for example in chosen:
            submit(client, example, known)
        jobs = {example: client.wait(known[example.spec], JOB_SECONDS) for example in chosen}
        counts = {example: traces(job, client) for example, job in jobs.items()}
        bundles = {example: _bundle(client, job, example) for example, job in jobs.items() if job.model is not None}
    loaded = _reload(list(bundles.values()))
    rows = [_row(example, jobs[example], counts[example], loaded.get(bundles.get(example))) for example in chosen]
    right = sum(row[-1] for row in rows)
    print("| row | example | seconds | metric | reached | stated | reload equal | traces | |")
    print("|---|---|---|---|---|---|---|---|---|")
    for *cells, ok in rows:
        print("| " + " | ".join(cells) + (" | ok |" if ok else " | **WRONG** |"))
    print(f"{right} of {len(rows)} right, {time.monotonic() - began:.0f} s in all")
    return 0 if right == len(rows) else 1


def _bundle(client: Client, job: Job, example: Example) -> Path:
    name = example.spec.removesuffix(".json").replace("/", "-")
    bundle = extract(client.download(job.id, FOLDER / f"{name}.tar.gz"), FOLDER / name)
    check(bundle)
    return bundle


def _reload(bundles: list[Path]) -> dict[Path | None, dict[str, object]]:
    """Bundle → what a fresh Python without Tapeworks found."""
    script = str(Path(__file__).with_name("reload.py"))
    command = [sys.executable, "-I", script, *map(str, bundles)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30 + 60 * len(bundles))
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    for answer in answers:
        if not answer["ok"]:
            print(f"{answer['bundle']} does not load:\n{answer['text']}")
    return {Path(answer["bundle"]): answer for answer in answers}


def _row(example: Example, job: Job, count: int, loaded: dict[str, object] | None) -> tuple[str | bool, ...]:
    seconds = (job.finished_at - job.started_at).total_seconds() if job.finished_at and job.started_at else 0.0
    value = job.metrics.get(example.metric)
    if job.state is not State.SUCCEEDED:
        print(f"{example.spec}: {job.state.value}: {job.failure}")
    equal = loaded is not None and bool(loaded["ok"])
    told = "yes" if equal else "NO" if job.model is not None else "nothing exported"
    ok = job.state is State.SUCCEEDED and example.reached(value) and (equal or job.model is None) and count == 1
    shown = "–" if value is None else f"{value:.4g}"
    return (
        example.row, example.spec, f"{seconds:.1f}", example.metric, shown, example.stated, told, str(count), ok
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else ""))
