"""The built-in gradient transforms against NumPy in float64, for dense gradients and tf.IndexedSlices alike."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tapeworks.errors import JobFailure
from tapeworks.spec.parsing import parse_spec
from tapeworks.spec.references import Kind
from tapeworks_workers.engine.checkpoints.snapshot import read_values, write_values
from tapeworks_workers.engine.factory.factory import build
from tapeworks_workers.engine.graph.randomness import Streams
from tapeworks_workers.engine.step.assembly import Assembly, assemble
from tapeworks_workers.engine.step.compiled_step import compile_train_step
from tapeworks_workers.engine.step.state import restore, snapshot

GENERATOR = np.random.default_rng(0)
SHAPES = [(5, 3), (4,), (3, 3, 2, 4), ()]


def transform(component: str, **config: Any) -> Any:
    return build({"component": component, "config": config}, Kind.GRADIENT_TRANSFORM)


def normal(*shape: int) -> np.ndarray:
    return GENERATOR.normal(size=shape)


def variable(value: Any) -> keras.Variable:
    return keras.Variable(value, dtype="float64")


def slices() -> tuple[tf.IndexedSlices, np.ndarray]:
    """A gradient of shape (5, 3) that gives row 2 twice and rows 1 and 4 never, and the same made dense."""
    rows, values = np.array([2, 0, 2, 3]), normal(4, 3)
    dense = np.zeros((5, 3))
    np.add.at(dense, rows, values)
    return tf.IndexedSlices(tf.constant(values), tf.constant(rows), tf.constant([5, 3], tf.int64)), dense


def engine(seed: int = 1, step: int = 0) -> Any:
    """The parts of `run` that transforms use: the engine's own random stream, and a step counter."""
    stream = Streams(seed).current
    return SimpleNamespace(
        step=tf.constant(step, tf.int64),
        random_normal=lambda shape, mean=0.0, stddev=1.0, dtype=None: stream.normal(shape, mean, stddev, dtype),
    )


def apply(one: Any, gradients: list[Any], variables: list[Any], run: Any = None) -> list[Any]:
    """Traced, as in a step."""
    run = run or engine()
    traced = tf.function(lambda: list(one(gradients, variables, run)), autograph=False)
    return list(traced())


def agree(one: Any, expected: Any, *, sparse: bool) -> None:
    """Every shape of dense gradient, and slices, against `expected(gradient, weights)`."""
    weights = [normal(*shape) for shape in SHAPES] + [normal(5, 3)]
    gradients = [normal(*shape) for shape in SHAPES]
    given, dense = slices()
    results = apply(one, [*map(tf.constant, gradients), given], [variable(value) for value in weights])
    for result, gradient, weight in zip(results, [*gradients, dense], weights, strict=True):
        assert result.dtype == tf.float64
        np.testing.assert_allclose(tf.convert_to_tensor(result), expected(gradient, weight), rtol=0, atol=1e-12)
    assert isinstance(results[-1], tf.IndexedSlices) is sparse


def unit_norms(value: np.ndarray) -> Any:
    return np.sqrt(np.sum(value**2, axis=tuple(range(max(value.ndim - 1, 0))) or None, keepdims=value.ndim > 1))


# ── values ───────────────────────────────────────────────────────────────────────────────────────


def test_clip_by_value() -> None:
    agree(transform("clip_by_value", min=-0.3, max=0.5), lambda g, w: np.clip(g, -0.3, 0.5), sparse=True)


@pytest.mark.parametrize("max_norm", [0.7, 1e6])
def test_clip_by_norm(max_norm: float) -> None:
    def expected(g: np.ndarray, w: np.ndarray) -> np.ndarray:
        return np.asarray(g * min(1, max_norm / np.linalg.norm(g)))

    agree(transform("clip_by_norm", max_norm=max_norm), expected, sparse=True)


@pytest.mark.parametrize(("clipping", "epsilon"), [(0.01, 1e-3), (0.8, 1.5), (100.0, 1e-3)])
def test_adaptive_clip(clipping: float, epsilon: float) -> None:
    def expected(g: np.ndarray, w: np.ndarray) -> np.ndarray:
        limit = clipping * np.maximum(unit_norms(w), epsilon)
        return np.asarray(np.where(unit_norms(g) > limit, g * limit / unit_norms(g), g))

    agree(transform("adaptive_clip", clipping=clipping, epsilon=epsilon), expected, sparse=True)


def test_centralize() -> None:
    def expected(g: np.ndarray, w: np.ndarray) -> np.ndarray:
        return g - g.mean(axis=tuple(range(g.ndim - 1)), keepdims=True) if g.ndim > 1 else g

    agree(transform("centralize"), expected, sparse=False)


