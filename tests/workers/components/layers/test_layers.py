"""The built-in layers: values against NumPy, masks, ragged and sparse inputs, gradients, and models that come back."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tapeworks.errors import JobFailure
from tapeworks.spec.references import Kind
from tapeworks_workers.engine.factory.factory import build
from tests.support.layer_checks import check_gradients, layer, normal, ragged, reloaded, relu, sigmoid, values

# ── residual ─────────────────────────────────────────────────────────────────────────────────────


def test_residual_of_dense_layers_is_the_papers_block() -> None:
    block = layer("residual", units=4, normalization="none")
    x = normal(3, 4)
    block(x)
    w1, b1, w2, b2 = values(block)
    np.testing.assert_allclose(block(x), relu(relu(x @ w1 + b1) @ w2 + b2 + x), rtol=0, atol=1e-12)


def test_residual_projects_where_the_shape_changes() -> None:
    block = layer("residual", units=2, normalization="none", activation="tanh")
    x = normal(3, 4)
    block(x)
    w1, b1, w2, b2, w, b = values(block)
    np.testing.assert_allclose(block(x), np.tanh(np.tanh(x @ w1 + b1) @ w2 + b2 + x @ w + b), rtol=0, atol=1e-12)


def test_residual_normalises_by_the_batch_while_training_only() -> None:
    block = layer("residual", units=4)
    x = normal(5, 4)
    block(x)
    w1, w2 = (np.asarray(block.first.kernel), np.asarray(block.second.kernel))

    def centred(z: np.ndarray) -> np.ndarray:
        return (z - z.mean(0)) / np.sqrt(z.var(0) + 1e-3)

    np.testing.assert_allclose(block(x, training=True), relu(centred(relu(centred(x @ w1)) @ w2) + x), atol=1e-10)
    assert not np.allclose(block(x, training=False), block(x, training=True))


@pytest.mark.parametrize("shape", [(2, 7, 3), (2, 7, 5, 3), (2, 5, 5, 5, 3)])
def test_residual_of_convolutions_says_its_shape(shape: tuple[int, ...]) -> None:
    block = layer("residual", filters=4, strides=2, normalization="layer")
    outputs = block(normal(*shape))
    assert outputs.shape == block.compute_output_shape(shape)
    assert outputs.dtype == tf.float64


def test_residual_convolutions_agree_with_keras() -> None:
    block = layer("residual", filters=3, normalization="none")
    x = normal(2, 6, 6, 3)
    block(x)
    w1, b1, w2, b2 = values(block)
    inner = relu(np.asarray(tf.nn.conv2d(x, w1, 1, "SAME")) + b1)
    np.testing.assert_allclose(block(x), relu(np.asarray(tf.nn.conv2d(inner, w2, 1, "SAME")) + b2 + x), atol=1e-10)


@pytest.mark.parametrize("config", [{}, {"units": 1, "filters": 1}, {"units": 1, "strides": 2}])
def test_residual_takes_filters_or_units(config: dict[str, Any]) -> None:
    with pytest.raises(JobFailure, match=r"filters|strides"):
        layer("residual", **config)


# ── glu ──────────────────────────────────────────────────────────────────────────────────────────


def test_glu_is_a_gated_linear_path() -> None:
    gated = layer("glu", units=2)
    x = normal(3, 5, 4)
    gated(x)
    w, b, v, c = values(gated)
    np.testing.assert_allclose(gated(x), (x @ w + b) * sigmoid(x @ v + c), rtol=0, atol=1e-12)
    swish = layer("glu", units=2, gate="swish", use_bias=False)
    swish(x)
    w, v = values(swish)
    np.testing.assert_allclose(swish(x), (x @ w) * (x @ v) * sigmoid(x @ v), rtol=0, atol=1e-12)


# ── ragged_to_dense ──────────────────────────────────────────────────────────────────────────────


def test_ragged_to_dense_pads_and_tells_the_mask() -> None:
    x = ragged(2, 0, 3)
    outputs = layer("ragged_to_dense", pad_value=-1.0)(x)
    np.testing.assert_array_equal(outputs, x.to_tensor(-1.0))
    np.testing.assert_array_equal(outputs._keras_mask, [[1, 1, 0], [0, 0, 0], [1, 1, 1]])
    cut = layer("ragged_to_dense", max_length=2)(x)
    np.testing.assert_array_equal(cut, x.to_tensor()[:, :2])
    np.testing.assert_array_equal(cut._keras_mask, [[1, 1], [0, 0], [1, 1]])
    assert layer("ragged_to_dense", max_length=4)(x).shape == (3, 4, 3)


def test_ragged_to_dense_keeps_integers_and_dense_inputs() -> None:
    ids = layer("ragged_to_dense")(tf.ragged.constant([[1, 2], [3]], dtype=tf.int64))
    assert ids.dtype == tf.int64
    dense = normal(2, 3, 4)
    np.testing.assert_array_equal(layer("ragged_to_dense")(dense), dense)
    with pytest.raises(ValueError, match="one ragged dimension"):
        layer("ragged_to_dense")(tf.ragged.constant([[[1], [2, 3]], [[4]]]))


def test_a_recurrent_layer_leaves_the_padding_out(tmp_path: Path) -> None:
    inputs = keras.Input((None, 3), ragged=True, dtype="float64")
    dense = layer("ragged_to_dense", pad_value=7.0, name="dense")(inputs)
    model = keras.Model(inputs, keras.layers.GRU(2, dtype="float64")(dense))
    x = ragged(2, 4, 3)
    outputs = model(x, training=False)
    alone = [model(x[row : row + 1], training=False)[0] for row in range(3)]
    np.testing.assert_allclose(outputs, alone, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(reloaded(model, tmp_path)(x), outputs)
    traced = tf.function(model, input_signature=[tf.RaggedTensorSpec([None, None, 3], tf.float64, 1)])
    np.testing.assert_allclose(traced(x), outputs, rtol=0, atol=1e-12)
    traced(ragged(1, 6))
    assert traced.experimental_get_tracing_count() == 1


# ── attention_pooling ────────────────────────────────────────────────────────────────────────────


def pooled(x: Any, weights: list[np.ndarray]) -> np.ndarray:
    w, b, u = weights
    rows = []
    for row in x:
        scores = np.tanh(row @ w + b) @ u
        share = np.exp(scores) / np.exp(scores).sum()
        rows.append(share @ row)
    return np.array(rows)


def test_attention_pooling_of_dense_masked_and_ragged_rows() -> None:
    pooling = layer("attention_pooling", units=4)
    x = ragged(2, 5, 1)
    dense, mask = x.to_tensor(np.nan), tf.sequence_mask([2, 5, 1])
    pooling(x)
    weights = values(pooling)
    expected = pooled([row.numpy() for row in x], weights)
    np.testing.assert_allclose(pooling(x), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(pooling(dense, mask=mask), expected, rtol=0, atol=1e-12)
    full = normal(2, 3, 3)
    np.testing.assert_allclose(pooling(full), pooled(full, weights), rtol=0, atol=1e-12)


def test_attention_pooling_of_nothing_is_zero_and_of_extremes_finite() -> None:
    pooling = layer("attention_pooling", units=4)
    outputs = pooling(ragged(0, 2, 0))
    np.testing.assert_array_equal(outputs.numpy()[[0, 2]], np.zeros((2, 3)))
    assert outputs[1].numpy().any()
    np.testing.assert_array_equal(pooling(normal(1, 2, 3), mask=tf.constant([[False, False]])), [[0, 0, 0]])
    pooling.context.assign([1e6] * 4)
    x = normal(2, 4, 3)
    rows = tf.RaggedTensor.from_tensor(x)
    np.testing.assert_allclose(pooling(rows), pooling(x), rtol=0, atol=1e-12)
    assert np.isfinite(pooling(x)).all()


def test_attention_pooling_gradients_are_those_of_differences() -> None:
    pooling = layer("attention_pooling", units=2)
    x = ragged(2, 0, 3, features=2)
    pooling(x)
    values(pooling)
    check_gradients(lambda: pooling(x), pooling.trainable_variables)
    dense, mask = x.to_tensor(np.nan), tf.sequence_mask([2, 0, 3])
    check_gradients(lambda: pooling(dense, mask=mask), pooling.trainable_variables)


def test_attention_pooling_comes_back_over_ragged_and_masked_input(tmp_path: Path) -> None:
    inputs = keras.Input((None,), ragged=True, dtype="int64")
    embedded = keras.layers.Embedding(9, 3, dtype="float64")(inputs)
    dense = layer("ragged_to_dense")(embedded)
    model = keras.Model(inputs, layer("attention_pooling", units=2)(dense))
    x = tf.ragged.constant([[1, 2, 3], [4], [5, 6]], dtype=tf.int64)
    outputs = model(x)
    np.testing.assert_array_equal(reloaded(model, tmp_path)(x), outputs)
    np.testing.assert_allclose(outputs[1:2], model(x[1:2]), rtol=0, atol=1e-12)
    steps = keras.Input((None, 3), ragged=True, dtype="float64")
    direct = keras.Model(steps, layer("attention_pooling", units=2)(steps))
    np.testing.assert_array_equal(reloaded(direct, tmp_path)(ragged(2, 3)).shape, (2, 3))


# ── reparameterize ───────────────────────────────────────────────────────────────────────────────


def test_reparameterize_gives_the_mean_and_its_divergence() -> None:
    latent = layer("reparameterize", weight=0.5)
    mean, log_variance = normal(3, 4), normal(3, 4)
    np.testing.assert_array_equal(latent([mean, log_variance], training=False), mean)
    expected = 0.5 * np.sum(mean**2 + np.exp(log_variance) - 1 - log_variance) / 2 / 3
    assert float(latent.losses[0]) == pytest.approx(expected, rel=1e-12)
    np.testing.assert_array_equal(latent(np.concatenate([mean, log_variance], -1), training=False), mean)
    assert float(latent.losses[-1]) == pytest.approx(expected, rel=1e-12)
    silent = layer("reparameterize", weight=0.0)
    silent([mean, log_variance])
    assert not silent.losses


def test_reparameterize_samples_by_its_seed() -> None:
    mean, log_variance = np.full((20_000, 1), 2.0), np.full((20_000, 1), np.log(9.0))
    latent = layer("reparameterize", seed=3)
    drawn = np.asarray(latent([mean, log_variance], training=True))
    assert drawn.mean() == pytest.approx(2, abs=0.1)
    assert drawn.std() == pytest.approx(3, abs=0.1)
    assert not np.array_equal(latent([mean, log_variance], training=True), drawn)
    again = layer("reparameterize", seed=3)
    np.testing.assert_array_equal(again([mean, log_variance], training=True), drawn)


def test_reparameterize_passes_gradients_to_both() -> None:
    latent = layer("reparameterize", seed=1)
    mean, log_variance = keras.Variable(normal(2, 2), dtype="float64"), keras.Variable(normal(2, 2), dtype="float64")

    def forward() -> Any:
        latent.seed_generator.state.assign([1, 0])
        outputs = latent([mean.value, log_variance.value], training=True)
        return tf.concat([tf.reshape(outputs, [-1]), [latent.losses[-1]]], 0)

    check_gradients(forward, [mean, log_variance])


def test_reparameterize_comes_back_in_a_model(tmp_path: Path) -> None:
    inputs = keras.Input((4,))
    parts = [keras.layers.Dense(2)(inputs), keras.layers.Dense(2)(inputs)]
    model = keras.Model(inputs, layer("reparameterize", weight=2.0, dtype="float32")(parts))
    x = normal(3, 4).astype("float32")
    outputs = model(x, training=False)
    back = reloaded(model, tmp_path)
    np.testing.assert_array_equal(back(x, training=False), outputs)
    assert float(back.losses[0]) == float(model.losses[0]) > 0


@pytest.mark.parametrize("shapes", [[(2, 3), (2, 4)], [(2, 3), (2, 3), (2, 3)]])
def test_reparameterize_takes_two_of_one_shape(shapes: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="of one shape"):
        layer("reparameterize")([np.zeros(shape) for shape in shapes])
    with pytest.raises(ValueError, match="even"):
        layer("reparameterize")(np.zeros((2, 3)))


# ── models of them ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_blocks_come_back_and_follow_the_precision(policy: str, tmp_path: Path) -> None:
    regularizer = {"component": "keras/L2"}
    model = keras.Sequential(
        [
            layer("residual", filters=4, strides=2, dropout=0.5, dtype=policy, kernel_regularizer=regularizer),
            layer("residual", units=4, normalization="layer", dtype=policy),
            keras.layers.Reshape((-1, 4), dtype=policy),
            layer("glu", units=6, dtype=policy),
            layer("attention_pooling", units=3, dtype=policy),
            layer("reparameterize", dtype=policy),
        ]
    )
    x = normal(2, 6, 6, 3).astype("float32")
    outputs = model(x, training=False)
    assert outputs.dtype.name == keras.dtype_policies.get(policy).compute_dtype
    assert outputs.shape == (2, 3)
    np.testing.assert_array_equal(reloaded(model, tmp_path)(x, training=False), outputs)
    assert len(model.losses) == 4, "three kernels and a divergence"


def test_kerass_spectral_normalization_comes_back_and_trains_on_alike(tmp_path: Path) -> None:
    reference = {"component": "keras/Dense", "config": {"units": 3, "kernel_initializer": "orthogonal"}}
    wrapped = {"component": "keras/SpectralNormalization", "config": {"layer": reference, "power_iterations": 30}}
    model = keras.Sequential([keras.Input((4,)), build(wrapped, Kind.LAYER)])
    model.layers[0].layer.kernel.assign(5 * normal(4, 3))
    x = normal(2, 4).astype("float32")
    model(x, training=True)
    assert np.linalg.norm(model.layers[0].layer.kernel, 2) == pytest.approx(1, abs=1e-3)
    back = reloaded(model, tmp_path)
    np.testing.assert_array_equal(back(x, training=False), model(x, training=False))
    np.testing.assert_array_equal(back(x, training=True), model(x, training=True))
    for one, other in zip(back.weights, model.weights, strict=True):
        np.testing.assert_array_equal(one, other)
