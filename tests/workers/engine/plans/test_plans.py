"""Plans: what is dispatched how, where batches come from, and what a calibration does."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tapeworks.errors import JobFailure
from tapeworks_workers.engine.data import operations
from tapeworks_workers.engine.data.batch_iterator import BatchIterator, Cursor
from tapeworks_workers.engine.data.in_memory import Rows, find
from tapeworks_workers.engine.data.pipeline import build_data
from tapeworks_workers.engine.plans import autotune, choose, why_not
from tapeworks_workers.engine.plans.autotune_cache import AutotuneRecord, Verdicts
from tapeworks_workers.engine.training.control import Control, Interrupted
from tests.support.trainings import BATCH, SHUFFLE, job, mlp, numbers, prepared, trained

DROPPED = {"op": "batch", "batch_size": 10, "drop_remainder": True}
UNDO = {"op": "map", "function": "lab/Jitter", "training_only": True}


def rows(size: int, batch: int, *, seed: int | None = 7, drop: bool = False) -> Rows:
    array = tf.range(size, dtype=tf.int64)
    spec = tf.TensorSpec([], tf.int64)
    return Rows((array, -array), (spec, spec), size, batch, drop, seed)


def of_pass(some: Rows, number: int) -> list[list[int]]:
    return [x.numpy().tolist() for x, _ in some.of_pass(number)]


# ── rows in memory ───────────────────────────────────────────────────────────────────────────────


def test_a_pass_is_a_permutation_and_no_two_are_alike() -> None:
    some = rows(95, 10)
    passes = [of_pass(some, number) for number in range(4)]
    for batches in passes:
        assert [len(batch) for batch in batches] == [10] * 9 + [5]
        assert sorted(itertools.chain(*batches)) == list(range(95))
    assert len({str(batches) for batches in passes}) == 4
    assert passes[1] == of_pass(rows(95, 10), 1), "the seed says all"
    assert passes[1] != of_pass(rows(95, 10, seed=8), 1)


def test_x_and_y_stay_together() -> None:
    for x, y in rows(95, 10).of_pass(3):
        assert (x.numpy() == -y.numpy()).all()


def test_without_a_shuffle_rows_come_as_they_lie() -> None:
    assert of_pass(rows(25, 10, seed=None), 5) == [list(range(10)), list(range(10, 20)), list(range(20, 25))]
    assert of_pass(rows(25, 10, seed=None, drop=True), 5) == [list(range(10)), list(range(10, 20))]


def test_a_stream_goes_through_all_passes() -> None:
    some = rows(25, 10)
    expected = [batch for number in (1, 2) for batch in of_pass(some, number)]
    got = [x.numpy().tolist() for x, _ in some.stream(4).take(5)]
    assert got == expected[1:6]


def test_ragged_and_sparse_rows_are_gathered_as_tf_data_batches_them() -> None:
    random = np.random.default_rng(0)
    lengths = random.integers(0, 5, 23)
    words = tf.RaggedTensor.from_row_lengths(random.integers(0, 99, lengths.sum()), lengths)
    pairs = tf.RaggedTensor.from_row_lengths(random.random((lengths.sum(), 2)).astype("float32"), lengths)
    wide = tf.sparse.from_dense(random.integers(0, 2, (23, 3, 4)))
    dataset = tf.data.Dataset.from_tensor_slices(({"words": words, "pairs": pairs, "wide": wide}, np.arange(23)))
    (batching,) = job(data={"source": numbers(23), "pipeline": [BATCH]}).data.pipeline
    found = find(dataset, [operations.prepare(batching, index=0, seed=0, deterministic=False, pointer="")])
    assert found is not None
    expected = list(dataset.batch(batching.batch_size))
    assert len(expected) == found[0].steps == 3
    for number, (x, y) in enumerate(expected):
        got, labels = found[0].batch(tf.constant(number, tf.int64))
        assert labels.numpy().tolist() == y.numpy().tolist()
        assert got["words"].to_list() == x["words"].to_list()
        assert got["pairs"].to_list() == x["pairs"].to_list()
        np.testing.assert_array_equal(tf.sparse.to_dense(got["wide"]), tf.sparse.to_dense(x["wide"]))
    made = tf.data.Dataset.range(2).map(found[0].batch)
    told = (made.element_spec, found[0].element_spec, dataset.batch(batching.batch_size).element_spec)
    assert [str(spec).replace("8,", "None,") for spec in told] == [str(told[2])] * 3


@pytest.mark.parametrize("size", [64, 95, 100])
def test_every_place_is_as_likely_for_every_row(size: int) -> None:
    """Chi-squared over 400 passes: of the place of each row, and of what follows row 0."""
    some = rows(size, size)
    orders = np.array([some.batch(tf.constant(number, tf.int64))[0].numpy() for number in range(400)])
    places = np.argsort(orders, axis=1)
    for row in range(0, size, 7):
        tenths = np.bincount(places[:, row] * 10 // size, minlength=10)
        share = np.bincount(np.arange(size) * 10 // size, minlength=10) / size
        chi = ((tenths - 400 * share) ** 2 / (400 * share)).sum()
        assert chi < 33.7, f"row {row}: nine degrees of freedom, one in ten thousand"
    follows = [order[np.flatnonzero(order == 0)[0] + 1] for order in orders if order[-1] != 0]
    assert np.bincount(follows, minlength=size).max() < 25, "400 / size are expected"


def test_what_is_found_to_be_rows() -> None:
    def found(*pipeline: dict[str, Any], source: dict[str, Any] | None = None) -> int | None:
        spec = job(data={"source": source or numbers(95), "pipeline": [*pipeline]})
        applied = [
            operations.prepare(one, index=index, seed=0, deterministic=False, pointer="")
            for index, one in enumerate(spec.data.pipeline)
        ]
        dataset = tf.data.Dataset.from_tensor_slices((np.zeros((95, 4), "float32"), np.zeros(95, "int64")))
        if source is not None:
            dataset = dataset.map(lambda x, y: (x, y))
        told = find(dataset, applied)
        return None if told is None else told[1]

    assert found(BATCH) == 1
    assert found(SHUFFLE, BATCH) == 2
    assert found({"op": "cache"}, SHUFFLE, BATCH, {"op": "prefetch"}) == 3
    assert found({"op": "shuffle", "buffer_size": 94}, BATCH) is None, "the buffer does not hold all"
    assert found(SHUFFLE, {"op": "cache"}, BATCH) is None, "the cache keeps the order of the first pass"
    assert found(SHUFFLE, {"op": "repeat"}, BATCH) is None
    assert found(UNDO, SHUFFLE, BATCH) is None
    assert found(SHUFFLE, BATCH, source=numbers(95)) is None, "not in memory"


def test_a_feed_counts_passes_where_the_stream_has_no_end() -> None:
    split = build_data(job(data={"source": numbers(25), "pipeline": [SHUFFLE, BATCH]})).training
    feed = BatchIterator(split, of_rows=True)
    cursor = feed.iterator
    assert isinstance(cursor, Cursor)
    feed.advance(2)
    assert (feed.number, feed.position) == (0, 2)
    feed.advance(2)
    assert (feed.number, feed.position) == (1, 1)
    assert feed.iterator is cursor
    again = BatchIterator(split, number=feed.number, position=feed.position).iterator
    whole = list(split.stream(0).take(6)) if split.stream is not None else []
    np.testing.assert_array_equal(next(again)[0], whole[4][0])


# ── plans ────────────────────────────────────────────────────────────────────────────────────────


SOURCES: dict[str, dict[str, Any]] = {
    "rows": {"source": numbers(95), "pipeline": [SHUFFLE, BATCH]},
    "full batches": {"source": numbers(95), "pipeline": [SHUFFLE, DROPPED]},
    "a map after the batch": {
        "source": numbers(95),
        "pipeline": [SHUFFLE, BATCH, {"op": "cast", "dtype": "float32", "field": "x"}],
    },
    "a small buffer": {"source": numbers(95), "pipeline": [{"op": "shuffle", "buffer_size": 20}, BATCH]},
    "a size that nobody knows": {"source": numbers(95, "unknown"), "pipeline": [BATCH]},
    "batches across passes": {"source": numbers(95), "pipeline": [SHUFFLE, {"op": "repeat"}, BATCH]},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
def test_every_plan_trains_on_the_same_batches(tmp_path: Path, name: str) -> None:
    data = SOURCES[name]
    steps = {"steps_per_epoch": 13} if name == "batches across passes" else {}
    histories = {}
    for plan in ("steps", "loop", "fused"):
        training = {"epochs": 3, "execution": {"plan": plan}, "report_every_steps": 4, **steps}
        result = trained(job(data=data, training=training), tmp_path / plan)
        told = {record["step"]: record["values"]["loss"] for record in result.records("metric")}
        histories[plan] = (result.training.counters.step, told)
    for plan in ("loop", "fused"):
        assert histories[plan][0] == histories["steps"][0]
        assert list(histories[plan][1]) == list(histories["steps"][1])
        np.testing.assert_allclose(
            list(histories[plan][1].values()), list(histories["steps"][1].values()), rtol=1e-3, err_msg=plan
        )


def test_a_call_may_be_any_number_of_steps(tmp_path: Path) -> None:
    histories = []
    for steps in (1, 3, 100):
        training = {"epochs": 2, "execution": {"plan": "fused", "steps_per_call": steps}}
        result = trained(job(data=SOURCES["rows"], training=training), tmp_path / str(steps))
        histories.append({name: value.tobytes() for name, value in result.values().items()})
    assert histories[0] == histories[1] == histories[2]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "text": ({"source": numbers(40, "texts"), "pipeline": [BATCH]}, "y is text"),
    "ragged": (
        {"source": {"component": "lab/Sequences", "config": {"form": "ragged"}}, "pipeline": [BATCH]},
        "x is ragged",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_stacked_says_why(name: str) -> None:
    data, reason = REFUSED[name]
    assert why_not(build_data(job(data=data)).training) == reason


def test_a_step_that_xla_refuses_is_not_supported_where_it_was_asked_for(tmp_path: Path) -> None:
    spec = job(model=printing(), training={"execution": {"plan": "fused"}})
    with pytest.raises(JobFailure, match="XLA cannot compile the step") as caught:
        trained(spec, tmp_path)
    assert caught.value.code == "not_supported"


def test_a_loop_whose_gradients_need_every_shape_compiles(tmp_path: Path) -> None:
    """An LSTM's bias is broadcast to the batch, and its gradient summed over it, in each step of the loop."""
    reshaped = {"component": "keras/Reshape", "config": {"target_shape": [2, 2]}}
    layers = [reshaped, {"component": "keras/LSTM", "config": {"units": 3}}]
    model = {"component": "sequential", "config": {"layers": layers}}
    losses = {}
    for plan in ("loop", "fused"):
        spec = job(model=model, data=SOURCES["rows"], training={"epochs": 3, "execution": {"plan": plan}})
        result = trained(spec, tmp_path / plan)
        losses[plan] = [record["values"]["loss"] for record in result.records("metric")]
    np.testing.assert_allclose(losses["fused"], losses["loop"], rtol=1e-3)


