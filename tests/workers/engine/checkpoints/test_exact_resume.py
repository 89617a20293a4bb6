"""A deterministic job that stops anywhere ends as one that never stopped: the same weights, the same metric series.

Each training writes a checkpoint after every step. What a killed attempt did after its last checkpoint is lost, so a
fresh training from any of them is what the next attempt does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from tensorflow.python.framework.config import disable_op_determinism

from tapeworks.spec.job_spec import JobSpec
from tapeworks_workers.engine import runtime
from tapeworks_workers.engine.checkpoints.files import opened
from tapeworks_workers.engine.training.control import Control, Interrupted
from tests.support.job_files import set_data_roots
from tests.support.tiers import some
from tests.support.trainings import BATCH, SHUFFLE, Trained, job, mlp, numbers, prepared, trained
from tests.workers.engine.step.test_steps_in_jobs import CASES

EVERY_STEP = {"every_steps": 1, "every_seconds": None, "keep": 999}
JITTER = {"op": "map", "function": "lab/Jitter", "training_only": True}
SEQUENCES = {"component": "lab/Sequences", "config": {"form": "ragged"}}
EMBED = {"component": "keras/Embedding", "config": {"input_dim": 300, "output_dim": 4}}
POOL = {"component": "keras/GlobalAveragePooling1D"}


def of(*, training: dict[str, Any] | None = None, **changes: Any) -> JobSpec:
    """A deterministic job with a checkpoint after every step, reports too."""
    own = {"deterministic": True, "epochs": 2, "report_every_steps": 3, "checkpoint": EVERY_STEP, **(training or {})}
    return job(training=own, **changes)


def supervised() -> JobSpec:
    schedule = {"component": "keras/CosineDecay", "config": {"initial_learning_rate": 0.05, "decay_steps": 20}}
    adam = {"component": "keras/Adam", "config": {"learning_rate": schedule, "use_ema": True}}
    return of(
        data={"source": numbers(95), "validation": 0.2, "pipeline": [{"op": "cache"}, SHUFFLE, JITTER, BATCH]},
        model=mlp(dropout=0.4),
        optimizer=adam,
        metrics=["keras/SparseCategoricalAccuracy"],
        training={"early_stopping": {"monitor": "val_loss", "patience": 9}},
    )


def gan() -> JobSpec:
    form = {"source": numbers(47), "pipeline": [SHUFFLE, {"op": "repeat"}, BATCH]}
    return of(data=form, training={"steps_per_epoch": 4}, model=None, optimizer=None, loss=None, **CASES["gan"])


def ragged() -> JobSpec:
    buckets = {
        "op": "bucket_by_sequence_length", "bucket_boundaries": [3, 5], "bucket_batch_sizes": [4, 4, 4], "ragged": True,
    }  # fmt: skip
    layers = [EMBED, POOL, {"component": "keras/Dropout", "config": {"rate": 0.3}}]
    layers.append({"component": "keras/Dense", "config": {"units": 1}})
    return of(
        data={"source": SEQUENCES, "pipeline": [{"op": "shuffle", "buffer_size": 23}, buckets]},
        model={"component": "sequential", "config": {"layers": layers}},
        loss="keras/MeanSquaredError",
    )


def mixed_precision() -> JobSpec:
    return of(data={"pipeline": [SHUFFLE, BATCH]}, model=mlp(dropout=0.2), training={"precision": "mixed_float16"})


def gradient_noise() -> JobSpec:
    noise = {"component": "noise", "config": {"eta": 0.05}}
    clip = {"component": "clip_by_global_norm", "config": {"max_norm": 1.0}}
    return of(data={"pipeline": [SHUFFLE, BATCH]}, gradients=[clip, noise])


def accumulation() -> JobSpec:
    return of(
        data={"pipeline": [SHUFFLE, BATCH]}, training={"gradient_accumulation": 3, "max_steps": 17, "epochs": None}
    )


def interleaved() -> JobSpec:
    sources = {"sources": [{"source": numbers(40)}, {"source": numbers(30)}], "weights": [0.7, 0.3]}
    return of(data={"source": {"component": "sample", "config": sources}, "pipeline": [SHUFFLE, JITTER, BATCH]})


def weighted() -> JobSpec:
    """Sample weights, a callback with a memory, and the best epoch's weights at the end."""
    weights = {"op": "map", "function": {"component": "class_weight", "config": {"weights": [1.0, 3.0, 0.5]}}}
    plateau = {"monitor": "val_loss", "patience": 1, "min_delta": 0.2}
    stopping = {"monitor": "val_loss", "patience": 9, "restore_best": True}
    return of(
        data={"source": numbers(95), "validation": 0.2, "pipeline": [SHUFFLE, BATCH, weights]},
        optimizer={"component": "keras/SGD", "config": {"learning_rate": 0.5, "momentum": 0.9}},
        callbacks=[{"component": "reduce_learning_rate", "config": plateau}],
        training={"epochs": 3, "early_stopping": stopping},
    )


