"""The random numbers of steps and layers: the same in every plan, and distributed as they should be."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tapeworks_workers.engine.graph.randomness import Streams, normal, philox, uniform

SEED = [7, 21]
N = 200_000


def drawn(draw: Callable[[], Any], *, compiled: bool) -> np.ndarray:
    """What a function draws in a graph, inside the pin."""

    def pinned() -> Any:
        with philox():
            return draw()

    return np.asarray(tf.function(pinned, autograph=False, jit_compile=compiled)())


DRAWS: dict[str, Callable[[], Any]] = {
    "uniform": lambda: tf.random.stateless_uniform([N], SEED),
    "uniform between": lambda: tf.random.stateless_uniform([N], SEED, -2.0, 3.0),
    "uniform float64": lambda: tf.random.stateless_uniform([N], SEED, dtype=tf.float64),
    "uniform float16": lambda: tf.cast(tf.random.stateless_uniform([N], SEED, dtype=tf.float16), tf.float32),
    "uniform bfloat16": lambda: tf.cast(tf.random.stateless_uniform([N], SEED, dtype=tf.bfloat16), tf.float32),
    "integers": lambda: tf.random.stateless_uniform([N], SEED, 0, 17, tf.int32),
    "normal": lambda: tf.random.stateless_normal([N], SEED),
    "normal float64": lambda: tf.random.stateless_normal([N], SEED, 1.0, 3.0, tf.float64),
    "truncated": lambda: tf.random.stateless_truncated_normal([N], SEED),
    "dropout": lambda: tf.nn.experimental.stateless_dropout(tf.ones([N]), 0.3, SEED),
    "dropout of rows": lambda: tf.nn.experimental.stateless_dropout(
        tf.ones([N // 4, 4]), 0.3, SEED, noise_shape=[None, 1]
    ),
    "Keras' normal": lambda: keras.random.normal([N], seed=5),
    "Keras' gamma of uniforms": lambda: keras.random.uniform([N], seed=5),
    "Keras' integers": lambda: keras.random.randint([N], 0, 17, seed=5),
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_compiled_graph_draws_the_same(name: str) -> None:
    plain, compiled = (drawn(DRAWS[name], compiled=one) for one in (False, True))
    if "normal" in name or "truncated" in name:
        np.testing.assert_allclose(plain, compiled, rtol=1e-4, atol=1e-5)
    else:
        np.testing.assert_array_equal(plain, compiled)


TENSORFLOWS = ("uniform", "uniform between", "uniform float64", "uniform float16", "normal", "normal float64")


@pytest.mark.parametrize("name", [*TENSORFLOWS, "dropout", "integers"])
def test_the_numbers_are_tensorflows_own(name: str) -> None:
    """So that a job draws what `fit` with the same seeds would."""
    ours = drawn(DRAWS[name], compiled=False)
    np.testing.assert_allclose(ours, np.asarray(DRAWS[name]()), rtol=1e-4, atol=1e-5)


def largest_gap(sample: np.ndarray, distribution: Callable[[np.ndarray], np.ndarray]) -> float:
    """Kolmogorov and Smirnov's statistic, times √n: above 2.2 one time in ten thousand."""
    ordered = np.sort(sample.astype("float64"))
    expected = distribution(ordered)
    steps = np.arange(len(ordered) + 1) / len(ordered)
    return float(np.sqrt(len(ordered)) * max((steps[1:] - expected).max(), (expected - steps[:-1]).max()))


def phi(x: np.ndarray) -> np.ndarray:
    return np.array([0.5 * (1 + math.erf(value / math.sqrt(2))) for value in x])


DISTRIBUTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "uniform": lambda x: x,
    "uniform between": lambda x: (x + 2) / 5,
    "uniform float64": lambda x: x,
    "normal": phi,
    "normal float64": lambda x: phi((x - 1) / 3),
    "truncated": lambda x: (phi(x) - phi(np.array([-2.0]))) / (phi(np.array([2.0])) - phi(np.array([-2.0]))),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_numbers_are_distributed_as_they_should_be(name: str) -> None:
    sample = drawn(DRAWS[name], compiled=False)
    assert np.isfinite(sample).all()
    assert largest_gap(sample, DISTRIBUTIONS[name]) < 2.2


def test_narrow_floats_stay_below_one() -> None:
    for name, levels in (("uniform float16", 1024), ("uniform bfloat16", 128)):
        sample = drawn(DRAWS[name], compiled=False)
        assert sample.min() == 0.0
        assert sample.max() == 1.0 - 1.0 / levels
        assert len(np.unique(sample)) == levels


def test_dropout_keeps_what_it_should_and_scales_it() -> None:
    kept = drawn(DRAWS["dropout"], compiled=False)
    np.testing.assert_allclose(np.unique(kept), [0.0, 1.0 / 0.7], rtol=1e-6)
    assert abs((kept > 0).mean() - 0.7) < 4 * math.sqrt(0.21 / N)
    rows = drawn(DRAWS["dropout of rows"], compiled=False)
    assert ((rows == 0).all(axis=1) | (rows > 0).all(axis=1)).all()


def test_truncated_numbers_lie_within_two_deviations() -> None:
    sample = drawn(DRAWS["truncated"], compiled=False)
    assert np.abs(sample).max() <= 2.0


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64, tf.float16, tf.bfloat16])
def test_a_stream_gives_the_same_floats_in_every_plan(dtype: tf.DType) -> None:
    def draw(compiled: bool) -> list[np.ndarray]:
        streams = Streams(3)

        @tf.function(autograph=False, jit_compile=compiled)
        def two() -> Any:
            flat = uniform(streams.bits, [1000], 0, None, dtype), normal(streams.bits, [1000], 0.0, 1.0, dtype)
            return [tf.cast(one, tf.float64) for one in flat]

        return [one.numpy() for _ in range(2) for one in two()]

    plain, compiled = draw(False), draw(True)
    for index, (one, other) in enumerate(zip(plain, compiled, strict=True)):
        np.testing.assert_allclose(one, other, rtol=0 if index % 2 == 0 else 1e-2, atol=1e-5)
    assert (plain[0] != plain[2]).any(), "the stream goes on"
