"""Dice, Tversky and Wing losses against Keras and the papers' formulas, in float64, and at their edges."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tapeworks.errors import JobFailure
from tapeworks.spec.references import Kind
from tapeworks_workers.engine.factory.factory import build

GENERATOR = np.random.default_rng(5)
MASKS = GENERATOR.integers(0, 2, (4, 3, 5, 1)).astype("float64")
P = GENERATOR.uniform(0.05, 0.95, (4, 3, 5, 1))
CLASS_MASKS = GENERATOR.integers(0, 3, (4, 3, 5))
CLASS_P = GENERATOR.dirichlet(np.ones(3), (4, 3, 5))


def part(name: str, dtype: str = "float64", **config: Any) -> Any:
    return build({"component": name, "config": {"dtype": dtype, **config}}, Kind.LOSS)


def logit(p: Any) -> Any:
    return np.log(p) - np.log1p(-p)


def tversky(y: Any, p: Any, alpha: float, beta: float, smooth: float) -> float:
    """The paper's index for each example and class of `(n, …, classes)`, word for word."""
    values = []
    for example in range(len(y)):
        for k in range(y.shape[-1]):
            truth, guess = y[example, ..., k].ravel(), p[example, ..., k].ravel()
            hits = sum(t * g for t, g in zip(truth, guess, strict=True))
            false_positives = sum((1 - t) * g for t, g in zip(truth, guess, strict=True))
            false_negatives = sum(t * (1 - g) for t, g in zip(truth, guess, strict=True))
            below = hits + alpha * false_positives + beta * false_negatives + smooth
            values.append(1 - (hits + smooth) / below)
    return float(np.mean(values))


@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_dice_is_the_formula(smooth: float) -> None:
    expected = tversky(MASKS, P, 0.5, 0.5, smooth / 2)
    for y in (MASKS, MASKS[..., 0]):
        assert float(part("dice", smooth=smooth)(y, logit(P))) == pytest.approx(expected, abs=1e-6)
        assert float(part("dice", smooth=smooth, from_logits=False)(y, P)) == pytest.approx(expected, abs=1e-6)
    expected = tversky(np.eye(3)[CLASS_MASKS], CLASS_P, 0.5, 0.5, smooth / 2)
    for y in (CLASS_MASKS, CLASS_MASKS[..., None], np.eye(3)[CLASS_MASKS]):
        assert float(part("dice", smooth=smooth)(y, np.log(CLASS_P))) == pytest.approx(expected, abs=1e-6)
        assert float(part("dice", smooth=smooth, from_logits=False)(y, CLASS_P)) == pytest.approx(expected, abs=1e-6)


def test_dice_is_keras_own() -> None:
    theirs = keras.losses.Dice(axis=(1, 2, 3), dtype="float64")
    ours = part("dice", smooth=0.0, from_logits=False)
    assert float(ours(MASKS, P)) == pytest.approx(float(theirs(MASKS, P)), abs=1e-6)


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.7), (1.0, 1.0), (0.0, 0.4)])
@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_tversky_is_the_formula(alpha: float, beta: float, smooth: float) -> None:
    config = {"alpha": alpha, "beta": beta, "smooth": smooth}
    expected = tversky(MASKS, P, alpha, beta, smooth)
    assert float(part("tversky", **config)(MASKS, logit(P))) == pytest.approx(expected, abs=1e-6)
    expected = tversky(np.eye(3)[CLASS_MASKS], CLASS_P, alpha, beta, smooth)
    assert float(part("tversky", **config)(CLASS_MASKS, np.log(CLASS_P))) == pytest.approx(expected, abs=1e-6)


def test_tversky_is_keras_own_with_alpha_and_beta_the_papers_way() -> None:
    theirs = keras.losses.Tversky(alpha=0.7, beta=0.3, axis=(1, 2, 3), dtype="float64")
    ours = part("tversky", alpha=0.3, beta=0.7, smooth=0.0, from_logits=False)
    assert float(ours(MASKS, P)) == pytest.approx(float(theirs(MASKS, P)), abs=1e-6)
    wrong = np.ones_like(MASKS)
    assert float(ours(0 * wrong + MASKS, wrong)) < float(ours(MASKS, 0.05 * wrong)), "misses cost more than alarms"


