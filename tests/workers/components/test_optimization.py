"""`group_lasso`, `unit_ball`, `warmup_cosine` and `lookahead`: values, edges, and state that goes on after a reload."""

import math
from pathlib import Path
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
from tapeworks_workers.engine.step.assembly import Assembly, assemble
from tapeworks_workers.engine.step.compiled_step import compile_train_step
from tapeworks_workers.engine.step.state import restore, snapshot

GENERATOR = np.random.default_rng(0)


def part(kind: Kind, component: str, **config: Any) -> Any:
    return build({"component": component, "config": config}, kind)


def normal(*shape: int) -> np.ndarray:
    return GENERATOR.normal(size=shape)


# ── group_lasso ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("groups", "own"), [("inputs", -2), ("outputs", -1)])
@pytest.mark.parametrize("shape", [(4, 3), (3, 2, 4, 5)])
def test_group_lasso_adds_up_the_norms_of_groups(shape: tuple[int, ...], groups: str, own: int) -> None:
    penalty = part(Kind.REGULARIZER, "group_lasso", factor=0.3, groups=groups)
    kernel = normal(*shape)
    flat = np.moveaxis(kernel, own, 0).reshape(shape[own], -1)
    expected = 0.3 * math.sqrt(flat.shape[1]) * np.linalg.norm(flat, axis=1).sum()
    value = penalty(tf.constant(kernel))
    assert value.dtype == tf.float64
    assert float(value) == pytest.approx(expected, rel=1e-12)


def test_group_lasso_gradients_are_those_of_differences_and_zero_at_zero() -> None:
    penalty = part(Kind.REGULARIZER, "group_lasso", factor=0.7)
    kernel = normal(4, 3)
    kernel[2] = 0
    with tf.GradientTape() as tape:
        weights = tf.constant(kernel)
        tape.watch(weights)
        value = penalty(weights)
    gradient = tape.gradient(value, weights).numpy()
    np.testing.assert_array_equal(gradient[2], np.zeros(3))
    for index in [(row, column) for row in (0, 1, 3) for column in range(3)]:
        up, down = kernel.copy(), kernel.copy()
        up[index], down[index] = up[index] + 1e-6, down[index] - 1e-6
        difference = (float(penalty(tf.constant(up))) - float(penalty(tf.constant(down)))) / 2e-6
        assert gradient[index] == pytest.approx(difference, abs=1e-6)


def test_group_lasso_empties_a_feature_that_says_nothing() -> None:
    penalty = part(Kind.REGULARIZER, "group_lasso", factor=0.05)
    layer = keras.layers.Dense(2, kernel_regularizer=penalty)
    x = normal(64, 3).astype("float32")
    y = np.stack([x[:, 0], x[:, 0] - x[:, 2]], -1)
    model = keras.Sequential([keras.Input((3,)), layer])
    model.compile(keras.optimizers.SGD(0.05), "mse")
    model.fit(x, y, epochs=60, batch_size=16, verbose=0)
    norms = np.linalg.norm(layer.kernel.numpy(), axis=1)
    assert norms[1] < 0.05 < 0.5 < min(norms[0], norms[2])


def test_group_lasso_needs_a_matrix() -> None:
    with pytest.raises(ValueError, match="rank 2 or more"):
        part(Kind.REGULARIZER, "group_lasso")(tf.zeros([3]))
    with pytest.raises(JobFailure, match="factor must be 0 or more"):
        part(Kind.REGULARIZER, "group_lasso", factor=-1)


# ── unit_ball ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("axis", [0, -1, [0, 1], None])
def test_unit_ball_projects_what_lies_outside_only(axis: Any) -> None:
    ball = part(Kind.CONSTRAINT, "unit_ball", max_norm=1.3, axis=axis)
    weights = normal(4, 3)
    weights[:, 0] *= 0.1
    weights[0] = 0
    over = tuple(axis) if isinstance(axis, list) else axis
    norms = np.sqrt(np.sum(weights**2, axis=over, keepdims=True))
    expected = weights * np.minimum(1, 1.3 / np.maximum(norms, 1e-300))
    projected = ball(tf.constant(weights)).numpy()
    np.testing.assert_allclose(projected, expected, rtol=0, atol=1e-12)
    inside = np.broadcast_to(norms <= 1.3, weights.shape)
    np.testing.assert_array_equal(projected[inside], weights[inside])
    np.testing.assert_allclose(ball(projected), projected, atol=1e-15)


def test_unit_ball_takes_every_filter_of_a_convolution() -> None:
    ball = part(Kind.CONSTRAINT, "unit_ball", axis=[0, 1, 2])
    kernel = 5 * normal(3, 3, 2, 4)
    np.testing.assert_allclose(
        np.sqrt(np.sum(ball(kernel).numpy() ** 2, axis=(0, 1, 2))), np.ones(4), rtol=0, atol=1e-12
    )
    with pytest.raises(JobFailure, match="max_norm must be positive"):
        part(Kind.CONSTRAINT, "unit_ball", max_norm=0)