def printing() -> dict[str, Any]:
    layers = [{"component": "lab/Printing"}, {"component": "keras/Dense", "config": {"units": 3}}]
    return {"component": "sequential", "config": {"layers": layers}}


# ── calibration ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def eager_to_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials pay at once and measure for a moment only."""
    monkeypatch.setattr(autotune, "PAYS", 0.0)
    monkeypatch.setattr(autotune, "MEASURED_SECONDS", 0.02)


@pytest.mark.usefixtures("eager_to_try")
def test_a_calibration_trains_every_step_once_and_tells_what_it_measured(tmp_path: Path) -> None:
    training = {"epochs": 400, "execution": {"steps_per_call": 20}}
    result = trained(job(data=SOURCES["rows"], training=training), tmp_path)
    assert result.training.counters.step == 4000
    assert int(result.assembly.optimizers["model"].iterations) == 4000
    told = [fact["diagnostics"] for fact in result.records("facts") if "plans" in fact.get("diagnostics", {})]
    assert len(told) == 1
    assert told[0]["plans"].keys() == {"loop", "fused"}
    rates = {name: one["steps_per_second"] for name, one in told[0]["plans"].items()}
    assert told[0]["plan"] == result.training.counters.plan
    assert (told[0]["plan"] == "fused") == (rates["fused"] > autotune.FASTER * rates["loop"])
    again = prepared(job(data=SOURCES["rows"], training=training), tmp_path / "again", resume=result.checkpoints()[-1])
    assert again.training.counters.plan == told[0]["plan"]


