"""Every example through every plan that can hold it: `make plans`, or `make plans ONLY=gan`.

Each spec is trained for a few steps by `steps`, `loop` and `fused` with the same seed, and tells every step's running
losses and metrics. Plans draw the same batches and random numbers; XLA rounds differently, and training takes a
difference further, so `fused` is compared over the first steps and with more room. Prints the largest difference to
`loop`, relative to the value, or why a plan is not for the example; ends with 0 only if all are within bounds.
"""

from __future__ import annotations

import shutil
import sys
import time
from typing import Any

from examples.rows import Example, examples, submit
from examples.serving import ROOT, options, served
from tapeworks import Client
from tapeworks.schemas.jobs import Job, State

FOLDER = ROOT / "build" / "plans"
STEPS = 12
BOUNDS = {"steps": (STEPS, 1e-4), "fused": (4, 2e-2)}
"""Of each plan beside `loop`: how many steps are compared, and the largest difference."""
FLOOR = 1e-3
"""Values smaller than this are compared as if they were this large."""
REFUSED = ("not_supported",)

Series = dict[str, dict[int, float]]


def shortened(document: dict[str, Any], plan: str) -> dict[str, Any]:
    """A few steps of a spec, each told."""
    training = {
        name: value
        for name, value in document.get("training", {}).items()
        if name not in ("epochs", "early_stopping", "best")
    }
    if (training.get("initial_state") or {}).get("restore") == "all":
        del training["initial_state"]  # its steps are counted from the start of the earlier job
    short = {"max_steps": STEPS, "report_every_steps": 1, "checkpoint": None, "execution": {"plan": plan}}
    # Elsewhere a parallel map may give its elements in any order, and two runs of one plan differ.
    short |= {"deterministic": True, "seed": 1}
    without = {name: value for name, value in document.items() if name not in ("evaluators", "callbacks")}
    resources = {**document.get("resources", {}), "cpus": 1}
    without["data"] = {**document["data"], "validation": None, "test": None}  # some are there for evaluators alone
    return {**without, "training": {**training, **short}, "export": None, "resources": resources}


def series(client: Client, job: Job) -> Series:
    """What was told of the training split, by name and step."""
    told = client.metrics(job.id)
    return {
        name: {step: float(value) for step, value, _ in one.points}
        for name, one in told.items()
        if not name.startswith(("val_", "test_"))
    }


def difference(one: Series, other: Series, steps: int) -> float:
    """The largest relative difference within so many steps; infinite where the two told of other things."""
    if one.keys() != other.keys():
        return float("inf")
    largest = 0.0
    for name, points in one.items():
        if points.keys() != other[name].keys():
            return float("inf")
        for step in (step for step in points if step <= steps):
            apart = abs(points[step] - other[name][step])
            largest = max(largest, apart / max(abs(other[name][step]), FLOOR))
    return largest


def main(only: str) -> int:
    """Run them, print the table; the exit code."""
    chosen = [one for one in examples() if only in one.row or only in one.spec]
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    began, right = time.monotonic(), 0
    print("| example | steps | fused | |\n|---|---|---|---|")
    with served(FOLDER, options()) as url, Client(url) as client:
        known: dict[str, str] = {}
        for example in chosen:
            for needed in sorted(example.needs()):
                by_spec = {one.spec: one for one in examples()}
                if (job := client.wait(submit(client, by_spec[needed], known))).state is not State.SUCCEEDED:
                    print(f"{needed}, which {example.spec} goes on from: {told(job)}", flush=True)
            cells, well = compared(client, example, known)
            right += well
            print(f"| {example.spec} | " + " | ".join(cells) + f" | {'ok' if well else '**WRONG**'} |", flush=True)
    print(f"{right} of {len(chosen)} alike, {time.monotonic() - began:.0f} s in all")
    return 0 if right == len(chosen) else 1


def compared(client: Client, example: Example, known: dict[str, str]) -> tuple[list[str], bool]:
    """The cells of one example, and whether all plans agree."""
    document = example.document(known)
    if (document.get("training", {}).get("execution") or {}).get("plan") == "eager":
        return ["eager", "eager"], True
    ids = {plan: client.submit(shortened(document, plan)).id for plan in ("loop", *BOUNDS)}
    jobs = {plan: client.wait(job) for plan, job in ids.items()}
    if jobs["loop"].state is not State.SUCCEEDED:
        return [told(jobs["loop"]), ""], False
    by_loop, cells, well = series(client, jobs["loop"]), [], bool(client.metrics(ids["loop"]))
    for plan, (steps, bound) in BOUNDS.items():
        job = jobs[plan]
        if job.state is State.SUCCEEDED:
            apart = difference(series(client, job), by_loop, steps)
            cells.append(f"{apart:.1e}")
            well = well and apart <= bound
        else:
            cells.append(told(job))
            well = well and plan == "fused" and job.failure is not None and job.failure.code.value in REFUSED
    return cells, well


def told(job: Job) -> str:
    """Why a job failed."""
    message = job.failure.message if job.failure is not None else job.state.value
    return message.removeprefix("training.execution.plan 'fused' cannot run this job: ")[:90].replace("|", "/")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else ""))
