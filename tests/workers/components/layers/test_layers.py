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

GENERATOR = np.random.default_rng(0)


def layer(component: str, **config: Any) -> Any:
    return build({"component": component, "config": {"dtype": "float64", **config}}, Kind.LAYER)


def normal(*shape: int) -> np.ndarray:
    return GENERATOR.normal(size=shape)


def values(one: Any) -> list[np.ndarray]:
    """The weights, all drawn anew: zeros and ones would hide what is done with them."""
    for weight in one.weights:
        if weight.dtype == "float64":
            weight.assign(np.abs(normal(*weight.shape)) + 0.1)
    return [np.asarray(weight.value) for weight in one.weights]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def check_gradients(forward: Any, variables: list[Any]) -> None:
    """Central differences in float64, entry by entry."""

    def total() -> Any:
        return tf.reduce_sum(tf.sin(forward()))

    with tf.GradientTape() as tape:
        value = total()
    gradients = tape.gradient(value, [variable.value for variable in variables])
    for variable, gradient in zip(variables, gradients, strict=True):
        gradient, start = tf.convert_to_tensor(gradient).numpy(), variable.numpy().copy()
        for index in np.ndindex(*start.shape):
            ends = []
            for step in (1e-5, -1e-5):
                moved = start.copy()
                moved[index] += step
                variable.assign(moved)
                ends.append(float(total()))
            variable.assign(start)
            assert gradient[index] == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-6), (variable.path, index)


def reloaded(model: keras.Model, folder: Path) -> keras.Model:
    model.save(folder / "m.keras")
    back = keras.models.load_model(folder / "m.keras")
    assert [one.shape for one in back.variables] == [one.shape for one in model.variables]
    return back


def ragged(*lengths: int, features: int = 3) -> Any:
    return tf.RaggedTensor.from_row_lengths(normal(sum(lengths), features), lengths)


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


# ── sparse_dense and embedding_bag ───────────────────────────────────────────────────────────────


def test_sparse_dense_is_dense_on_sparse_rows() -> None:
    x = np.where(GENERATOR.uniform(size=(4, 6)) < 0.4, normal(4, 6), 0)
    x[1] = 0
    wide = layer("sparse_dense", units=3, activation="tanh")
    wide(tf.sparse.from_dense(x))
    w, b = values(wide)
    np.testing.assert_allclose(wide(tf.sparse.from_dense(x)), np.tanh(x @ w + b), rtol=0, atol=1e-12)
    counts = tf.sparse.from_dense(np.array([[0, 2, 0, 0, 0, 1]]))
    np.testing.assert_allclose(wide(counts), np.tanh([2 * w[1] + w[5] + b]), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="use keras/Dense"):
        wide(x)


def test_sparse_gradients_are_slices_and_those_of_differences() -> None:
    x = tf.sparse.from_dense(np.array([[0, 2.0, 0, 0.5], [0, 1.0, 0, 0]]))
    wide = layer("sparse_dense", units=2)
    wide(x)
    check_gradients(lambda: wide(x), wide.trainable_variables)
    bag = layer("embedding_bag", input_dim=4, output_dim=2)
    ids = tf.ragged.constant([[1, 1, 3], [], [0]], dtype=tf.int64)
    bag(ids)
    check_gradients(lambda: bag(ids), bag.trainable_variables)
    for forward, variable in ((lambda: wide(x), wide.kernel), (lambda: bag(ids), bag.embeddings)):
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(forward())
        assert isinstance(tape.gradient(total, variable.value), tf.IndexedSlices)


@pytest.mark.parametrize("combiner", ["mean", "sum", "sqrtn"])
def test_embedding_bag_combines_the_ids_of_a_row(combiner: str) -> None:
    bag = layer("embedding_bag", input_dim=5, output_dim=3, combiner=combiner)
    ids = tf.ragged.constant([[0, 4, 4], [], [2]], dtype=tf.int64)
    bag(ids)
    (table,) = values(bag)
    root = {"mean": 3.0, "sum": 1.0, "sqrtn": np.sqrt(3.0)}[combiner]
    expected = [(table[0] + 2 * table[4]) / root, np.zeros(3), table[2]]
    np.testing.assert_allclose(bag(ids), expected, atol=1e-6)
    np.testing.assert_allclose(bag(ids.to_sparse()), expected, atol=1e-6)
    if combiner != "sqrtn":
        ours = bag(tf.ragged.constant([[0, 4, 4]], dtype=tf.int64))
        slots = tf.sparse.SparseTensor([[0, 0], [0, 1], [0, 2]], tf.constant([0, 4, 4], tf.int64), [1, 3])
        theirs = tf.nn.safe_embedding_lookup_sparse(tf.constant(table), slots, combiner=combiner)
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_embedding_bag_refuses_what_holds_no_ids() -> None:
    bag = layer("embedding_bag", input_dim=5, output_dim=3)
    with pytest.raises(ValueError, match="SparseTensor or RaggedTensor"):
        bag(np.array([[1, 2]]))
    with pytest.raises(ValueError, match="integer ids"):
        bag(tf.sparse.from_dense([[1.0, 2.0]]))
    with pytest.raises(tf.errors.InvalidArgumentError):
        bag(tf.ragged.constant([[5]], dtype=tf.int64))


def test_a_hundred_thousand_columns_are_read_where_they_are_set() -> None:
    wide = layer("sparse_dense", units=2, dtype="mixed_bfloat16")
    x = tf.SparseTensor([[0, 99_999], [63, 5]], [1.0, 2.0], [64, 100_000])
    signature = tf.SparseTensorSpec([None, 100_000], tf.float32)
    wide(x)
    traced = tf.function(wide, input_signature=[signature]).get_concrete_function()
    shapes = [output.shape for op in traced.graph.get_operations() for output in op.outputs]
    assert not [shape for shape in shapes if shape.rank and shape.rank > 1 and 100_000 in shape.as_list()]
    assert traced(x).dtype == tf.bfloat16
    np.testing.assert_allclose(np.asarray(traced(x), "float32")[63], 2 * wide.kernel.numpy()[5], rtol=0.02)


def test_sparse_layers_come_back_in_models(tmp_path: Path) -> None:
    features, ids = keras.Input((6,), sparse=True, dtype="float64"), keras.Input((4,), sparse=True, dtype="int64")
    wide = layer("sparse_dense", units=3, name="wide")(features)
    bag = layer("embedding_bag", input_dim=5, output_dim=3, name="bag")(ids)
    model = keras.Model([features, ids], keras.layers.Add(dtype="float64")([wide, bag]))
    x = [tf.sparse.from_dense(np.eye(2, 6)), tf.sparse.from_dense(np.array([[1, 2, 0, 0], [3, 0, 0, 0]], "int64"))]
    outputs = model(x)
    np.testing.assert_array_equal(reloaded(model, tmp_path)(x), outputs)


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