def test_a_candidate_is_as_fast_as_its_fastest_long_call() -> None:
    after_a_compilation, slowed_down, short_batch_alone = (1, 0.5), (16, 0.9), (2, 0.001)
    assert autotune._rate([after_a_compilation, (16, 0.4), slowed_down, (18, 0.3), short_batch_alone]) == 60.0
    assert autotune._rate([(1, 0.5)]) == 2.0


@pytest.mark.parametrize(("rate", "stacked"), [(0.1, 1), (40.0, 32), (54.0, 64), (1000.0, 1024)])
def test_a_stack_holds_what_a_call_takes(rate: float, stacked: int) -> None:
    assert autotune._stacked(rate) == stacked


@pytest.mark.usefixtures("eager_to_try")
def test_a_calibration_goes_on_where_xla_refuses(tmp_path: Path) -> None:
    training = {"epochs": 40, "execution": {"steps_per_call": 5}}
    result = trained(job(model=printing(), data=SOURCES["rows"], training=training), tmp_path)
    assert result.training.counters.step == 400
    assert int(result.assembly.optimizers["model"].iterations) == 400
    (told,) = [fact["diagnostics"] for fact in result.records("facts") if "plans" in fact.get("diagnostics", {})]
    assert told["plan"] == "loop"
    assert "XLA cannot compile" in told["not_fused"]


