"""Every example on a server of its own, as a table: `make examples`, or `make examples ONLY=gan`.

Each spec is validated by tracing first, which gives a quote, then submitted over HTTP; its bundle is downloaded and
loaded in fresh processes where Tapeworks cannot be imported (reload.py). What goes on from other examples is validated
once those have ended. Prints row, example, seconds beside the quote's range, metric reached beside the stated one,
reload, trace count; ends with 0 only if all of it is right. A quote that did not hold is marked and counted, no more:
it is a judgement of the machine's load.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from examples.rows import Example, examples, traces, waves
from examples.serving import ROOT, options, served
from tapeworks import Client
from tapeworks.bundle import check, extract
from tapeworks.schemas.jobs import Job, State

FOLDER = ROOT / "build" / "examples"
JOB_SECONDS = 900
HEADER = "| row | example | seconds | quote | metric | reached | stated | reload equal | traces | |"


@dataclass(frozen=True)
class Ran:
    """What became of one example."""

    example: Example
    validation: Job
    job: Job
    traces: int
    bundle: Path | None

    @property
    def seconds(self) -> float:
        job = self.job
        return (job.finished_at - job.started_at).total_seconds() if job.finished_at and job.started_at else 0.0

    @property
    def quote(self) -> tuple[float, float] | None:
        """The range of seconds that was quoted; None where the data does not tell."""
        low, high = ((self.validation.result or {}).get("quote") or {}).get("seconds") or (None, None)
        return None if low is None or high is None else (low, high)

    @property
    def held(self) -> bool | None:
        """Whether it took what was quoted."""
        return None if self.quote is None else self.quote[0] <= self.seconds <= self.quote[1]

    def right(self, equal: bool) -> bool:
        """Whether all is as stated, with models that are `equal` after a reload."""
        trained = State.SUCCEEDED is self.job.state is self.validation.state
        reached = self.example.reached(self.job.metrics.get(self.example.metric))
        return trained and reached and (equal or self.job.model is None) and self.traces == self.example.traces


def main(only: str) -> int:
    """Run those whose row or file holds `only`, and what they go on from; the exit code."""
    chosen = [example for example in examples() if only in example.row or only in example.spec]
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    began = time.monotonic()
    known: dict[str, str] = {}
    with served(FOLDER, [*options(), "--cpu-slots", "2"]) as url, Client(url) as client:
        print(f"serving after {time.monotonic() - began:.0f} s", flush=True)
        ordered = waves(chosen)
        ran: list[Ran] = []
        for wave in ordered:
            lost = {one.example.spec for one in ran if one.job.state is not State.SUCCEEDED}
            ran += _run(client, [example for example in wave if not example.needs() & lost], known)
    loaded = _reload([one.bundle for one in ran if one.bundle is not None])
    order = {example.spec: index for index, example in enumerate(examples())}
    right = 0
    print(HEADER)
    print("|---|---|---|---|---|---|---|---|---|---|")
    for one in sorted(ran, key=lambda one: order[one.example.spec]):
        equal = one.bundle in loaded and bool(loaded[one.bundle]["ok"])
        right += one.right(equal)
        print("| " + " | ".join(_cells(one, equal)) + (" | ok |" if one.right(equal) else " | **WRONG** |"))
    every = sum(map(len, ordered))
    if len(ran) < every:
        print(f"{every - len(ran)} were not run: what they go on from failed")
    quoted = [one for one in ran if one.held is not None]
    print(
        f"{right} of {every} right, {sum(bool(one.held) for one in quoted)} of {len(quoted)} quotes held, "
        f"{time.monotonic() - began:.0f} s in all"
    )
    return 0 if right == every else 1


def _run(client: Client, wave: list[Example], known: dict[str, str]) -> list[Ran]:
    """Validate, then train examples that do not go on from each other; `known` grows by their ids."""
    asked = [client.validate(example.document(known), trace=True).id for example in wave]
    validations = [
        _ended(client, job_id, example, "its validation") for job_id, example in zip(asked, wave, strict=True)
    ]
    for example in wave:
        known[example.spec] = client.submit(example.document(known)).id
    ran = []
    for example, validation in zip(wave, validations, strict=True):
        job = _ended(client, known[example.spec], example, "its job")
        bundle = None if job.model is None else _bundle(client, job, example)
        ran.append(Ran(example, validation, job, traces(job, client), bundle))
    return ran


def _ended(client: Client, job_id: str, example: Example, what: str) -> Job:
    job = client.wait(job_id, JOB_SECONDS)
    if job.state is not State.SUCCEEDED:
        print(f"{example.spec}: {what} {job.state.value}: {job.failure}", flush=True)
    return job


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


def _cells(one: Ran, equal: bool) -> list[str]:
    example, value = one.example, one.job.metrics.get(one.example.metric)
    quote = "not told" if one.quote is None else "{:.1f} – {:.1f}".format(*one.quote) + (" ✗" if not one.held else "")
    told = "yes" if equal else "NO" if one.job.model is not None else "nothing exported"
    shown = "–" if value is None else f"{value:.4g}"
    cells = [example.row, example.spec, f"{one.seconds:.1f}", quote, example.metric, shown, example.stated, told]
    return [*cells, str(one.traces)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else ""))