@pytest.mark.parametrize("max_norm", [0.7, 1e6])
def test_clip_by_global_norm_adds_repeated_rows_up_first(max_norm: float) -> None:
    given, dense = slices()
    other = normal(4)
    one = transform("clip_by_global_norm", max_norm=max_norm)
    results = apply(one, [given, tf.constant(other)], [variable(dense), variable(other)])
    factor = min(1, max_norm / np.sqrt((dense**2).sum() + (other**2).sum()))
    assert isinstance(results[0], tf.IndexedSlices)
    np.testing.assert_allclose(tf.convert_to_tensor(results[0]), dense * factor, rtol=0, atol=1e-12)
    np.testing.assert_allclose(results[1], other * factor, rtol=0, atol=1e-12)


def test_gradient_norm_changes_nothing_and_records_mean_and_largest() -> None:
    given, dense = slices()
    gradients = [tf.constant(normal(4)), given]
    one = transform("gradient_norm", name="size")
    norms = []
    for factor in (1.0, 3.0, 2.0):
        scaled = [gradients[0] * factor, tf.IndexedSlices(given.values * factor, given.indices, given.dense_shape)]
        results = apply(one, scaled, [variable(normal(4)), variable(dense)])
        np.testing.assert_array_equal(results[0], scaled[0])
        np.testing.assert_array_equal(results[1].values, scaled[1].values)
        norms.append(factor * np.sqrt((dense**2).sum() + float(tf.reduce_sum(gradients[0] ** 2))))
    mean, largest = one.metrics
    assert (mean.name, largest.name) == ("size", "size_max")
    assert float(mean.result()) == pytest.approx(np.mean(norms), rel=1e-6)
    assert float(largest.result()) == pytest.approx(np.max(norms), rel=1e-6)
    largest.reset_state()
    assert float(largest.result()) == 0


def test_clip_by_norm_agrees_with_tensorflow() -> None:
    gradient = tf.constant(normal(5, 3))
    (ours,) = apply(transform("clip_by_norm", max_norm=1.0), [gradient], [variable(normal(5, 3))])
    np.testing.assert_allclose(ours, tf.clip_by_norm(gradient, 1.0), rtol=0, atol=1e-12)


def test_zero_gradients_stay_zero_and_broken_ones_are_seen() -> None:
    weights = [variable(normal(5, 3))]
    for one in (
        transform("clip_by_norm", max_norm=1.0),
        transform("adaptive_clip"),
        transform("clip_by_value", min=-1, max=1),
        transform("centralize"),
    ):
        (result,) = apply(one, [tf.zeros([5, 3], tf.float64)], weights)
        np.testing.assert_array_equal(result, np.zeros((5, 3)))
        (result,) = apply(one, [tf.constant(np.full((5, 3), np.nan))], weights)
        assert np.isnan(result).all()
    for one in (transform("clip_by_norm", max_norm=1.0), transform("adaptive_clip")):
        (result,) = apply(one, [tf.constant(np.full((5, 3), np.inf))], weights)
        assert np.isnan(result).all()


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("clip_by_value", {"min": 1, "max": 2}),
        ("clip_by_value", {"min": 0, "max": 0}),
        ("clip_by_norm", {"max_norm": 0}),
        ("adaptive_clip", {"clipping": 0}),
        ("noise", {"eta": 0}),
        ("noise", {"eta": 1, "gamma": -1}),
    ],
)
def test_configs_that_make_no_sense_are_refused(name: str, config: dict[str, Any]) -> None:
    with pytest.raises(JobFailure, match="must be"):
        transform(name, **config)


# ── noise ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("step", [0, 99])
def test_noise_has_the_papers_variance(step: int) -> None:
    zeros, ones = tf.zeros([300, 300], tf.float64), tf.ones([1, 300], tf.float64)
    given = tf.IndexedSlices(ones, tf.constant([7]), tf.constant([300, 300]))
    weights = [variable(np.zeros((300, 300)))] * 2
    dense, sparse = apply(transform("noise", eta=0.3, gamma=0.55), [zeros, given], weights, engine(step=step))
    expected = np.sqrt(0.3 / (1 + step) ** 0.55)
    assert np.std(dense) == pytest.approx(expected, rel=0.02)
    assert np.mean(dense) == pytest.approx(0, abs=0.02 * expected)
    assert isinstance(sparse, tf.Tensor), "noise is on every weight"
    assert np.std(np.delete(sparse, 7, axis=0)) == pytest.approx(expected, rel=0.02)
    assert np.mean(sparse[7]) == pytest.approx(1, abs=0.2)
    assert not np.array_equal(dense, sparse)


