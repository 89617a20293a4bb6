"""The evaluator `frechet_distance`, against SciPy's matrix root and known distances."""

from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import scipy.linalg
import tensorflow as tf

from tapeworks.spec.references import Kind
from tapeworks_workers.components.evaluators.frechet_distance import frechet, moments
from tapeworks_workers.engine.factory.factory import build

GENERATOR = np.random.default_rng(0)


def evaluator(**config: Any) -> Any:
    return build({"component": "frechet_distance", "config": {"latent_dim": 3, **config}}, Kind.EVALUATOR)


def run(**models: Any) -> Any:
    return SimpleNamespace(models=models)


def scaling(scale: float, shift: float = 0.0, *, outputs: int = 3) -> keras.Model:
    """Maps standard normal noise to N(shift, scale²)."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(outputs, name="only")])
    model.set_weights([scale * np.eye(3, outputs), np.full(outputs, shift)])
    return model


def split(x: Any, size: int = 70) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((x, np.zeros(len(x)))).batch(size)


@pytest.mark.parametrize("rank", [5, 2])
def test_the_formula_is_the_papers(rank: int) -> None:
    """Also where the covariances are singular."""
    first, second = (GENERATOR.normal(size=(40, rank)) @ GENERATOR.normal(size=(rank, 5)) + i for i in range(2))
    (mean, covariance), (other_mean, other) = moments([first]), moments([second])
    root = scipy.linalg.sqrtm(covariance @ other + 1e-14 * np.eye(5)).real
    expected = ((mean - other_mean) ** 2).sum() + np.trace(covariance + other - 2 * root)
    assert frechet(mean, covariance, other_mean, other) == pytest.approx(expected, abs=1e-5)
    assert frechet(mean, covariance, mean, covariance) == pytest.approx(0, abs=1e-6)


def test_moments_do_not_depend_on_the_batches() -> None:
    rows = GENERATOR.normal(size=(101, 4)) + 1e6
    mean, covariance = moments(rows[start : start + 20] for start in range(0, 101, 20))
    np.testing.assert_allclose(mean, rows.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(covariance, np.cov(rows.T), rtol=1e-9, atol=1e-9)


def test_it_is_the_distance_of_two_normal_distributions() -> None:
    """N(0, 4) against N(1, 9) in three dimensions: 3 · (1² + (2 - 3)²)."""
    x = 2 * GENERATOR.normal(size=(20_000, 3)).astype("float32")
    found = evaluator(samples=20_000).evaluate(split(x, 1000), run(generator=scaling(3.0, 1.0)))
    assert found["frechet_distance"] == pytest.approx(6.0, rel=0.05)


def test_features_of_a_layer_are_compared_and_noise_is_its_own() -> None:
    """What the layer drops does not count; two evaluations are the same number."""
    x = GENERATOR.normal(size=(500, 3)).astype("float32") * [1, 1, 50]
    judge = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="only"), keras.layers.Dense(1)])
    judge.get_layer("only").set_weights(scaling(1.0, outputs=2).get_weights())
    models = run(generator=scaling(1.0), judge=judge)
    measure = evaluator(features="judge", until="only", samples=500)
    first = measure.evaluate(split(x), models)
    assert first == measure.evaluate(split(x), models)
    assert first["frechet_distance"] < 0.1
    assert evaluator(samples=500).evaluate(split(x), models)["frechet_distance"] > 1000


@pytest.mark.parametrize(
    ("config", "size", "message"),
    [({}, 1, "two examples"), ({"role": "narrow"}, 9, "'narrow' gives 2 numbers"), ({"samples": 1}, 9, "samples"),
     ({"until": "only"}, 9, "features names no model"), ({"features": "narrow", "until": "no"}, 9, "No such layer")],
)  # fmt: skip
def test_what_does_not_fit_is_told(config: dict[str, Any], size: int, message: str) -> None:
    x = GENERATOR.normal(size=(size, 3)).astype("float32")
    with pytest.raises(Exception, match=message):
        evaluator(**config).evaluate(split(x), run(generator=scaling(1.0), narrow=scaling(1.0, outputs=2)))