def files() -> JobSpec:
    source = {"component": "csv", "config": {"files": "*.csv", "labels": "y"}}
    return of(data={"source": source, "pipeline": [{"op": "shuffle", "buffer_size": 15}, JITTER, BATCH]})


def unsavable() -> JobSpec:
    return of(data={"source": numbers(55, "generator"), "pipeline": [BATCH]}, model=mlp(dropout=0.3))


def single_steps() -> JobSpec:
    return of(data={"pipeline": [SHUFFLE, BATCH]}, model=mlp(dropout=0.2), training={"execution": {"plan": "steps"}})


def fused(*before: dict[str, Any]) -> JobSpec:
    """In XLA programs, but for the short last batch of each pass."""
    data = {"source": numbers(95), "pipeline": [*before, SHUFFLE, BATCH]}
    return of(data=data, model=mlp(dropout=0.2), training={"execution": {"plan": "fused"}})


# The job, the steps after which it stops (epochs have the length that its data has), and how the data is gone on with.
JOBS: dict[str, tuple[Callable[[], JobSpec], tuple[int, ...], str]] = {
    "supervised": (supervised, (1, 8, 9), "iterator"),
    "gan": (gan, (3, 5), "iterator"),
    "ragged": (ragged, (2, 9), "iterator"),
    "mixed_precision": (mixed_precision, (7, 10), "number"),
    "gradient_noise": (gradient_noise, (6, 11), "number"),
    "accumulation": (accumulation, (4, 11), "number"),
    "interleaved": (interleaved, (3, 9), "iterator"),
    "weighted": (weighted, (12, 24), "number"),
    "files": (files, (2, 5), "iterator"),
    "unsavable": (unsavable, (4, 7), "skipped"),
    "fused": (fused, (4, 13), "number"),
    "fused_from_a_pipeline": (lambda: fused(JITTER), (4, 13), "iterator"),
    "single_steps": (single_steps, (9, 12), "number"),
}

AT_THE_END = {"supervised", "weighted", "unsavable", "fused"}
"""Jobs that are stopped after their last step too."""


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    """What a runner sets for a deterministic job; a test process must take it back."""
    runtime.prepare(of())
    yield
    disable_op_determinism()
    set_data_roots([])


@pytest.fixture
def data_root(tmp_path: Path) -> None:
    """Two files of rows."""
    root = tmp_path / "data"
    root.mkdir()
    x = np.random.default_rng(3).normal(size=(60, 4)).round(3)
    for name, rows in (("a", x[:35]), ("b", x[35:])):
        lines = ["p,q,r,s,y", *(",".join([*map(str, row), str(int(row.sum() > 0))]) for row in rows)]
        (root / f"{name}.csv").write_text("\n".join(lines) + "\n")
    set_data_roots([root])


def series(*runs: Trained) -> dict[tuple[str, int], Any]:
    """Each metric's value at each step as a user reads it: the newest attempt's."""
    told: dict[tuple[str, int], Any] = {}
    for run in runs:
        for record in run.records("metric"):
            told |= {(name, record["step"]): value for name, value in record["values"].items()}
    return told