def test_noise_is_exactly_the_streams_numbers() -> None:
    given, dense = slices()
    (result,) = apply(transform("noise", eta=0.5, gamma=2.0), [given], [variable(normal(5, 3))], engine(4, step=3))
    drawn = Streams(4).current.normal([5, 3], dtype=tf.float64).numpy()
    np.testing.assert_allclose(result, dense + np.sqrt(0.5) / 4 * drawn, rtol=0, atol=1e-12)


def test_the_order_of_two_transforms_matters() -> None:
    clip, noise = transform("clip_by_norm", max_norm=0.1), transform("noise", eta=1.0)
    gradient, weights = tf.constant(normal(5, 3)), [variable(normal(5, 3))]

    def in_order(*transforms: Any) -> np.ndarray:
        run, results = engine(2), [gradient]
        for one in transforms:
            results = list(one(results, weights, run))
        return np.asarray(results[0])

    assert np.linalg.norm(in_order(noise, clip)) == pytest.approx(0.1)
    assert np.linalg.norm(in_order(clip, noise)) > 1
    drawn = np.asarray(Streams(2).current.normal([5, 3], dtype=tf.float64))
    clipped = gradient.numpy() * 0.1 / np.linalg.norm(gradient)
    np.testing.assert_allclose(in_order(clip, noise), clipped + drawn, rtol=0, atol=1e-12)


# ── in a job ─────────────────────────────────────────────────────────────────────────────────────

ELEMENT = (tf.TensorSpec([None, 6], tf.int64), tf.TensorSpec([None], tf.int64))


def job(*gradients: dict[str, Any]) -> Assembly:
    """An embedding, so one gradient is tf.IndexedSlices, under plain SGD, so that steps show the gradients."""
    layers = [
        {"component": "keras/Embedding", "config": {"input_dim": 9, "output_dim": 3, "name": "table"}},
        {"component": "keras/Flatten"},
        {"component": "keras/Dense", "config": {"units": 3}},
    ]
    spec = {
        "data": {"source": "iris", "pipeline": [{"op": "batch", "batch_size": 8}]},
        "model": {"component": "sequential", "config": {"layers": layers}},
        "optimizer": {"component": "keras/SGD", "config": {"learning_rate": 1.0}},
        "loss": {"component": "keras/SparseCategoricalCrossentropy", "config": {"from_logits": True}},
        "gradients": list(gradients),
    }
    return assemble(parse_spec(spec), ELEMENT)


X, Y = tf.constant([[1, 2, 3, 1, 1, 5], [2, 2, 3, 4, 8, 8]], tf.int64), tf.constant([0, 2], tf.int64)
NOISE = {"component": "noise", "config": {"eta": 0.1}}
CLIP = {"component": "clip_by_norm", "config": {"max_norm": 0.01}}


@pytest.mark.slow
@pytest.mark.parametrize(
    "one",
    [CLIP, NOISE, "centralize", "adaptive_clip", {"component": "clip_by_value", "config": {"min": -0.01, "max": 0.02}}],
)
def test_each_trains_a_model_with_an_embedding(one: Any) -> None:
    assembly = job({"component": one} if isinstance(one, str) else one)
    before = assembly.models["model"].get_weights()
    step = compile_train_step(assembly)
    step((X, Y))
    moved = [old - new for old, new in zip(before, assembly.models["model"].get_weights(), strict=True)]
    assert all(np.isfinite(change).all() and change.any() for change in moved)
    if one is CLIP:
        assert max(np.linalg.norm(change) for change in moved) <= 0.01 + 1e-6
    if one == "centralize":
        np.testing.assert_allclose(moved[0].mean(0), 0, atol=1e-6)
        np.testing.assert_allclose(moved[1].mean(0), 0, atol=1e-6)


def test_order_matters_in_a_job() -> None:
    ends = []
    for order in ((CLIP, NOISE), (NOISE, CLIP)):
        assembly = job(*order)
        before = assembly.models["model"].get_weights()
        compile_train_step(assembly)((X, Y))
        ends.append(
            max(np.linalg.norm(a - b) for a, b in zip(before, assembly.models["model"].get_weights(), strict=True))
        )
    clipped_first, noise_first = ends
    assert noise_first == pytest.approx(0.01, rel=1e-4)
    assert clipped_first > 0.1


def test_noise_goes_on_where_a_checkpoint_left_it(tmp_path: Path) -> None:
    first = job(NOISE)
    step = compile_train_step(first)
    step((X, Y))
    write_values(snapshot(first, {}), tmp_path)
    step((X, Y))
    expected = first.models["model"].get_weights()
    second = job(NOISE)
    restore(second, read_values(tmp_path))
    compile_train_step(second)((X, Y))
    for one, other in zip(second.models["model"].get_weights(), expected, strict=True):
        np.testing.assert_array_equal(one, other)
