"""zip, concatenate and sample: branches with pipelines of their own, splits cut from each, orders of their own."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tapeworks.errors import FailureCode, JobFailure
from tapeworks_workers.engine.data.pipeline import Data, Split
from tapeworks_workers.engine.diagnostics.classify import classify
from tests.support.job_files import build_data
from tests.support.trainings import BATCH, SHUFFLE, job, numbers

SMALL, LARGE = numbers(20, "index"), numbers(50, "index")


def data_of(component: str, config: dict[str, Any], *pipeline: Any, **data: Any) -> Data:
    source = {"component": component, "config": config}
    parts = {"source": source, "pipeline": list(pipeline or [BATCH]), **data}
    return build_data(job(data=parts, training={"deterministic": True}))


def of(split: Split | None, number: int = 0) -> list[Any]:
    """The first feature of every element, by branch where there are several."""
    assert split is not None
    found: list[Any] = []
    for batch in split.dataset(number):
        parts = batch if isinstance(batch, dict) else {"": batch}
        columns = [element[0].numpy()[:, 0].astype(int).tolist() for element in parts.values()]
        found += zip(*columns, strict=True) if len(columns) > 1 else columns[0]
    return found


def test_zip_puts_unpaired_sources_side_by_side() -> None:
    shuffled = {name: {"source": one, "pipeline": [SHUFFLE]} for name, one in (("a", SMALL), ("b", SMALL))}
    data = data_of("zip", {"sources": shuffled})
    assert set(data.element_spec) == {"a", "b"}
    assert data.training.steps == 2
    first, again, later = of(data.training, 0), of(data.training, 0), of(data.training, 1)
    assert first == again != later
    orders = [[pair[place] for pair in first] for place in (0, 1)]
    assert orders[0] != orders[1], "each has an order of its own"
    assert all(sorted(order) == list(range(20)) for order in orders)


@pytest.mark.parametrize("form", ["index", "unknown"])
def test_zip_stops_with_the_shortest_or_the_longest(form: str) -> None:
    sources = {"a": {"source": numbers(20, form), "pipeline": [SHUFFLE]}, "b": numbers(50, form)}
    assert len(of(data_of("zip", {"sources": sources}).training)) == 20
    longest = of(data_of("zip", {"sources": sources, "stop": "longest"}).training)
    assert [pair[1] for pair in longest] == list(range(50))
    rounds = [[pair[0] for pair in longest[start : start + 20]] for start in (0, 20)]
    assert all(sorted(one) == list(range(20)) for one in rounds)
    assert rounds[0] != rounds[1], "begun again, it is shuffled again"


def test_fractions_are_cut_from_each_source_before_its_pipeline() -> None:
    sources = {"a": {"source": LARGE, "pipeline": [SHUFFLE, {"op": "repeat", "count": 2}]}, "b": LARGE}
    for component, given in (("zip", sources), ("concatenate", list(sources.values()))):
        data = data_of(component, {"sources": given}, validation=0.2, test={"fraction": 0.2, "split": "tail"})
        held = [{x for x in np.ravel(of(split))} for split in (data.training, data.validation, data.test)]
        assert held[2] == set(range(40, 50))
        if component == "concatenate":
            assert not (held[0] | held[1]) & held[2]
            assert len(of(data.training)) == 2 * 30 + 30
            assert len(of(data.validation)) == 10 + 10, "shuffle and repeat are for training"
        else:
            assert len(of(data.validation)) == 10


def test_concatenate_and_sample() -> None:
    joined = data_of("concatenate", {"sources": [SMALL, {"source": LARGE, "pipeline": [{"op": "take", "count": 3}]}]})
    assert of(joined.training) == [*range(20), 0, 1, 2]
    endless = [{"source": one, "pipeline": [{"op": "repeat"}]} for one in (SMALL, LARGE)]
    marked = [*endless[:1], {**endless[1], "pipeline": [{"op": "skip", "count": 20}, {"op": "repeat"}]}]
    data = data_of("sample", {"sources": marked, "weights": [3, 1]}, {"op": "take", "count": 400}, BATCH)
    drawn = of(data.training)
    assert 0.68 < np.mean(np.array(drawn) < 20) < 0.82
    assert of(data.training) == drawn != of(data.training, 1)


def test_sources_nest_and_batch_in_their_branches() -> None:
    inner = {"component": "concatenate", "config": {"sources": [SMALL, LARGE]}}
    config = {"sources": {"a": {"source": inner, "pipeline": [BATCH]}, "b": {"source": LARGE, "pipeline": [BATCH]}}}
    data = build_data(job(data={"source": {"component": "zip", "config": config}, "pipeline": []}))
    assert data.training.steps == 5
    scaled = {"op": "map", "function": "lab/Half", "field": "x.b.x"}
    halves = data_of("zip", {"sources": {"a": SMALL, "b": SMALL}}, scaled, BATCH)
    (batch, *_) = halves.training.dataset(0)
    np.testing.assert_array_equal(batch["a"][0], 2 * batch["b"][0])


def test_files_of_every_branch_are_in_the_lineage() -> None:
    data = data_of("zip", {"sources": {"a": {"component": "digits"}, "b": {"component": "iris"}}}, validation="digits")
    assert [file["name"] for file in data.sources["training"]["files"]] == ["digits.csv.gz", "iris.csv"]


@pytest.mark.parametrize(
    ("component", "config", "code", "says"),
    [
        ("zip", {"sources": {}}, "invalid_spec", "sources is empty"),
        ("zip", {"sources": {"a": {"source": SMALL, "pipelin": []}}}, "invalid_spec", "/sources/a/pipelin"),
        ("zip", {"sources": {"a": {"source": SMALL, "pipeline": [BATCH]}, "b": SMALL}}, "invalid_spec", "'b' single"),
        ("zip", {"sources": {"a": {"component": "lab/None"}}}, "invalid_spec", "/data/source/config/sources/a"),
        ("concatenate", {"sources": [SMALL, {"component": "digits"}, numbers(9, "named")]}, "invalid_data",
         "the elements of source 2 are not like those of source 0"),
        ("sample", {"sources": [SMALL], "weights": [1, 2]}, "component_error", "one for each of 1 sources"),
        ("zip", {"sources": {"a": numbers(9, "endless")}}, "invalid_spec", "never ends"),
        ("zip", {"sources": {"a": numbers(9, "endless"), "b": SMALL}, "stop": "longest"}, "invalid_spec", "never ends"),
        ("zip", {"sources": {"a": numbers(9, "float64")}}, "float64_input", r"x\.a\.x of the training split"),
    ],
)  # fmt: skip
def test_what_cannot_be_combined_is_told(component: str, config: Any, code: str, says: str) -> None:
    with pytest.raises(JobFailure, match=says) as caught:
        data_of(component, config)
    assert caught.value.code == FailureCode(code)


# ── built-in functions for apply, filter and map ─────────────────────────────────────────────────


def rows(data: Data, number: int = 0) -> list[Any]:
    return [row for x, y in data.training.dataset(number) for row in zip(x.numpy(), y.numpy(), strict=True)]


def test_windows_of_a_series() -> None:
    def windows(**config: Any) -> list[Any]:
        apply = {"op": "apply", "function": {"component": "windows", "config": config}}
        return rows(build_data(job(data={"source": LARGE, "pipeline": [apply, BATCH]})))

    found = windows(size=4, shift=3)
    assert [x[:, 0].tolist() for x, _ in found] == [list(range(start, start + 4)) for start in range(0, 46, 3)]
    assert [y[0] for _, y in found] == [start + 4 for start in range(0, 46, 3)]
    stepping = {"op": "apply", "function": {"component": "windows", "config": {"size": 3, "shift": 2}}}
    many = rows(build_data(job(data={"source": numbers(700, "index"), "pipeline": [stepping, BATCH]})))
    assert [x[0, 0] for x, _ in many] == list(range(0, 697, 2)), "none is lost where stretches meet"
    with pytest.raises(JobFailure, match="training split is empty"):
        windows(size=50)
    ahead = windows(size=2, horizon=3, target=0)
    assert ahead[5][1].tolist() == [7, 8, 9]


def test_balance_over_a_class_that_does_not_occur() -> None:
    balance = {"op": "apply", "function": {"component": "balance", "config": {"classes": 4, "take": 60}}}
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        rows(build_data(job(data={"source": numbers(60), "pipeline": [balance, BATCH]})))
    failure = classify(caught.value)
    assert failure.code == "invalid_data"
    assert failure.message.startswith("balance: no element has the label 3")
    assert failure.message.endswith("from 0")


def test_balance_draws_classes_alike() -> None:
    rare = {"op": "filter", "function": {"component": "has_class", "config": {"classes": [1, 2]}}}
    balance = {"op": "apply", "function": {"component": "balance", "config": {
        "classes": 3, "weights": [2, 1, 1], "take": 400}}}  # fmt: skip
    pipeline = [{"op": "cache"}, SHUFFLE, balance, BATCH]
    data = build_data(job(data={"source": numbers(60), "pipeline": pipeline}))
    labels = [int(y) for _, y in rows(data)]
    assert np.bincount(labels)[0] == pytest.approx(200, abs=45)
    assert labels != [int(y) for _, y in rows(data, 1)]
    two = build_data(job(data={"source": numbers(60), "pipeline": [rare, BATCH]}))
    assert {int(y) for _, y in rows(two)} == {1, 2}


def test_images_are_varied_another_way_each_pass() -> None:
    pipeline = [
        {"op": "map", "function": "random_flip"},
        {"op": "map", "function": {"component": "random_crop", "config": {"padding": 1}}},
        {"op": "batch", "batch_size": 100},
    ]
    source = {"component": "digits", "config": {"image": True}}
    data = build_data(job(data={"source": source, "pipeline": pipeline}, training={"deterministic": True}))
    plain, _ = next(iter(build_data(job(data={"source": source, "pipeline": pipeline[-1:]})).training.dataset(0)))
    passes = [next(iter(data.training.dataset(number)))[0].numpy() for number in (0, 1, 0)]
    np.testing.assert_array_equal(passes[0], passes[2])
    assert not np.array_equal(passes[0], passes[1])
    padded = np.pad(plain, [(0, 0), (1, 1), (1, 1), (0, 0)])
    for image, original in zip(passes[0], padded, strict=True):
        flipped = np.pad(original[1:-1, 1:-1][:, ::-1], [(1, 1), (1, 1), (0, 0)])
        cuts = [one[r : r + 8, c : c + 8] for one in (original, flipped) for r in range(3) for c in range(3)]
        assert any(np.array_equal(image, cut) for cut in cuts)


def test_only_sequences_of_some_length_stay() -> None:
    between = {"component": "length_between", "config": {"minimum": 2, "maximum": 3}}
    keep = {"op": "filter", "function": between, "field": "x"}
    source = {"component": "lab/Sequences", "config": {"form": "ragged"}}
    data = build_data(job(data={"source": source, "pipeline": [keep, {"op": "ragged_batch", "batch_size": 3}]}))
    assert {len(row) for x, _ in data.training.dataset(0) for row in x.to_list()} == {2, 3}
    assert isinstance(data.element_spec[0], tf.RaggedTensorSpec)
