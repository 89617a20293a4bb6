"""How fast a job trains beside `model.fit` and the best loop by hand: .venv/bin/python -m benchmarks.training

Each model is trained in a process of its own, in turns: by Tapeworks' runner parts (plan `auto`, reports and progress
as in a job), by `model.fit` at its defaults on the usual `shuffle(n).batch(b).prefetch(AUTOTUNE)`, and, where the model
has one input and one loss, by two loops written by hand for it: one graph over the dataset, and one XLA program over
gathered batches, of which the faster counts. Each is warmed up first; what is told is steps per second, medians of the
turns, which go there and back, with the spread of the ratio. Prints a table and the geometric mean.
--only mlp: cases whose name has that.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECONDS = 2.0
SETTLED_SECONDS = 45.0
"""A calibration may take so long."""


def ours(spec: dict[str, Any], folder: Path) -> Callable[[], float]:
    """Train as a job does until the plan is settled; then each call goes on for a while and gives its steps/s."""
    from tapeworks.canonical import parse_spec
    from tapeworks_workers.engine.assembly import assemble
    from tapeworks_workers.engine.attempt import compile_parts, datasets
    from tapeworks_workers.engine.building import set_data_roots
    from tapeworks_workers.engine.control import Control, Interrupted
    from tapeworks_workers.engine.pipeline import build_data
    from tapeworks_workers.engine.reporting import Reporter

    set_data_roots([folder])
    control, told, until = Control(), dict[str, Any](), math.inf

    def send(frame: dict[str, Any]) -> None:
        told.update(frame.get("record", {}).get("diagnostics", {}))
        if time.monotonic() >= until:
            control.on_message({"type": "command", "command": "pause"})

    parsed = parse_spec(spec)
    data = build_data(parsed)
    assembly = assemble(parsed, data.element_spec, datasets=datasets(data))
    training, _ = compile_parts(assembly, data, reporter=Reporter(send), control=control, folder=folder)

    def measure(seconds: float) -> float:
        nonlocal until
        while control.take() is not None:  # each frame after the time was over asked for a pause
            pass
        began, first = time.monotonic(), training.counters.step
        until = began + seconds
        try:
            training.train()
        except Interrupted:
            return (training.counters.step - first) / (time.monotonic() - began)
        raise AssertionError("it ended by itself")

    warm = time.monotonic() + SETTLED_SECONDS
    while (training.counters.plan == "auto" and time.monotonic() < warm) or training.counters.step == 0:
        measure(1.0)
    print(json.dumps({"plan": training.counters.plan, "told": told}), file=sys.stderr)
    return lambda: measure(SECONDS)


def fit(model: Any, dataset: Any, batch: int, rows: int) -> Callable[[], float]:
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

    return measure


def measured(name: str, turns: int) -> dict[str, Any]:
    """Of one case, in this process: the median of each way's turns, and the ratios of each turn."""
    import keras

    from benchmarks import by_hand
    from benchmarks.training_cases import CASES, ROWS
    from tapeworks.loading import load_installed

    load_installed()
    case = next(one for one in CASES if one.name == name)
    with tempfile.TemporaryDirectory() as folder:
        case.write(Path(folder))
        ways = {"ours": ours(case.spec(), Path(folder))}
        keras.utils.clear_session()
        dataset, model = case.usual(Path(folder))
        ways["fit"] = fit(model, dataset, case.batch, ROWS)
        if case.job is None and case.batching == "batch" and "sparse" not in name:
            _, fresh = case.usual(Path(folder))
            ways |= by_hand.ways(fresh, dataset, case.batch, ROWS, SECONDS)
        taken = []
        for turn in range(turns):  # there and back: a processor that grows hot is slower to whoever comes last
            order = list(ways) if turn % 2 == 0 else list(reversed(ways))
            taken.append({way: ways[way]() for way in order})
    medians = {way: statistics.median(turn[way] for turn in taken) for way in ways}
    ratios = sorted(turn["ours"] / turn["fit"] for turn in taken)
    hand = max((medians[way] for way in ways if way not in ("ours", "fit")), default=None)
    return {"name": name, "batch": case.batch, **medians, "hand": hand, "ratios": ratios}


def main() -> None:
    """Print the table; `--case NAME` measures one in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case")
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--only", default="", help="cases whose name has this")
    given = parser.parse_args()
    if given.case:
        print(json.dumps(measured(given.case, given.turns)))
        return
    from benchmarks.training_cases import CASES

    columns = f"{'fit':>9}{'by hand':>9}{'Tapeworks':>11}{'plan':>7}{'× fit':>8}{'spread':>13}{'× hand':>8}"
    print(f"{'model':36}{'batch':>6}{columns}")
    ratios = []
    for case in (one for one in CASES if given.only.lower() in one.name.lower()):
        command = [sys.executable, "-m", "benchmarks.training", "--case", case.name, "--turns", str(given.turns)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{case.name}: failed\n{done.stderr[-3000:]}", flush=True)
            continue
        result = json.loads(done.stdout.splitlines()[-1])
        plan = next(json.loads(line)["plan"] for line in done.stderr.splitlines() if line.startswith('{"plan"'))
        ratio, hand = result["ours"] / result["fit"], result["hand"]
        ratios.append(ratio)
        spread = f"{result['ratios'][0]:.1f}–{result['ratios'][-1]:.1f}"
        by_hand = f"{hand:9.0f}" if hand else f"{'–':>9}"
        beside = f"{result['ours'] / hand:8.2f}" if hand else f"{'–':>8}"
        print(
            f"{result['name']:36}{result['batch']:6}{result['fit']:9.0f}{by_hand}{result['ours']:11.0f}{plan:>7}{ratio:8.1f}"
            f"{spread:>13}{beside}",
            flush=True,
        )
    if len(ratios) > 1:
        print(f"geometric mean × fit: {statistics.geometric_mean(ratios):.2f}; least {min(ratios):.2f}")


if __name__ == "__main__":
    main()
