"""How fast a job trains beside `model.fit` and the best loop by hand: .venv/bin/python -m benchmarks.training

Each model is trained in turns, each way in a process of its own: by Tapeworks' runner parts (plan `auto`, reports and
progress as in a job, the environment of a worker's runners), by `model.fit` at its defaults on the usual
`shuffle(n).batch(b).prefetch(AUTOTUNE)`, and, where the model has one input and one loss, by two loops written by hand
for it, in the environment of a runner too: one graph over the dataset, and one XLA program over gathered batches, of
which the faster counts. Each is warmed up first; what is told is steps per second, medians of the turns, which go there
and back, with the spread of the ratio. Prints a table and the geometric mean.
--only mlp: cases whose name has that.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tapeworks_workers.processes.children import clean_environment

SECONDS = 2.0
SETTLED_SECONDS = 45.0
"""A calibration may take so long."""


Ways = dict[str, Callable[[], float]]
"""Name → what trains for a while and gives its steps per second."""


def ours(spec: dict[str, Any], folder: Path) -> Ways:
    """As a job trains, once its plan is settled: that is the name."""
    from tapeworks.spec.parsing import parse_spec
    from tapeworks_workers.engine.data.pipeline import build_data
    from tapeworks_workers.engine.factory.data_files import DataFiles
    from tapeworks_workers.engine.reporting import Reporter
    from tapeworks_workers.engine.step.assembly import assemble
    from tapeworks_workers.engine.training.control import Control, Interrupted
    from tapeworks_workers.engine.training.setup import datasets, trace_functions

    files = DataFiles([folder])
    control, until = Control(), math.inf
    ended: list[tuple[float, int]] = []

    def send(frame: dict[str, Any]) -> None:
        if time.monotonic() >= until:
            ended.append((time.monotonic(), training.counters.step))
            control.on_message({"type": "command", "command": "pause"})

    parsed = parse_spec(spec)
    data = build_data(parsed, files)
    assembly = assemble(parsed, data.element_spec, datasets=datasets(data), files=files)
    training, _ = trace_functions(assembly, data, reporter=Reporter(send), control=control, folder=folder)

    def measure(seconds: float) -> float:
        nonlocal until
        while control.take() is not None:  # each frame after the time was over asked for a pause
            pass
        ended.clear()
        began, first = time.monotonic(), training.counters.step
        until = began + seconds
        try:
            training.train()
        except Interrupted:
            at, step = ended[0]  # not later: a pause writes a checkpoint
            return (step - first) / (at - began)
        raise AssertionError("it ended by itself")

    warm = time.monotonic() + SETTLED_SECONDS
    while (training.counters.plan == "auto" and time.monotonic() < warm) or training.counters.step == 0:
        measure(1.0)
    measure(1.0)
    return {str(training.counters.plan): lambda: measure(SECONDS)}


def fit(model: Any, dataset: Any, batch: int, rows: int) -> Ways:
    """`model.fit` over whole passes."""
    import tensorflow as tf

    ready = dataset.shuffle(rows).batch(batch).prefetch(tf.data.AUTOTUNE)
    steps = math.ceil(rows / batch)
    model.fit(ready, epochs=1, verbose=0)

    def measure() -> float:
        began, done = time.monotonic(), 0
        while time.monotonic() - began < SECONDS:
            model.fit(ready, epochs=1, verbose=0)
            done += steps
        return done / (time.monotonic() - began)

    return {"fit": measure}


def one_way(name: str, way: str) -> None:
    """Of one case: get ready, then train for a while at each line that comes, and print the steps per second of it."""
    import keras

    from benchmarks import by_hand
    from benchmarks.training_cases import CASES, ROWS
    from tapeworks.components.loading import load_installed

    load_installed()
    case = next(one for one in CASES if one.name == name)
    with tempfile.TemporaryDirectory() as folder:
        case.write(Path(folder))
        if way == "ours":
            ways = ours(case.spec(), Path(folder))
        else:
            keras.utils.clear_session()
            dataset, model = case.usual(Path(folder))
            made = fit(model, dataset, case.batch, ROWS) if way == "fit" else None
            ways = made or by_hand.ways(model, dataset, case.batch, ROWS, SECONDS)
        print("ready", flush=True)
        for _ in sys.stdin:
            print(json.dumps({one: measure() for one, measure in ways.items()}), flush=True)


@contextmanager
def prepared(case: str, way: str, environment: Mapping[str, str]) -> Iterator[Callable[[], dict[str, float]]]:
    """A process that is ready to train one way; each call has it train for a while. Raises OSError where it failed."""
    command = [sys.executable, "-m", "benchmarks.training", "--case", case, "--way", way]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):

        def answer() -> str:
            line = process.stdout.readline() if process.stdout else ""
            if not line:
                errors.seek(0)
                raise OSError(f"{way} of {case}: {errors.read()[-3000:]}")
            return line

        def measure() -> dict[str, float]:
            print(file=process.stdin, flush=True)
            return dict(json.loads(answer()))

        answer()
        yield measure
        if process.stdin:
            process.stdin.close()


def measured(case: Any, turns: int) -> dict[str, Any]:
    """Of one case: the plan, the medians of each way's turns, and the ratios of each turn."""
    ways = {"ours": clean_environment(), "fit": dict(os.environ)}
    if case.job is None and case.batching == "batch" and "sparse" not in case.name:
        ways["hand"] = clean_environment()
    taken: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    with ExitStack() as stack:
        processes = [(way, stack.enter_context(prepared(case.name, way, ways[way]))) for way in ways]
        for turn in range(turns):  # there and back: a processor that grows hot is slower to whoever comes last
            for way, measure in processes if turn % 2 == 0 else reversed(processes):
                taken[way].append(measure())
    rates = {way: {one: [turn[one] for turn in turns] for one in turns[0]} for way, turns in taken.items()}
    ((plan, mine),), ((_, fits),) = rates["ours"].items(), rates["fit"].items()
    by_hand = [statistics.median(turns) for turns in rates.get("hand", {}).values()]
    return {
        "plan": plan,
        "ours": statistics.median(mine),
        "fit": statistics.median(fits),
        "hand": max(by_hand, default=None),
        "ratios": sorted(one / other for one, other in zip(mine, fits, strict=True)),
    }