def at_step(run: Trained, step: int) -> Path:
    """The last checkpoint of a step: at an epoch's end there is one more, after validation."""
    found = []
    for path in run.checkpoints():
        with opened(path) as (state, _):
            if state.counters["step"] == step:
                found.append(path)
    return found[-1]


def how(run: Trained) -> dict[str, Any]:
    """What a resumed training says of how it went on."""
    (told,) = [
        fact["diagnostics"]["resume"] for fact in run.records("facts") if "resume" in fact.get("diagnostics", ())
    ]
    return dict(told)


def assert_same_end(whole: Trained, resumed: Trained) -> None:
    expected, got = whole.values(), resumed.values()
    assert list(expected) == list(got)
    assert [name for name in expected if expected[name].tobytes() != got[name].tobytes()] == []
    assert whole.training.counters == resumed.training.counters


@pytest.mark.slow
@pytest.mark.usefixtures("data_root")
@pytest.mark.parametrize("name", some(JOBS, {"supervised", "gan", "ragged", "fused"}.__contains__))
def test_a_stop_at_any_step_changes_nothing(tmp_path: Path, name: str) -> None:
    make, stops, way = JOBS[name]
    spec = make()
    whole = trained(spec, tmp_path / "whole")
    last = whole.training.counters.step
    for step in (*stops, last) if name in AT_THE_END else stops:
        keras.utils.clear_session()
        resumed = trained(spec, tmp_path / f"from {step}", resume=at_step(whole, step))
        assert_same_end(whole, resumed)
        assert series(whole) == series(whole, resumed), f"stopped after step {step}"
        told = how(resumed)
        assert (told["step"], told["same_device"]) == (step, True)
        assert told["data"] in (way, "start")
        assert step != stops[0] or told["data"] == way, "the first stop is inside a pass over the data"


@pytest.mark.slow
def test_checkpoints_change_nothing(tmp_path: Path) -> None:
    with_them = trained(supervised(), tmp_path / "with")
    document = supervised().document()
    document["training"]["checkpoint"] = None
    without = trained(JobSpec.model_validate(document), tmp_path / "without")
    expected, got = with_them.values(), without.values()
    assert [name for name in expected if expected[name].tobytes() != got[name].tobytes()] == []
    assert series(with_them) == series(without)


@pytest.mark.slow
@pytest.mark.parametrize("command", some(["pause", "drain"], "pause".__eq__))
def test_a_command_stops_at_the_next_boundary_and_keeps_all(tmp_path: Path, command: str) -> None:
    document = supervised().document()
    document["training"]["checkpoint"] = None
    spec = JobSpec.model_validate(document)
    whole = trained(spec, tmp_path / "whole")
    control = Control()

    def listen(frame: dict[str, Any]) -> None:
        if frame.get("record", {}).get("record") == "metric":
            control.on_message({"type": "command", "command": command})

    stopped = prepared(spec, tmp_path / "stopped", control=control, listen=listen)
    with pytest.raises(Interrupted):
        stopped.training.train()
    keras.utils.clear_session()
    resumed = trained(spec, tmp_path / "resumed", resume=stopped.checkpoints()[-1])
    assert 0 < stopped.training.counters.step < whole.training.counters.step
    assert_same_end(whole, resumed)
    assert series(whole) == series(stopped, resumed)


@pytest.mark.slow
def test_another_device_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = of(data={"pipeline": [BATCH]})
    whole = trained(spec, tmp_path / "whole")
    elsewhere = {**runtime.fingerprint(), "processor": "another", "threads": "0/64"}
    monkeypatch.setattr(runtime, "fingerprint", lambda: elsewhere)
    resumed = trained(spec, tmp_path / "resumed", resume=at_step(whole, 3))
    (note,) = [note["message"] for note in resumed.events("note") if "another device" in note["message"]]
    assert "processor, threads" in note
    assert how(resumed) == {"step": 3, "data": "number", "same_device": False}
