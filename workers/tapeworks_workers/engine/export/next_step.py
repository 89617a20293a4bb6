"""One more training step, as evidence: taken in training memory, and again by verifier B from the bundle alone.

`write_next_step` in the runner, `retake_next_step` in verifier B, `compare_next_step` in a process without the bundle's
code.

`training_state/` of a bundle holds every value of the job (checkpoint.py's format), one batch, and what the step on
that batch gave: its logs, and each value's digest and elements. A large job's elements are sampled at even strides, the
digests cover all of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tapeworks.errors import FailureCode, JobFailure
from tapeworks_workers.engine.checkpoints.snapshot import OTHER_VARIABLES, Snapshot, StoredStateError, write_values
from tapeworks_workers.engine.comparison import digest
from tapeworks_workers.engine.export.bundled.load import nest
from tapeworks_workers.engine.export.packaging import write_json
from tapeworks_workers.engine.export.tensor_json import Arrays, stored_leaves
from tapeworks_workers.engine.observation import digest_rows, read_archive
from tapeworks_workers.engine.runtime import as_traced, has_gpu
from tapeworks_workers.engine.step.assembly import Assembly
from tapeworks_workers.engine.step.compiled_step import CompiledStep, compile_train_step
from tapeworks_workers.engine.step.state import restore, snapshot

FOLDER = "training_state"
STEP, SAMPLES = "next_step.json", "next_step.npz"
TOLERANCE = {"cpu": 1e-6, "gpu": 1e-3}
"""Relative to each value's largest element. A CPU adds in another order when its threads are placed otherwise; a GPU's
atomic additions and its choice of kernels differ from run to run."""
_SAMPLED_BYTES = 32 << 20


def write_next_step(assembly: Assembly, step: CompiledStep, counters: dict[str, Any], batch: Any, folder: Path) -> None:
    """Store the state, take one step of the training on the batch, store what it gave, and put the state back."""
    before = snapshot(assembly, counters)
    write_values(before, folder)
    arrays = Arrays()
    structure = arrays.add(batch)
    arrays.write(folder / "batch.npz")
    try:
        logs = _taken(step, nest(structure, _read(folder / "batch.npz")))
        after = snapshot(assembly, counters)
    finally:
        with verified("the exported job"):
            restore(assembly, before)
    total = sum(value.nbytes for value in after.values.values())
    every = max(1, -(-total // _SAMPLED_BYTES))
    samples, values = Arrays(), {}
    for name, value in after.values.items():
        values[name] = {
            "digest": digest(value),
            "shape": list(value.shape),
            "elements": samples.add(value.ravel()[::every]),
        }
    samples.write(folder / SAMPLES)
    write_json(folder / STEP, {"batch": structure, "logs": logs, "values": values, "every": every})


def stored_batch(folder: Path) -> Any:
    """The batch of the stored step, as tensors."""
    structure = json.loads((folder / STEP).read_text(encoding="utf-8"))["batch"]
    return nest(structure, _read(folder / "batch.npz"))


def _taken(step: CompiledStep, batch: Any) -> dict[str, float]:
    """What the step gave. Both sides take it the same way, and once."""
    with as_traced():
        scalars = step(batch)
    return {name: float(np.asarray(value)) for name, value in scalars.items()}


def retake_next_step(assembly: Assembly, state: Snapshot, folder: Path, arrays: Arrays) -> dict[str, Any]:
    """Restore the stored state and take the step again: what it gave, for `compare_next_step` in another process."""
    every = json.loads((folder / STEP).read_text(encoding="utf-8"))["every"]
    step = compile_train_step(assembly, eager=assembly.spec.training.execution.plan == "eager")
    restore(assembly, state)
    logs = _taken(step, stored_batch(folder))
    after = snapshot(assembly, {}).values
    return {
        "logs": logs,
        "names": list(after),
        "digests": arrays.add(digest_rows([digest(value) for value in after.values()])),
        "elements": [arrays.add(value.ravel()[::every]) for value in after.values()],
    }


def compare_next_step(
    folder: Path, taken: Mapping[str, Any], arrays: Mapping[str, np.ndarray], *, tolerance: float
) -> tuple[dict[str, Any], str | None]:
    """Compare what the step gave again with what is stored: how close it came, and the first value that is off."""
    stored = json.loads((folder / STEP).read_text(encoding="utf-8"))
    samples = read_archive(folder / SAMPLES)
    logs = {str(name): float(value) for name, value in taken["logs"].items()}
    expected_logs = {name: float(value) for name, value in stored["logs"].items()}  # "NaN" is a string in JSON
    off = _first_log_off(expected_logs, logs, tolerance)
    found = dict(zip(taken["names"], taken["elements"], strict=True))
    digests = {name: row.tobytes() for name, row in zip(found, arrays[taken["digests"]["array"]], strict=True)}
    largest, equal, missing = 0.0, True, sorted(stored["values"].keys() ^ found.keys())
    if missing:
        off = off or f"{missing[0]} exists on one side only"
    for name, entry in stored["values"].items():
        if name not in found:
            continue
        equal = equal and digests[name] == bytes.fromhex(entry["digest"])
        (expected,), (value,) = stored_leaves(entry["elements"], samples), stored_leaves(found[name], arrays)
        apart, scale = _distance(expected, value)
        largest = max(largest, apart)
        if not apart <= tolerance * scale:
            off = off or f"{name} differs by up to {apart:.3g} (its largest element is {scale:.3g})"
    report = {
        "values": len(found),
        "elements": sum(math.prod(entry["shape"]) for entry in stored["values"].values()),
        "elements_compared_one_in": stored["every"],
        "max_abs_difference": largest if np.isfinite(largest) else None,
        "bit_equal": equal and all(_same(value, logs.get(name)) for name, value in expected_logs.items()),
        "tolerance": tolerance,
        "logs": logs,
        "expected_logs": expected_logs,
    }
    return report, off


def _first_log_off(expected: Mapping[str, float], found: Mapping[str, float], tolerance: float) -> str | None:
    for name in [*expected, *found]:
        if name not in expected or name not in found:
            return f"the step's {name!r} exists on one side only"
        then, now = expected[name], found[name]
        if not _same(then, now) and not abs(then - now) <= tolerance * max(abs(then), 1e-6):
            return f"the step's {name!r} was {then:.9g} and is {now:.9g}"
    return None


def _same(a: float, b: float | None) -> bool:
    return b is not None and (a == b or bool(np.isnan(a) and np.isnan(b)))


def _distance(expected: np.ndarray, found: np.ndarray) -> tuple[float, float]:
    """The largest absolute difference, and the largest absolute value expected. What is no number must be equal."""
    if expected.dtype != found.dtype or expected.shape != found.shape:
        return float("inf"), 1.0
    if expected.dtype.kind in "OSU":
        return (0.0 if np.array_equal(expected, found) else float("inf")), 1.0
    a, b = expected.astype(np.float64), found.astype(np.float64)
    if np.array_equal(a, b, equal_nan=True):
        return 0.0, 1.0
    apart = np.abs(a - b)
    return (float("inf") if np.isnan(apart).any() else float(apart.max())), float(np.abs(a).max())


def _read(file: Path) -> dict[str, np.ndarray]:
    with np.load(file, allow_pickle=False) as stored:
        return dict(stored)


def device_kind() -> str:
    """The key of TOLERANCE that this process computes on."""
    return "gpu" if has_gpu() else "cpu"


@contextmanager
def verified(what: str) -> Iterator[None]:
    """State that does not fit fails as `reload_mismatch` of `what`: no checkpoint is read here."""
    try:
        yield
    except StoredStateError as error:
        raise JobFailure(
            FailureCode.RELOAD_MISMATCH, f"the training state of {what} {error.problem}", hint=OTHER_VARIABLES
        ) from error