def main() -> None:
    """Print the table; `--case NAME --way WAY` is one way of one case, in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case")
    parser.add_argument("--way")
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--only", default="", help="cases whose name has this")
    given = parser.parse_args()
    if given.case:
        one_way(given.case, given.way)
        return
    from benchmarks.training_cases import CASES

    columns = f"{'fit':>9}{'by hand':>9}{'Tapeworks':>11}{'plan':>7}{'× fit':>8}{'spread':>13}{'× hand':>8}"
    print(f"{'model':36}{'batch':>6}{columns}")
    ratios = []
    for case in (one for one in CASES if given.only.lower() in one.name.lower()):
        try:
            result = measured(case, given.turns)
        except OSError as error:
            print(f"{case.name}: failed\n{error}", flush=True)
            continue
        ratio, hand = result["ours"] / result["fit"], result["hand"]
        ratios.append(ratio)
        spread = f"{result['ratios'][0]:.1f}–{result['ratios'][-1]:.1f}"
        by_hand = f"{hand:9.0f}" if hand else f"{'–':>9}"
        beside = f"{result['ours'] / hand:8.2f}" if hand else f"{'–':>8}"
        print(
            f"{case.name:36}{case.batch:6}{result['fit']:9.0f}{by_hand}{result['ours']:11.0f}{result['plan']:>7}"
            f"{ratio:8.1f}{spread:>13}{beside}",
            flush=True,
        )
    if len(ratios) > 1:
        print(f"geometric mean × fit: {statistics.geometric_mean(ratios):.2f}; least {min(ratios):.2f}")


if __name__ == "__main__":
    main()
