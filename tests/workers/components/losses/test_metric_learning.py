"""Triplet, contrastive and NT-Xent losses against loops over their papers' sums, in float64, and at their edges."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tapeworks.errors import JobFailure
from tapeworks.spec.references import Kind
from tapeworks_workers.engine.factory.factory import build

GENERATOR = np.random.default_rng(3)
LABELS = GENERATOR.integers(0, 4, 21)
EMBEDDINGS = GENERATOR.normal(size=(21, 5))
MININGS, DISTANCES = ["semi_hard", "hard", "all"], ["euclidean", "squared", "cosine"]


def part(name: str, dtype: str = "float64", **config: Any) -> Any:
    return build({"component": name, "config": {"dtype": dtype, **config}}, Kind.LOSS)


def value_and_gradient(loss: Any, y: Any, outputs: Any) -> tuple[float, Any]:
    outputs = tf.constant(outputs)
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        value = loss(y, outputs)
    return float(value), np.asarray(tape.gradient(value, outputs))


def between(a: Any, b: Any, distance: str) -> float:
    if distance == "cosine":
        return 1 - float(a @ b) / (np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.sum((a - b) ** 2)) ** (1.0 if distance == "squared" else 0.5)


def triplet(y: Any, x: Any, margin: float, mining: str, distance: str) -> float:
    """The papers' sums as loops."""
    size, costs = len(y), []
    d = [[between(x[i], x[j], distance) for j in range(size)] for i in range(size)]
    for a in range(size):
        positives = [i for i in range(size) if i != a and y[i] == y[a]]
        negatives = [d[a][i] for i in range(size) if y[i] != y[a]]
        if not positives or not negatives:
            continue
        if mining == "hard":
            costs.append(max(0.0, margin + max(d[a][p] for p in positives) - min(negatives)))
            continue
        for p in positives:
            if mining == "all":
                costs += [max(0.0, margin + d[a][p] - n) for n in negatives]
            else:
                farther = [n for n in negatives if n > d[a][p]]
                costs.append(max(0.0, margin + d[a][p] - (min(farther) if farther else max(negatives))))
    return float(np.mean(costs)) if costs else 0.0


# ── triplet ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mining", MININGS)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("margin", [0.0, 0.2, 1.0, 30.0])
def test_triplet_is_the_papers_sum(mining: str, distance: str, margin: float) -> None:
    loss = part("triplet", margin=margin, mining=mining, distance=distance)
    expected = triplet(LABELS, EMBEDDINGS, margin, mining, distance)
    assert float(loss(LABELS, EMBEDDINGS)) == pytest.approx(expected, abs=1e-6)
    assert float(loss(LABELS[:, None], EMBEDDINGS)) == pytest.approx(expected, abs=1e-6)
    lonely = np.where(np.arange(21) == 4, 99, LABELS)  # an anchor without positives
    expected = triplet(lonely, EMBEDDINGS, margin, mining, distance)
    assert float(loss(lonely, EMBEDDINGS)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("mining", MININGS)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("labels", [[2, 2, 2, 2], [0, 1, 2, 3], [5]])
def test_triplet_of_a_batch_without_triplets_is_0(mining: str, distance: str, labels: list[int]) -> None:
    loss = part("triplet", mining=mining, distance=distance)
    value, gradient = value_and_gradient(loss, np.array(labels), EMBEDDINGS[: len(labels)])
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.slow
@pytest.mark.parametrize("mining", MININGS)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [0.0, 1e-20, 1e-13, 1.0])
def test_triplet_of_equal_embeddings_costs_the_margin(mining: str, distance: str, dtype: str, size: float) -> None:
    loss = part("triplet", dtype, mining=mining, distance=distance, margin=0.3)
    value, gradient = value_and_gradient(loss, LABELS, np.full((21, 5), size, dtype))
    assert value == pytest.approx(0.3)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_triplet_keeps_small_distances_far_from_the_origin() -> None:
    """In a Gram matrix of float32, distances of 0.01 at 1000 from the origin are lost."""
    near = (EMBEDDINGS * 2.0**-7 + 1024.0).astype("float32")
    expected = triplet(LABELS, near.astype("float64"), 0.01, "hard", "euclidean")
    assert float(part("triplet", "float32", margin=0.01, mining="hard")(LABELS, near)) == pytest.approx(expected, 1e-5)


def test_triplet_separates_classes() -> None:
    x, y = tf.Variable(EMBEDDINGS), LABELS
    loss, optimizer = part("triplet", distance="cosine", margin=0.5), keras.optimizers.SGD(1.0)
    before = float(loss(y, x))
    for _ in range(60):
        with tf.GradientTape() as tape:
            value = loss(y, x)
        optimizer.apply([tape.gradient(value, x)], [x])
    assert float(loss(y, x)) < 0.5 * before


