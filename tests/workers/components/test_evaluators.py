"""Built-in evaluators against brute force, SciPy and scikit-learn, over batches of any size."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge

from tapeworks.spec.references import Kind
from tapeworks_workers.engine.factory.factory import build

RANDOM = np.random.RandomState(11)
X = RANDOM.normal(size=(53, 5)).astype("float32")
Y = RANDOM.randint(0, 4, size=53)
Y[7] = 9  # the only one of its class
WEIGHTS = RANDOM.normal(size=(5, 3)).astype("float32")


def batches(x: Any, y: Any, size: int = 8) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(size)


def run_of(model: Any = None, training: tf.data.Dataset | None = None) -> Any:
    embed = model or (lambda x, training: tf.matmul(x, WEIGHTS))
    return SimpleNamespace(models={"model": embed}, datasets={"training": training})


def evaluated(name: str, dataset: tf.data.Dataset, run: Any, **config: Any) -> dict[str, float]:
    return build({"component": name, "config": config}, Kind.EVALUATOR).evaluate(dataset, run)


def brute_recall(queries: Any, labels: Any, gallery: Any, others: Any, k: int, *, cosine: bool, within: bool) -> float:
    hits = []
    for i, query in enumerate(queries):
        candidates = []
        for j, other in enumerate(gallery):
            if within and i == j:
                continue
            if cosine:
                apart = 1 - query @ other / np.linalg.norm(query) / np.linalg.norm(other)
            else:
                apart = np.linalg.norm(query - other)
            candidates.append((apart, others[j]))
        if labels[i] in [label for _, label in candidates]:
            nearest = sorted(candidates, key=lambda pair: pair[0])[:k]
            hits.append(labels[i] in [label for _, label in nearest])
    return float(np.mean(hits))


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("gallery", ["self", "training"])
def test_gallery_recall_is_what_brute_force_finds(distance: Any, gallery: Any) -> None:
    embedded = (X @ WEIGHTS).astype("float64")
    other_x, other_y = X[::-1][:40] + np.float32(0.1), Y[::-1][:40]
    training = batches(other_x, other_y, 7)
    config = {"k": [1, 3, 8], "distance": distance, "gallery": gallery}
    found = evaluated("gallery_recall", batches(X, Y), run_of(training=training), **config)
    others = (embedded, Y) if gallery == "self" else ((other_x @ WEIGHTS).astype("float64"), other_y)
    for k in (1, 3, 8):
        options = {"cosine": distance == "cosine", "within": gallery == "self"}
        expected = brute_recall(embedded, Y, *others, k, **options)
        assert found[f"gallery_recall_{k}"] == pytest.approx(expected, abs=1e-12)


def test_gallery_recall_of_more_than_a_block_in_any_batches() -> None:
    x = RANDOM.normal(size=(1500, 2)).astype("float32")
    y = RANDOM.randint(0, 40, size=1500).astype(str)
    run = run_of(lambda x, training: x)
    values = [evaluated("gallery_recall", batches(x, y[:, None], size), run)["gallery_recall_1"] for size in (64, 1500)]
    assert values[0] == values[1]
    unit = x.astype("float64") / np.linalg.norm(x.astype("float64"), axis=1, keepdims=True)
    likeness = unit @ unit.T
    np.fill_diagonal(likeness, -np.inf)
    assert values[0] == pytest.approx(np.mean(y[likeness.argmax(axis=1)] == y), abs=1e-12)


def test_gallery_recall_says_what_it_cannot_do() -> None:
    for config, x, says in (
        ({"k": [53]}, X, "k is 53, and the gallery has only 52 examples"),
        ({}, X.reshape(53, 5, 1), "needs embeddings"),
    ):
        with pytest.raises(ValueError, match=says):
            evaluated("gallery_recall", batches(x, Y), run_of(lambda x, training: x), **config)


def test_rank_correlation_is_spearmans() -> None:
    wanted = np.round(X @ RANDOM.normal(size=5) + RANDOM.normal(size=53), 0)  # with ties
    run = run_of(lambda x, training: tf.round(x[:, 0] * 3))
    found = evaluated("rank_correlation", batches(X, wanted), run)
    expected = spearmanr(np.round(X[:, 0] * np.float32(3)), wanted).statistic
    assert found["rank_correlation"] == pytest.approx(expected, abs=1e-12)
    two = np.stack([wanted, X[:, 1] ** 3], axis=1)
    found = evaluated("rank_correlation", batches(X, two), run_of(lambda x, training: x[:, :2]))
    expected = np.mean([spearmanr(X[:, i], two[:, i]).statistic for i in range(2)])
    assert found["rank_correlation"] == pytest.approx(expected, abs=1e-12)
    constant = evaluated("rank_correlation", batches(X, wanted), run_of(lambda x, training: 0 * x[:, 0]))
    assert constant == {"rank_correlation": 0.0}


def test_linear_probe_is_ridge_regression() -> None:
    other = RANDOM.normal(size=(30, 5)).astype("float32")
    labels = RANDOM.randint(0, 4, size=30)
    embedded = (X @ WEIGHTS).astype("float64")
    classes = np.unique(Y)
    alpha = 0.05 * embedded.var(axis=0).mean() * len(X)
    ridge = Ridge(alpha=alpha).fit(embedded, Y[:, None] == classes)
    expected = np.mean(classes[ridge.predict((other @ WEIGHTS).astype("float64")).argmax(axis=1)] == labels)
    for size in (8, 53):
        run = run_of(training=batches(X, Y, size))
        found = evaluated("linear_probe", batches(other, labels), run, l2=0.05)
        assert found == {"linear_probe_accuracy": pytest.approx(expected, abs=1e-12)}


def test_linear_probe_of_an_endless_split_needs_a_number() -> None:
    run = run_of(training=batches(X, Y).repeat())
    with pytest.raises(ValueError, match="endless"):
        evaluated("linear_probe", batches(X, Y), run)
    assert evaluated("linear_probe", batches(X, Y), run, take=7)["linear_probe_accuracy"] > 0.25
