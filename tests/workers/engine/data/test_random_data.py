"""Random numbers in data functions: the same after a resume as without one, and where that cannot be, a warning."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework.config import disable_op_determinism

from tapeworks.components.loading import load_components
from tapeworks.errors import FailureCode, JobFailure
from tapeworks.spec.job_spec import JobSpec
from tapeworks_workers.engine import runtime
from tapeworks_workers.engine.data.batch_iterator import BatchIterator
from tapeworks_workers.engine.data.pipeline import Data
from tests.support.job_files import build_data
from tests.support.paths import LAB
from tests.support.tiers import some
from tests.support.trainings import attempt, job, trained

PARTS = LAB / "random_data_parts.py"
load_components([PARTS])

BATCH = {"op": "batch", "batch_size": 5}
SHUFFLE = {"op": "shuffle", "buffer_size": 30}
MODEL = {
    "component": "sequential",
    "config": {"layers": [{"component": "keras/Flatten"}, {"component": "keras/Dense", "config": {"units": 3}}]},
}


def pictures(form: str = "plain", **config: Any) -> dict[str, Any]:
    return {"component": "dice/Pictures", "config": {"form": form, **config}}


def use(name: str, op: str = "map", **config: Any) -> dict[str, Any]:
    return {"op": op, "function": {"component": f"dice/{name}", "config": config}}


def spec(*pipeline: dict[str, Any], form: str = "plain", **changes: Any) -> JobSpec:
    data = {"source": pictures(form), "pipeline": [*pipeline], **changes.pop("data", {})}
    training = {"deterministic": True, "epochs": 3, **changes.pop("training", {})}
    return job(data=data, training=training, model=MODEL, **changes)


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    runtime.prepare(spec(BATCH))
    yield
    disable_op_determinism()


def x_of(data: Data, number: int) -> np.ndarray:
    """All x of a pass."""
    return np.concatenate([np.asarray(batch[0]) for batch in data.training.dataset(number)])


# ── the numbers of plain Keras ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["Translate", "Generated"])
def test_a_generator_gives_what_a_map_of_plain_keras_gets(name: str) -> None:
    """Pass after pass, drawn in the order of the elements."""
    from tapeworks.components.registry import registry

    ours = build_data(spec(use(name), BATCH))
    function = registry.get("transform", f"dice/{name}").target()
    dataset = build_data(spec(BATCH)).training.dataset(0).unbatch().map(function, num_parallel_calls=1)
    for number in range(3):
        expected = np.stack([x for x, _ in dataset])
        np.testing.assert_allclose(x_of(ours, number), expected, rtol=1e-6)
    assert not np.array_equal(x_of(ours, 0), x_of(ours, 1))


def test_each_element_and_pass_has_numbers_of_its_own() -> None:
    data = build_data(spec(use("augmented"), BATCH))
    drawn = [x_of(data, number) for number in range(2)]
    assert not np.allclose(*drawn)
    plain = x_of(build_data(spec(BATCH)), 0)
    assert len(np.unique((drawn[0] - plain).round(4)[:, 0, 0, 0])) > 15
    other = build_data(spec(use("augmented"), BATCH, training={"seed": 7}))
    assert not np.allclose(drawn[0], x_of(other, 0))


# ── the same after a resume ──────────────────────────────────────────────────────────────────────

EXACT: dict[str, JobSpec] = {
    "a seed": spec(use("Translate"), BATCH),
    "no seed": spec(use("Translate", seed=None), SHUFFLE, BATCH),
    "after a shuffle": spec(SHUFFLE, use("Generated"), BATCH),
    "functions": spec(use("augmented"), SHUFFLE, BATCH),
    "batches": spec(SHUFFLE, BATCH, use("noisy")),
    "a condition": spec(use("sometimes"), BATCH),
    "a filter": spec(use("kept", "filter"), use("Translate"), BATCH),
    "both": spec(use("both"), BATCH),
    "before a cache": spec(use("augmented"), {"op": "cache"}, SHUFFLE, BATCH),
    "endless": spec(use("Translate"), {"op": "repeat"}, BATCH, training={"steps_per_epoch": 4}),
    "a shuffle inside": spec(use("shuffled", "apply"), BATCH),
    "source": spec(BATCH, form="noise"),
    "source shuffles": spec(BATCH, form="shuffled"),
    "source shuffles with a seed": spec(BATCH, form="shuffled with a seed"),
    "source shuffles once": spec(BATCH, form="shuffled once"),
    "source shuffles below a cache": spec(BATCH, form="shuffled below a cache"),
    "a table that is read": spec(use("Looking"), BATCH),
}


def built(given: JobSpec, process: int) -> Data:
    """The data of a job in a process with random numbers of its own, then seeded as a job seeds it."""
    keras.utils.clear_session()
    random.seed(process)
    np.random.seed(process)
    data = build_data(given)
    keras.utils.set_random_seed(3)
    return data


def batches(feed: BatchIterator, count: int, stops: dict[int, Path]) -> list[bytes]:
    """So many batches as a training takes them; the feed is saved before those with the numbers `stops`."""
    taken: list[bytes] = []
    while len(taken) < count:
        if len(taken) in stops:
            stops[len(taken)].mkdir(exist_ok=True)
            feed.save(stops[len(taken)])
            (stops[len(taken)] / "place").write_text(f"{feed.number} {feed.position}")
        batch = next(feed.iterator, None)
        if batch is None:
            feed.next_pass()
            continue
        taken.append(b"".join(np.asarray(part).tobytes() for part in batch))
        feed.advance(1)
    return taken


@pytest.mark.slow
@pytest.mark.parametrize("name", some(EXACT, {"functions", "a filter", "a shuffle inside", "source"}.__contains__))
def test_a_resumed_feed_gives_the_same_batches(tmp_path: Path, name: str) -> None:
    data = built(EXACT[name], 1)
    assert data.remarks.all() == []
    stops = {at: tmp_path / str(at) for at in (2, 5, 7)}
    whole = batches(BatchIterator(data.training), 12, stops)
    assert whole[:4] != whole[5:9] or "once" in name or "cache" in name or "read" in name or name == "source"
    for at, folder in stops.items():
        number, position = map(int, (folder / "place").read_text().split())
        feed = BatchIterator(built(EXACT[name], at).training, number=number, position=position)
        assert feed.resume(folder) in ("start", "iterator", "number")
        assert batches(feed, 12 - at, {}) == whole[at:], f"resumed at batch {at}"


def test_a_sample_of_sources_ends_after_a_resume(tmp_path: Path) -> None:
    """One source has ended where it is saved."""
    sources = [{"source": pictures(size=4)}, {"source": pictures(size=20)}]
    drawn = {"source": {"component": "sample", "config": {"sources": sources}}}
    whole = batches(BatchIterator(built(spec(BATCH, data=drawn), 1).training), 10, {4: tmp_path / "4"})
    feed = BatchIterator(built(spec(BATCH, data=drawn), 2).training, position=4)
    assert feed.resume(tmp_path / "4") == "iterator"
    assert batches(feed, 6, {}) == whole[4:]


def test_a_sample_of_unknown_size_is_skipped_to(tmp_path: Path) -> None:
    """TensorFlow cannot restore its iterator."""
    keep = use("kept", "filter")
    sources = [{"source": pictures(size=4), "pipeline": [keep]}, {"source": pictures(size=20), "pipeline": [keep]}]
    given = spec(BATCH, data={"source": {"component": "sample", "config": {"sources": sources}}})
    whole = batches(BatchIterator(built(given, 1).training), 10, {3: tmp_path / "3"})
    feed = BatchIterator(built(given, 2).training, position=3)
    assert feed.resume(tmp_path / "3") == "skipped"
    assert batches(feed, 7, {}) == whole[3:]


# ── warnings ─────────────────────────────────────────────────────────────────────────────────────

WARNED = {
    "looped": (spec(use("looped"), BATCH), "/data/pipeline/0 (map): 'dice/looped'", "AssignVariableOp", "seed"),
    "variable": (spec(use("Counting"), BATCH), "'dice/Counting'", "AssignAddVariableOp of seen", "`map`"),
    "table": (spec(use("Numbering"), BATCH), "'dice/Numbering'", "LookupTableInsertV2", "Fill tables in __init__"),
    "python": (spec(use("in_python"), BATCH), "'dice/in_python' runs Python code", "PyFunc", "TensorFlow's operations"),
    "inside": (spec(use("Inside", "apply"), BATCH), "(apply): 'dice/Inside'", "AssignVariableOp", "`map` operation"),
    "file": (spec(use("Filed", "apply", file="/tmp/kept"), BATCH), "'dice/Filed'", "cache in the file", "cache()"),  # noqa: S108
    "generator": (spec(BATCH, form="generator"), "/data/source: 'dice/Pictures' runs Python", "PyFunc", "TensorFlow"),
    "shuffled above a cache": (
        spec(BATCH, form="shuffled above a cache"),
        "/data/source",
        "shuffle",
        '"op": "shuffle"',
    ),
    "source draws": (spec(BATCH, form="a generator of random numbers"), "/data/source", "RngReadAndSkip", "`map`"),
}


@pytest.mark.parametrize("name", some(WARNED, {"looped", "variable", "inside", "generator"}.__contains__))
def test_state_that_no_checkpoint_holds_is_warned_of(name: str) -> None:
    given, place, what, remedy = WARNED[name]
    (remark,) = build_data(given).remarks.all()
    assert place in remark.message
    assert what in remark.message
    assert remedy in remark.hint
    document = given.document()
    document["training"]["deterministic"] = False
    assert build_data(JobSpec.model_validate(document)).remarks.all() == []


def test_a_job_starts_with_its_warning(tmp_path: Path) -> None:
    frames = attempt(spec(use("Inside", "apply"), BATCH, export=None), tmp_path)
    assert frames[-1]["outcome"] == "succeeded"
    records = [frame["record"] for frame in frames if frame["type"] == "record"]
    (told,) = [record["data"] for record in records if record.get("type") == "diagnostic"]
    assert told["code"] == "inexact_resume"
    assert told["location"]["component"] == "dice/Inside"
    # What the hint says.
    assert build_data(spec(use("Translate"), BATCH)).remarks.all() == []


def test_no_fraction_is_cut_from_a_source_that_shuffles() -> None:
    with pytest.raises(JobFailure, match=r"so data\.validation cannot be a fraction") as told:
        build_data(spec(BATCH, form="shuffled", data={"validation": 0.2}))
    assert told.value.code is FailureCode.INVALID_DATA
    assert "reshuffle_each_iteration=False" in told.value.hint
    data = build_data(spec(BATCH, form="shuffled once", data={"validation": 0.2}))
    assert data.validation is not None
    seen = [{float(x) for x in x_of(data, number)[:, 0, 0, 0]} for number in range(3)]
    assert seen[0] == seen[1] == seen[2]
    held = np.concatenate([batch[0] for batch in data.validation.dataset(0)])
    assert not seen[0] & {float(x) for x in held[:, 0, 0, 0]}


def test_the_seeds_of_a_process_are_left_as_they_were() -> None:
    tf.random.set_seed(3)
    np.random.seed(3)
    expected = (tf.random.uniform([]).numpy(), np.random.rand())
    tf.random.set_seed(3)
    np.random.seed(3)
    build_data(spec(use("augmented"), BATCH, form="noise"))
    assert (tf.random.uniform([]).numpy(), np.random.rand()) == expected


def test_attributes_that_change_between_epochs_are_warned_of(tmp_path: Path) -> None:
    told = {"component": "dice/Waiting", "config": {"told": True}}
    given = spec(BATCH, data={"validation": 0.3}, callbacks=["dice/Waiting", told], evaluators=["dice/Calls"])
    diagnostics = trained(given, tmp_path).events("diagnostic")
    assert [one["location"]["component"] for one in diagnostics] == ["dice/Calls"]
    assert "changes its attributes calls" in diagnostics[0]["message"]
    given = spec(BATCH, callbacks=["dice/Counter"])
    (warning,) = trained(given, tmp_path / "2").events("diagnostic")
    assert warning["message"].startswith("callbacks/0, 'dice/Counter' changes its attributes best, seen between epochs")
    assert "state() and takes them back in load()" in warning["hint"]


# ── the resume test of a validation ──────────────────────────────────────────────────────────────


def validated(given: JobSpec, folder: Path, fork: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The result of a validation, with a fork of a real zygote for the other process; and its warnings."""

    def verify(message: dict[str, Any]) -> dict[str, Any]:
        assert message["verifier"] == "resume"
        files = [str(PARTS), str(PARTS.with_name("lab_parts.py"))]
        answer: dict[str, Any] = fork(
            "tapeworks_workers.engine.validation.resume_test:main", bar=False, bundle=str(folder / message["bundle"]),
            components=files,
        )  # fmt: skip
        return answer

    frames = attempt(given, folder, kind="validate", verify=verify)
    assert frames[-1]["outcome"] == "succeeded", frames[-1]["failure"]
    result = frames[-1]["result"]
    return result["resume"], [one for one in result["warnings"] if one["code"] == "inexact_resume"]


@pytest.mark.slow
def test_a_validation_resumes_in_another_process(tmp_path: Path, fork: Any) -> None:
    exact = spec(use("Translate"), SHUFFLE, BATCH, data={"validation": 0.3}, export=None)
    resumed, warnings = validated(exact, tmp_path / "exact", fork)
    assert resumed == {"exact": True, "differing": [], "steps": [2, 3]}
    assert warnings == []
    stateful = spec(BATCH, form="generator", evaluators=["dice/Calls"], data={"validation": pictures()}, export=None)
    resumed, warnings = validated(stateful, tmp_path / "stateful", fork)
    assert not resumed["exact"]
    assert {"the next batch", "val_calls"} <= set(resumed["differing"])
    assert "keeps state" in warnings[-1]["hint"]
    assert validated(spec(BATCH, training={"deterministic": False}, export=None), tmp_path / "not", fork) == (None, [])
