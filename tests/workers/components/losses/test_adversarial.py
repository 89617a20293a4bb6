"""Losses of GANs against Keras and the papers' formulas, in float64; the y and the scores of a patch, saturated."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tapeworks.errors import JobFailure
from tapeworks.spec.references import Kind
from tapeworks_workers.engine.factory.factory import build

GENERATOR = np.random.default_rng(9)
REAL = GENERATOR.integers(0, 2, 30)
SCORES = GENERATOR.normal(0, 2, 30)
LOSSES = ["wasserstein", "hinge_gan", "non_saturating_gan"]


def part(name: str, dtype: str = "float64", **config: Any) -> Any:
    return build({"component": name, "config": {"dtype": dtype, **config}}, Kind.LOSS)


def test_wasserstein_is_the_difference_of_means() -> None:
    loss, real, fake = part("wasserstein"), SCORES[:10], SCORES[10:20]
    critic = float(loss(np.ones(10), real)) + float(loss(np.zeros(10), fake))
    assert critic == pytest.approx(fake.mean() - real.mean(), abs=1e-12)
    assert float(loss(np.ones(10), fake)) == pytest.approx(-fake.mean(), abs=1e-12)


def test_hinge_is_the_papers() -> None:
    expected = np.mean([max(0, 1 - f) if real else max(0, 1 + f) for real, f in zip(REAL, SCORES, strict=True)])
    assert float(part("hinge_gan")(REAL, SCORES)) == pytest.approx(expected, abs=1e-12)
    theirs = keras.losses.Hinge(dtype="float64")
    assert float(theirs(REAL[:, None], SCORES[:, None])) == pytest.approx(expected, abs=1e-12)
    generator = part("hinge_gan", player="generator")
    assert float(generator(np.ones(30), SCORES)) == pytest.approx(-SCORES.mean(), abs=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_non_saturating_is_cross_entropy(smoothing: float) -> None:
    y = REAL * (1 - smoothing)
    theirs = keras.losses.BinaryCrossentropy(from_logits=True, dtype="float64")
    expected = float(theirs(y[:, None], SCORES[:, None]))
    assert float(part("non_saturating_gan")(y, SCORES)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_shapes_of_labels_and_scores(name: str) -> None:
    loss = part(name, reduction="none")
    flat = np.asarray(loss(REAL, SCORES))
    for y, scores in ((REAL[:, None], SCORES), (REAL, SCORES[:, None]), (REAL[:, None], SCORES[:, None])):
        np.testing.assert_array_equal(loss(y, scores), flat)
    patches = np.asarray(loss(REAL.reshape(5, 2, 3, 1), SCORES.reshape(5, 2, 3, 1)))
    np.testing.assert_array_equal(patches, flat.reshape(5, 2, 3))
    with pytest.raises(ValueError, match="does not go with"):
        loss(REAL[:5], SCORES.reshape(5, 2, 3, 1))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("size", [50.0, 1e4, 1e30])
def test_a_sure_discriminator_leaves_the_generator_its_gradient(name: str, size: float) -> None:
    """What saturates in `log(1 - p)`: fakes that are certainly fake."""
    loss = part(name, "float32", reduction="sum", **({"player": "generator"} if name == "hinge_gan" else {}))
    scores = tf.constant([-size, -size])
    with tf.GradientTape() as tape:
        tape.watch(scores)
        value = loss(tf.ones(2), scores)
    assert float(value) == pytest.approx(2 * size, rel=1e-6)
    np.testing.assert_allclose(tape.gradient(value, scores), -1.0, atol=1e-6)


def test_sure_and_right_costs_the_discriminator_nothing() -> None:
    for name in ("hinge_gan", "non_saturating_gan"):
        loss, scores = part(name, "float32"), tf.constant([1e4, -1e4])
        with tf.GradientTape() as tape:
            tape.watch(scores)
            value = loss(np.array([1, 0]), scores)
        assert float(value) == 0
        np.testing.assert_array_equal(tape.gradient(value, scores), 0)


def test_another_player_is_refused() -> None:
    with pytest.raises(JobFailure, match="player"):
        build({"component": "hinge_gan", "config": {"player": "critic"}}, Kind.LOSS)