# ── contrastive ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("margin", [0.5, 2.0, 5.0])
def test_contrastive_is_the_papers_sum(margin: float) -> None:
    pairs, together = GENERATOR.normal(size=(17, 2, 5)), GENERATOR.integers(0, 2, 17)
    costs, distances = [], []
    for (a, b), same in zip(pairs, together, strict=True):
        distances.append(float(np.linalg.norm(a - b)))
        costs.append(0.5 * (distances[-1] ** 2 if same else max(0.0, margin - distances[-1]) ** 2))
    loss = part("contrastive", margin=margin)
    assert float(loss(together, pairs)) == pytest.approx(np.mean(costs), abs=1e-6)
    for y in (together, together[:, None]):
        assert float(loss(y, np.array(distances))) == pytest.approx(np.mean(costs), abs=1e-6)
        assert float(loss(y, np.array(distances)[:, None])) == pytest.approx(np.mean(costs), abs=1e-6)


@pytest.mark.parametrize(("together", "expected"), [(1, 0.0), (0, 0.5 * 1.5**2)])
def test_contrastive_of_equal_embeddings_has_no_direction(together: int, expected: float) -> None:
    pairs = np.repeat(EMBEDDINGS[:, None], 2, axis=1)
    value, gradient = value_and_gradient(part("contrastive", margin=1.5), np.full(21, together), pairs)
    assert value == pytest.approx(expected, abs=1e-12)
    np.testing.assert_array_equal(gradient, 0)


# ── nt_xent ──────────────────────────────────────────────────────────────────────────────────────


def nt_xent(y: Any, x: Any, temperature: float) -> float:
    """Equation 1 of Chen et al. for each positive, averaged over an anchor's positives, then over anchors."""
    size, anchors = len(y), []
    s = [[1 - between(x[i], x[j], "cosine") for j in range(size)] for i in range(size)]
    for a in range(size):
        below = sum(np.exp(s[a][k] / temperature) for k in range(size) if k != a)
        costs = [-np.log(np.exp(s[a][p] / temperature) / below) for p in range(size) if p != a and y[p] == y[a]]
        if costs:
            anchors.append(np.mean(costs))
    return float(np.mean(anchors)) if anchors else 0.0


@pytest.mark.parametrize("temperature", [0.05, 0.5, 2.0])
def test_nt_xent_is_the_papers_sum(temperature: float) -> None:
    loss, views = part("nt_xent", temperature=temperature), np.tile(np.arange(10), 2)
    for y in (views, LABELS[:20], np.where(np.arange(20) == 4, 99, LABELS[:20])):
        expected = nt_xent(y, EMBEDDINGS[:20], temperature)
        assert float(loss(y, EMBEDDINGS[:20])) == pytest.approx(expected, abs=1e-6)


def test_nt_xent_of_two_views_is_cross_entropy_over_the_others() -> None:
    unit = EMBEDDINGS[:20] / np.linalg.norm(EMBEDDINGS[:20], axis=-1, keepdims=True)
    logits = np.where(np.eye(20, dtype=bool), -np.inf, unit @ unit.T / 0.5)
    theirs = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")
    expected = float(theirs((np.arange(20) + 10) % 20, logits))
    assert float(part("nt_xent")(np.tile(np.arange(10), 2), EMBEDDINGS[:20])) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [5]])
def test_nt_xent_without_positives_is_0(labels: list[int]) -> None:
    value, gradient = value_and_gradient(part("nt_xent"), np.array(labels), EMBEDDINGS[: len(labels)])
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("labels", [LABELS, np.zeros(21, int)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [0.0, 1e-20, 1e-13, 1.0, 1e15])
def test_nt_xent_of_equal_embeddings_is_the_log_of_their_number(labels: Any, dtype: str, size: float) -> None:
    loss = part("nt_xent", dtype, temperature=0.01)
    value, gradient = value_and_gradient(loss, labels, np.full((21, 5), size, dtype))
    assert value == pytest.approx(np.log(20), rel=1e-5)
    np.testing.assert_allclose(gradient, 0, atol=1e-4)


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("triplet", {"margin": -1.0}, "margin must be 0 or more, not -1"),
        ("triplet", {"mining": "soft"}, "mining"),
        ("triplet", {"distance": "manhattan"}, "distance"),
        ("contrastive", {"margin": 0.0}, "margin must be positive"),
        ("nt_xent", {"temperature": 0.0}, "temperature must be positive"),
    ],
)
def test_config_out_of_range_is_refused(name: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(JobFailure, match=message):
        build({"component": name, "config": config}, Kind.LOSS)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("triplet", (3,), "triplet needs embeddings of shape"),
        ("nt_xent", (3, 2, 4), "nt_xent needs embeddings of shape"),
        ("contrastive", (3, 4), "contrastive needs pairs"),
        ("contrastive", (3, 3, 4), "contrastive needs pairs"),
    ],
)
def test_outputs_of_another_shape_are_refused(name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        part(name)(np.zeros(3), np.zeros(shape))