def test_a_short_job_and_a_deterministic_one_try_nothing(tmp_path: Path) -> None:
    for training in ({"epochs": 2}, {"epochs": 2, "deterministic": True}):
        spec = job(data=SOURCES["rows"], training=training)
        if training.get("deterministic"):
            result = prepared(spec, tmp_path / "deterministic")
        else:
            result = trained(spec, tmp_path / "short")
            assert result.training.counters.plan == "auto", "it has not been settled"
        assert not [fact for fact in result.records("facts") if "plans" in fact.get("diagnostics", {})]


def test_what_is_chosen_by_rule() -> None:
    def chosen(*, by_time: bool = True, **training: Any) -> str:
        return choose(job(training=training).training, by_time=by_time)

    assert chosen() == "auto"
    assert chosen(by_time=False) == "loop", "a rehearsal"
    assert chosen(deterministic=True) == "loop"
    for plan in ("steps", "loop", "fused", "eager"):
        assert chosen(execution={"plan": plan}, deterministic=True) == plan


def test_a_model_with_convolutions_is_not_tried_on_a_cpu(tmp_path: Path) -> None:
    layers = [
        {"component": "keras/Reshape", "config": {"target_shape": [2, 2, 1]}},
        {"component": "keras/Conv2D", "config": {"filters": 2, "kernel_size": 2}},
        {"component": "keras/Flatten"},
        {"component": "keras/Dense", "config": {"units": 3}},
    ]
    spec = job(data=SOURCES["rows"], model={"component": "sequential", "config": {"layers": layers}})
    assert any("Conv" in kind for kind in autotune._operations(prepared(spec, tmp_path).training.step))
    plain = prepared(job(model=mlp()), tmp_path / "plain").training.step
    assert not any("Conv" in kind for kind in autotune._operations(plain))


# ── what earlier calibrations found ──────────────────────────────────────────────────────────────


