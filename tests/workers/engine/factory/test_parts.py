"""The built-in layer, metric, regularizer, gradient transform and element transforms; the supervised step."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import sklearn.metrics
import tensorflow as tf

from tapeworks.errors import JobFailure
from tapeworks.spec.parsing import parse_spec
from tapeworks.spec.references import Kind
from tapeworks_workers.engine.factory.factory import build
from tapeworks_workers.engine.step.assembly import assemble
from tapeworks_workers.engine.step.compiled_step import compile_train_step

GENERATOR = np.random.default_rng(0)


def part(kind: Kind, component: str, **config: Any) -> Any:
    return build({"component": component, "config": config}, kind)


# ── gated_residual ───────────────────────────────────────────────────────────────────────────────


def test_gated_residual_is_the_papers_block() -> None:
    layer = part(Kind.LAYER, "gated_residual", units=5)
    x = GENERATOR.normal(size=(3, 4)).astype("float32")
    outputs = layer(x)
    w1, b1, w2, b2, scale, shift = (np.asarray(one.value, "float64") for one in layer.weights)
    hidden = x @ w1 + b1
    hidden = np.where(hidden > 0, hidden, np.expm1(hidden))
    gate, value = np.split(hidden @ w2 + b2, 2, axis=-1)
    summed = x + value / (1 + np.exp(-gate))
    centred = summed - summed.mean(-1, keepdims=True)
    expected = centred / np.sqrt(summed.var(-1, keepdims=True) + 1e-3) * scale + shift
    np.testing.assert_allclose(outputs, expected, atol=1e-5)


def test_gated_residual_comes_back_in_a_model(tmp_path: Path) -> None:
    layers = [
        {"component": "keras/Dense", "config": {"units": 6}},
        {
            "component": "gated_residual",
            "config": {"units": 5, "dropout": 0.5, "name": "gated", "kernel_regularizer": {"component": "orthogonal"}},
        },
    ]
    model = part(Kind.MODEL, "sequential", layers=layers)
    x = GENERATOR.normal(size=(3, 4)).astype("float32")
    outputs = model(x)
    model.save(tmp_path / "m.keras")
    back = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(back(x), outputs)
    assert [one.shape for one in back.variables] == [one.shape for one in model.variables]
    assert type(back.get_layer("gated").kernel_regularizer).__name__ == "Orthogonal"
    assert float(tf.add_n(back.losses)) == float(tf.add_n(model.losses)) > 0


def test_gated_residual_drops_in_training_only_and_keeps_masks() -> None:
    layer = part(Kind.LAYER, "gated_residual", units=50, dropout=0.9)
    x = np.ones((2, 3, 4), "float32")
    assert layer.supports_masking
    np.testing.assert_array_equal(layer(x, training=False), layer(x, training=False))
    assert not np.array_equal(layer(x, training=True), layer(x, training=True))


# ── macro_f_beta ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_macro_f_beta_is_scikit_learns(beta: float, weighted: bool) -> None:
    y, outputs = GENERATOR.integers(0, 3, 101), GENERATOR.normal(size=(101, 4)).astype("float32")
    outputs[:, 3] = -10  # a class that neither labels nor predictions hold
    weights = GENERATOR.uniform(0.1, 1, 101).astype("float32") if weighted else None
    metric = part(Kind.METRIC, "macro_f_beta", classes=4, beta=beta)
    for start in range(0, 101, 20):
        at = slice(start, start + 20)
        metric.update_state(y[at, None], outputs[at], None if weights is None else weights[at])
    guess = outputs.argmax(-1)
    expected = sklearn.metrics.fbeta_score(y, guess, beta=beta, average="macro", sample_weight=weights)
    assert float(metric.result()) == pytest.approx(expected, abs=1e-5)
    metric.reset_state()
    assert float(metric.result()) == 0


def test_macro_f_beta_comes_back_and_checks_its_config() -> None:
    metric = part(Kind.METRIC, "macro_f_beta", classes=3, beta=2.0, name="f2")
    back = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert (back.classes, back.beta, back.name) == (3, 2.0, "f2")
    with pytest.raises(JobFailure, match="classes must be 2 or more"):
        part(Kind.METRIC, "macro_f_beta", classes=1)


# ── orthogonal ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (3, 3, 2, 4)])
def test_orthogonal_is_zero_for_orthonormal_kernels_only(shape: tuple[int, ...]) -> None:
    regularizer = part(Kind.REGULARIZER, "orthogonal", factor=0.5)
    kernel = keras.initializers.Orthogonal(seed=1)(shape)
    assert float(regularizer(kernel)) == pytest.approx(0, abs=1e-9)
    matrix = np.asarray(kernel, "float64").reshape(-1, shape[-1]) * 2
    matrix = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    expected = 0.5 * np.sum((matrix.T @ matrix - np.eye(matrix.shape[1])) ** 2)
    assert float(regularizer(kernel * 2)) == pytest.approx(expected, rel=1e-5)


def test_orthogonal_needs_a_matrix() -> None:
    with pytest.raises(ValueError, match="rank 2 or more"):
        part(Kind.REGULARIZER, "orthogonal")(tf.zeros([3]))


# ── clip_by_global_norm ──────────────────────────────────────────────────────────────────────────


def test_clip_scales_all_gradients_together() -> None:
    clip = part(Kind.GRADIENT_TRANSFORM, "clip_by_global_norm", max_norm=1.0)
    gradients = [tf.constant([3.0, 0.0]), tf.IndexedSlices(tf.constant([[4.0]]), tf.constant([2]), tf.constant([5, 1]))]
    dense, sparse = clip(gradients, [], None)
    np.testing.assert_allclose(dense, [0.6, 0.0], rtol=1e-6)
    assert isinstance(sparse, tf.IndexedSlices)
    np.testing.assert_allclose(sparse.values, [[0.8]], rtol=1e-6)
    small = [tf.constant([0.3]), tf.constant([0.4])]
    np.testing.assert_array_equal(np.concatenate(clip(small, [], None)), [np.float32(0.3), np.float32(0.4)])


def test_clip_shows_what_is_not_finite() -> None:
    clip = part(Kind.GRADIENT_TRANSFORM, "clip_by_global_norm", max_norm=1.0)
    assert np.isnan(clip([tf.constant([np.inf]), tf.constant([1.0])], [], None)[1]).all()
    with pytest.raises(JobFailure, match="max_norm must be positive"):
        part(Kind.GRADIENT_TRANSFORM, "clip_by_global_norm", max_norm=0)


# ── transforms ───────────────────────────────────────────────────────────────────────────────────


def test_scale_takes_a_field_or_the_whole_element() -> None:
    scale = part(Kind.TRANSFORM, "scale", factor=0.5, offset=1.0)
    np.testing.assert_array_equal(scale(tf.constant([2, 4], tf.uint8)), np.array([2.0, 3.0], "float32"))
    x, y = scale({"a": tf.constant(2.0, tf.float64)}, tf.constant(7))
    assert (float(x["a"]), x["a"].dtype, int(y)) == (2.0, tf.float64, 7)
    assert float(part(Kind.TRANSFORM, "scale")(tf.constant(3.0))) == 3.0


def test_class_weight_before_and_after_batching() -> None:
    weigh = part(Kind.TRANSFORM, "class_weight", weights=[1.0, 2.0, 0.5])
    dataset = tf.data.Dataset.from_tensor_slices((np.zeros((3, 2), "float32"), np.array([2, 0, 1])))
    expected = [0.5, 1.0, 2.0]
    assert [float(w) for _, _, w in dataset.map(weigh)] == expected
    ((_, _, batched),) = dataset.batch(3).map(weigh)
    np.testing.assert_array_equal(batched, expected)
    _, _, doubled = weigh(0, tf.constant([1]), tf.constant([3.0]))
    np.testing.assert_array_equal(doubled, [6.0])


def test_class_weight_of_several_labels_says_so() -> None:
    weigh = part(Kind.TRANSFORM, "class_weight", weights=[1.0, 2.0])
    labels = tf.constant([0, 1])
    with pytest.raises(ValueError, match="y is a dict of several"):
        weigh(tf.zeros([2, 1]), {"kind": labels, "size": labels})


def test_class_weight_of_an_unknown_class_fails() -> None:
    weigh = part(Kind.TRANSFORM, "class_weight", weights=[1.0, 2.0])
    for label in (2, -1):
        with pytest.raises(tf.errors.InvalidArgumentError, match="class_weight has 2 weights"):
            weigh(0, tf.constant([label]))
    with pytest.raises(ValueError, match="needs integer class labels, not float32"):
        weigh(0, tf.constant([1.0]))


# ── supervised ───────────────────────────────────────────────────────────────────────────────────


def test_supervised_trains_as_fit_does() -> None:
    x = GENERATOR.normal(size=(32, 4)).astype("float32")
    y = GENERATOR.integers(0, 3, 32)
    weight = GENERATOR.uniform(0, 1, 32).astype("float32")
    regularizer = {"component": "keras/L2", "config": {"l2": 0.01}}
    spec = {
        "data": {"source": "iris", "pipeline": [{"op": "batch", "batch_size": 8}]},
        "model": {"component": "mlp", "config": {"hidden": [5], "outputs": 3, "kernel_regularizer": regularizer}},
        "optimizer": {"component": "keras/Adam", "config": {"learning_rate": 0.01}},
        "loss": {"component": "focal", "config": {"gamma": 1.0}},
    }
    element = (tf.TensorSpec([None, 4]), tf.TensorSpec([None], tf.int64), tf.TensorSpec([None]))
    assembly = assemble(parse_spec(spec), element)
    ours = assembly.models["model"]
    theirs = keras.models.clone_model(ours)
    theirs.set_weights(ours.get_weights())
    theirs.compile(optimizer=keras.optimizers.Adam(0.01), loss=build(spec["loss"], Kind.LOSS))  # type: ignore[arg-type]
    step = compile_train_step(assembly)
    for start in range(0, 32, 8):
        at = slice(start, start + 8)
        mine = step((tf.constant(x[at]), tf.constant(y[at]), tf.constant(weight[at])))
        expected = theirs.train_on_batch(x[at], y[at], weight[at], return_dict=True)
        theirs.reset_metrics()
        assert float(mine["loss"]) == pytest.approx(float(expected["loss"]), abs=1e-6)
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