def test_regularizer_and_constraint_come_back_and_hold(tmp_path: Path) -> None:
    dense = part(
        Kind.LAYER, "keras/Dense", units=3,
        kernel_regularizer={"component": "group_lasso", "config": {"groups": "outputs"}},
        kernel_constraint={"component": "unit_ball", "config": {"max_norm": 0.5}},
    )  # fmt: skip
    model = keras.Sequential([keras.Input((4,)), dense])
    model.compile("sgd", "mse")
    x, y = normal(8, 4).astype("float32"), normal(8, 3).astype("float32")
    model.fit(x, y, epochs=2, verbose=0)
    model.save(tmp_path / "m.keras")
    back = keras.models.load_model(tmp_path / "m.keras")
    assert [float(one) for one in back.losses] == [float(one) for one in model.losses]
    assert back.layers[0].get_config() == model.layers[0].get_config()
    back.fit(x, 100 * y, epochs=5, verbose=0)
    np.testing.assert_allclose(np.linalg.norm(back.layers[0].kernel.numpy(), axis=0), [0.5] * 3, rtol=1e-5)


# ── warmup_cosine ────────────────────────────────────────────────────────────────────────────────


def test_warmup_cosine_at_its_edges() -> None:
    keras.config.set_floatx("float64")
    try:
        rate = part(Kind.SCHEDULE, "warmup_cosine", peak=0.2, warmup_steps=10, decay_steps=40, final=0.02)
        expected = {0: 0, 1: 0.02, 9: 0.18, 10: 0.2, 20: 0.02 + 0.09 * (1 + math.sqrt(0.5)), 30: 0.11, 50: 0.02}
        for step, value in {**expected, 51: 0.02, 2**40: 0.02}.items():
            assert float(rate(tf.constant(step, tf.int64))) == pytest.approx(value, abs=1e-12), step
        keras_own = keras.optimizers.schedules.CosineDecay(0.0, 40, alpha=0.1, warmup_target=0.2, warmup_steps=10)
        for step in range(60):
            assert float(rate(step)) == pytest.approx(float(keras_own(step)), abs=1e-7)
        at_once = part(Kind.SCHEDULE, "warmup_cosine", peak=0.2, warmup_steps=0, decay_steps=1)
        assert [float(at_once(step)) for step in (0, 1, 2)] == pytest.approx([0.2, 0, 0], abs=1e-12)
    finally:
        keras.config.set_floatx("float32")
    assert rate(tf.constant(3)).dtype == tf.float32


@pytest.mark.parametrize("wrong", [{"peak": 0}, {"final": -1}, {"warmup_steps": -1}, {"decay_steps": 0}])
def test_warmup_cosine_checks_its_config(wrong: dict[str, Any]) -> None:
    with pytest.raises(JobFailure, match=r"must be|or more"):
        part(Kind.SCHEDULE, "warmup_cosine", **{"peak": 0.1, "warmup_steps": 1, "decay_steps": 1, **wrong})


def test_a_schedule_comes_back_in_its_optimizer() -> None:
    schedule = {"component": "warmup_cosine", "config": {"peak": 0.1, "warmup_steps": 5, "decay_steps": 10}}
    optimizer = part(
        Kind.OPTIMIZER, "lookahead", inner={"component": "keras/SGD", "config": {"learning_rate": schedule}}
    )
    back = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(optimizer))
    assert back.inner._learning_rate.get_config() == optimizer.inner._learning_rate.get_config()
    assert back.inner._learning_rate.peak == 0.1


# ── lookahead ────────────────────────────────────────────────────────────────────────────────────


def lookahead(inner: str = "keras/SGD", *, k: int = 3, alpha: float = 0.4, **config: Any) -> Any:
    return part(Kind.OPTIMIZER, "lookahead", inner={"component": inner, "config": config}, k=k, alpha=alpha)


@pytest.mark.parametrize("traced", [False, True])
def test_lookahead_is_algorithm_1(traced: bool) -> None:
    optimizer = lookahead(learning_rate=0.125, momentum=0.875)
    variables = [keras.Variable(normal(3, 2), dtype="float64"), keras.Variable(normal(2), dtype="float64")]
    optimizer.build(variables)
    fast = [one.numpy().copy() for one in variables]
    slow, speed = [one.copy() for one in fast], [np.zeros_like(one) for one in fast]

    def apply(first: Any, second: Any) -> None:
        optimizer.apply([first, second], variables)

    step = tf.function(apply, autograph=False) if traced else apply
    for count in range(1, 11):
        gradients = [normal(3, 2), normal(2)]
        step(*map(tf.constant, gradients))
        for index, gradient in enumerate(gradients):
            speed[index] = 0.875 * speed[index] - 0.125 * gradient
            fast[index] = fast[index] + speed[index]
            if count % 3 == 0:
                slow[index] = slow[index] + 0.4 * (fast[index] - slow[index])
                fast[index] = slow[index].copy()
        for variable, expected in zip(variables, fast, strict=True):
            np.testing.assert_allclose(variable.numpy(), expected, rtol=0, atol=1e-12)
    assert int(optimizer.iterations) == 10