@pytest.mark.parametrize("name", ["dice", "tversky"])
@pytest.mark.parametrize("smooth", [0.0, 1.0])
@pytest.mark.parametrize("size", [1.0, 1e4, 1e30])
def test_empty_masks_and_saturated_logits_stay_finite(name: str, smooth: float, size: float) -> None:
    loss = part(name, "float32", smooth=smooth)
    for y in (np.zeros((2, 3, 3, 1)), np.ones((2, 3, 3, 1))):
        for logits in (np.full((2, 3, 3, 1), size, "float32"), np.full((2, 3, 3, 1), -size, "float32")):
            outputs = tf.constant(logits)
            with tf.GradientTape() as tape:
                tape.watch(outputs)
                value = loss(y, outputs)
            assert 0 <= float(value) <= 1
            assert np.isfinite(tape.gradient(value, outputs)).all()
            if size > 1 and y[0, 0, 0, 0] == (logits[0, 0, 0, 0] > 0):
                assert float(value) == 0


@pytest.mark.parametrize("name", ["dice", "tversky"])
def test_class_scores_without_positions(name: str) -> None:
    """Outputs (n, classes), as of a classifier."""
    flat = np.log(CLASS_P[:, 0, 0])
    assert np.asarray(part(name, reduction="none")(CLASS_MASKS[:, 0, 0], flat)).shape == (4,)
    assert np.isfinite(float(part(name)(CLASS_MASKS[:, 0, 0], flat)))


def wing(error: float, w: float, epsilon: float) -> float:
    offset = w - w * np.log(1 + w / epsilon)
    return w * np.log(1 + abs(error) / epsilon) if abs(error) < w else abs(error) - offset


@pytest.mark.parametrize(("w", "epsilon"), [(10.0, 2.0), (0.5, 0.01)])
def test_wing_is_the_formula(w: float, epsilon: float) -> None:
    y, outputs = GENERATOR.normal(0, 10, (7, 6)), GENERATOR.normal(0, 10, (7, 6))
    expected = np.mean([wing(error, w, epsilon) for error in np.ravel(y - outputs)])
    assert float(part("wing", w=w, epsilon=epsilon)(y, outputs)) == pytest.approx(expected, abs=1e-6)
    for target in (y[:, 0], y[:, :1]):
        for guess in (outputs[:, 0], outputs[:, :1]):
            expected = np.mean([wing(error, w, epsilon) for error in y[:, 0] - outputs[:, 0]])
            assert float(part("wing", w=w, epsilon=epsilon)(target, guess)) == pytest.approx(expected, abs=1e-6)


def test_wing_is_continuous_and_flat_at_0() -> None:
    loss, below, above = part("wing"), np.array([[10.0 - 1e-9]]), np.array([[10.0]])
    assert float(loss([[0.0]], below)) == pytest.approx(float(loss([[0.0]], above)), abs=1e-8)
    outputs = tf.zeros([3, 2], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        value = loss(np.zeros((3, 2)), outputs)
    np.testing.assert_array_equal(tape.gradient(value, outputs), 0)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("dice", {"smooth": -1.0}, "smooth must be 0 or more"),
        ("tversky", {"beta": -1.0}, "alpha, beta and smooth must be 0 or more"),
        ("wing", {"epsilon": 0.0}, "w and epsilon must be positive"),
    ],
)
def test_config_out_of_range_is_refused(name: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(JobFailure, match=message):
        build({"component": name, "config": config}, Kind.LOSS)


def test_shapes_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ValueError, match=r"outputs must be \(n, …, classes\)"):
        part("dice")(np.zeros(3), np.zeros(3))
    with pytest.raises(ValueError, match="does not go with outputs"):
        part("wing")(np.zeros(3), np.zeros((3, 6)))