LOOP_RATE, FUSED_RATE = {"steps_per_second": 100.0, "first_call_seconds": 0.2}, {"first_call_seconds": 1.0}


def known_to(folder: Path, spec: Any, **found: Any) -> Verdicts:
    """A folder where a job like this one was measured."""
    result, verdicts = prepared(spec, folder / "first"), Verdicts(folder)
    verdicts.of(result.training.step, result.data.training).write(found)
    return verdicts


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fused_rate", "epochs", "plan"),
    [(1000.0, 20, "fused"), (1000.0, 2, "loop"), (101.0, 20, "loop"), (50.0, 20, "loop")],
)
def test_a_job_begins_with_the_plan_that_was_the_faster_for_its_like(
    tmp_path: Path, fused_rate: float, epochs: int, plan: str
) -> None:
    spec = job(data=SOURCES["rows"], training={"epochs": epochs})
    fused = {**FUSED_RATE, "steps_per_second": fused_rate}
    verdicts = known_to(tmp_path, spec, loop=LOOP_RATE, fused=fused)
    result = trained(spec, tmp_path / "second", verdicts=verdicts)
    (told,) = [fact for fact in result.records("facts") if "plans" in fact.get("diagnostics", {})]
    assert told["diagnostics"]["plan"] == plan == result.training.counters.plan
    assert told["diagnostics"]["measured_before"] is True
    assert told["diagnostics"]["plans"]["fused"] == fused


def test_a_step_that_xla_refused_is_not_tried_again(tmp_path: Path) -> None:
    spec = job(data=SOURCES["rows"], training={"epochs": 3})
    verdicts = known_to(tmp_path, spec, loop=LOOP_RATE, not_fused="it prints")
    result = trained(spec, tmp_path / "second", verdicts=verdicts)
    (told,) = [fact for fact in result.records("facts") if "plans" in fact.get("diagnostics", {})]
    assert told["diagnostics"]["not_fused"] == "it prints"
    assert result.training.counters.plan == "loop"


def test_only_steps_that_take_the_same_time_are_alike(tmp_path: Path) -> None:
    def found(**changes: Any) -> Path | None:
        spec = job(**{"data": SOURCES["rows"], **changes})
        result = prepared(spec, tmp_path / "any")
        return Verdicts(tmp_path).of(result.training.step, result.data.training).file

    first = found()
    assert found() == first, "whatever the functions are called this time"
    assert found(training={"seed": 4}) == first
    assert found(model=mlp(hidden=[9])) != first
    assert found(optimizer="keras/SGD") != first
    assert found(data={"source": numbers(95), "pipeline": [SHUFFLE, {**BATCH, "batch_size": 5}]}) != first


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 0, "known": {}}', '{"format": 1, "known": 3}'])
def test_a_verdict_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    file = tmp_path / "one.json"
    file.write_text(text)
    assert AutotuneRecord(file).read() == {}
    AutotuneRecord(file).write({"loop": {}})
    assert AutotuneRecord(file).read() == {"loop": {}}
    assert [path.name for path in tmp_path.iterdir()] == ["one.json"]


@pytest.mark.usefixtures("eager_to_try")
def test_a_calibration_leaves_its_verdict(tmp_path: Path) -> None:
    """Whichever is faster here: what it told is what the next job finds."""
    spec = job(data=SOURCES["rows"], training={"epochs": 100_000})
    control = Control()

    def until_settled(frame: dict[str, Any]) -> None:
        if "plans" in frame.get("record", {}).get("diagnostics", {}):
            control.on_message({"type": "command", "command": "cancel"})

    result = prepared(spec, tmp_path / "first", control=control, listen=until_settled, verdicts=Verdicts(tmp_path))
    with pytest.raises(Interrupted):
        result.training.train()
    (told,) = [fact for fact in result.records("facts") if "plans" in fact.get("diagnostics", {})]
    kept = Verdicts(tmp_path).of(result.training.step, result.data.training).read()
    assert kept == told["diagnostics"]["plans"]
    assert set(kept) == {"loop", "fused"}