def test_lookahead_takes_slices_and_keeps_constraints() -> None:
    optimizer = lookahead(k=1, alpha=0.5, learning_rate=1.0)
    table = keras.Variable(np.zeros((4, 2)), dtype="float64")
    unit = keras.Variable([[3.0], [4.0]], dtype="float64")
    unit.constraint = keras.constraints.UnitNorm()
    optimizer.build([table, unit])
    slices = tf.IndexedSlices(tf.ones([2, 2], tf.float64), tf.constant([1, 1]), tf.constant([4, 2]))
    optimizer.apply([slices, tf.constant([[1.0], [0.0]], tf.float64)], [table, unit])
    np.testing.assert_allclose(table.numpy(), [[0, 0], [-1, -1], [0, 0], [0, 0]])
    assert np.linalg.norm(unit.numpy()) == pytest.approx(1, abs=1e-6)


def test_lookahead_starts_from_weights_loaded_after_it_was_built() -> None:
    optimizer = lookahead(k=2, alpha=0.5, learning_rate=1.0)
    weight = keras.Variable(0.0)
    optimizer.build([weight])
    weight.assign(10.0)
    for _ in range(2):
        optimizer.apply([tf.constant(1.0)], [weight])
    assert float(weight) == 9.0


def test_lookahead_waits_for_accumulated_gradients() -> None:
    optimizer = lookahead(k=1, alpha=0.5, learning_rate=1.0, gradient_accumulation_steps=2)
    weight = keras.Variable(0.0)
    optimizer.build([weight])
    seen = []
    for _ in range(4):
        optimizer.apply([tf.constant(1.0)], [weight])
        seen.append(float(weight))
    assert seen == [0.0, -0.5, -0.5, -1.0]


def test_lookahead_hands_its_learning_rate_on_and_checks_its_config() -> None:
    optimizer = lookahead(learning_rate=0.5)
    optimizer.learning_rate = 0.25
    assert float(optimizer.inner.learning_rate) == float(optimizer.learning_rate) == 0.25
    with pytest.raises(JobFailure, match="k must be 1 or more"):
        lookahead(k=0)
    with pytest.raises(JobFailure, match="alpha must be above 0"):
        lookahead(alpha=1.5)


def test_a_compiled_model_comes_back_and_trains_on_alike(tmp_path: Path) -> None:
    x, y = normal(32, 4).astype("float32"), normal(32, 2).astype("float32")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5, activation="tanh"), keras.layers.Dense(2)])
    model.compile(lookahead("keras/Adam", learning_rate=0.05), "mse")
    model.fit(x, y, epochs=1, batch_size=8, shuffle=False, verbose=0)
    model.save(tmp_path / "m.keras")
    back = keras.models.load_model(tmp_path / "m.keras")
    assert type(back.optimizer).__name__ == "Lookahead"
    for one, other in zip(back.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(one, other)
    for each in (model, back):
        each.fit(x, y, epochs=2, batch_size=8, shuffle=False, verbose=0)
    for one, other in zip(back.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def job() -> Assembly:
    schedule = {"component": "warmup_cosine", "config": {"peak": 0.1, "warmup_steps": 2, "decay_steps": 10}}
    inner = {"component": "keras/Adam", "config": {"learning_rate": schedule}}
    spec = {
        "data": {"source": "iris", "pipeline": [{"op": "batch", "batch_size": 8}]},
        "model": {"component": "mlp", "config": {"hidden": [5], "outputs": 3}},
        "optimizer": {"component": "lookahead", "config": {"inner": inner, "k": 3}},
        "loss": {"component": "keras/SparseCategoricalCrossentropy", "config": {"from_logits": True}},
    }
    return assemble(parse_spec(spec), (tf.TensorSpec([None, 4]), tf.TensorSpec([None], tf.int64)))


def test_a_job_goes_on_from_a_checkpoint_in_the_middle_of_a_cycle(tmp_path: Path) -> None:
    batch = (tf.constant(normal(8, 4), tf.float32), tf.constant(GENERATOR.integers(0, 3, 8)))
    first = job()
    step = compile_train_step(first)
    for _ in range(4):
        step(batch)
    write_values(snapshot(first, {}), tmp_path)
    for _ in range(4):
        step(batch)
    second = job()
    restore(second, read_values(tmp_path))
    step = compile_train_step(second)
    for _ in range(4):
        step(batch)
    expected = first.variables()
    for name, variable in second.variables().items():
        np.testing.assert_array_equal(variable.numpy(), expected[name].numpy(), err_msg=name)
