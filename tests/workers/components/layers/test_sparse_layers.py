"""The built-in layers of sparse rows and of rows of ids: values, gradients, large vocabularies, reloads."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support.layer_checks import GENERATOR, check_gradients, layer, normal, reloaded, values


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
