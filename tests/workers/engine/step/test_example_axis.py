"""Losses and metrics that combine different examples by accident, and those that mean to."""

from collections.abc import Callable
from typing import Any

import keras
import pytest
import tensorflow as tf

from tapeworks_workers.engine.diagnostics.example_mixing import Added, Crossing, crossings
from tests.support.tiers import some

Shape = tuple[int, ...]


class Custom(keras.losses.Loss):
    """A user's loss: its `call` gets tensors as they are."""

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.function = function

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self.function(y_true, y_pred)


def squared(y: Any, p: Any) -> Any:
    return tf.square(y - p)


def picked(y: Any, p: Any) -> Any:
    return -tf.reduce_sum(tf.one_hot(tf.cast(y, tf.int32), 5) * tf.nn.log_softmax(p), -1)


def weighted(y: Any, p: Any) -> Any:
    return tf.reduce_mean(squared(y, p), -1) * tf.gather(tf.constant([1.0, 2.0]), tf.cast(y, tf.int32))


def ranked(y: Any, p: Any) -> Any:
    scores = tf.squeeze(p, -1)
    return tf.nn.relu(scores[:, None] - scores[None, :]) * tf.cast(y[:, None] > y[None, :], p.dtype)


def ranked_in_place(y: Any, p: Any) -> Any:
    return tf.nn.relu(p - tf.squeeze(p, -1)) * tf.cast(y[:, None] > y, p.dtype)


def transposed(y: Any, p: Any) -> Any:
    return tf.square(p - tf.transpose(p)) * tf.cast(tf.equal(y, tf.transpose(y)), p.dtype)


def crossed(y: Any, p: Any) -> Any:
    return tf.reduce_sum(tf.square(y[:, None] - p[None, :]), -1)


def smoothed(y: Any, p: Any) -> Any:
    return tf.reduce_mean(
        tf.where(tf.abs(y - p) < 1.0, tf.square(y - p), tf.zeros_like(p)), axis=tuple(range(1, len(p.shape)))
    )


MSE = keras.losses.MeanSquaredError
LIKE = (2,)
CASES: list[tuple[str, Any, Shape, Shape, Shape | None, str | None]] = [
    ("y a column", Custom(squared), (1,), (), None, "certain"),
    ("outputs a column", Custom(squared), (), (1,), None, "certain"),
    ("y two columns too many", Custom(squared), (1, 1), (), None, "certain"),
    ("of a built-in too", MSE(), (1, 1), (), None, "certain"),
    ("labels against classes", Custom(squared), (), (5,), None, "certain"),
    ("sequences", Custom(squared), (6,), (6, 1), None, "certain"),
    ("in a tf.function", Custom(tf.function(squared)), (1,), (), None, "certain"),
    ("by keras.ops", Custom(lambda y, p: keras.ops.square(keras.ops.subtract(y, p))), (1,), (), None, "certain"),
    ("one-hot of a column", Custom(picked), (1,), (5,), None, "certain"),
    ("weights of a sequence's examples", MSE(), (6, 2), (6, 2), (), "certain"),
    ("weights two columns too many", MSE(), LIKE, LIKE, (1, 1), "certain"),
    ("one squeezed", Custom(lambda y, p: squared(y, tf.squeeze(p, -1))), (1,), (1,), None, "doubtful"),
    ("one flattened", Custom(lambda y, p: squared(y, tf.reshape(p, [-1]))), (1,), (1,), None, "doubtful"),
    ("one column taken", Custom(lambda y, p: squared(y, p[:, 0])), (1,), (1,), None, "doubtful"),
    ("expanded twice", Custom(lambda y, p: squared(tf.expand_dims(y, -1), p)), (1,), (1,), None, "doubtful"),
    ("weights of classes", Custom(weighted), (1,), (1,), None, "doubtful"),
    ("columns", Custom(squared), (1,), (1,), None, None),
    ("expanded", Custom(lambda y, p: squared(tf.expand_dims(y, -1), p)), (), (1,), None, None),
    ("one-hot", Custom(picked), (), (5,), None, None),
    ("a function is squeezed", keras.losses.MeanSquaredError(), (), (1,), None, None),
    ("images", Custom(smoothed), (8, 8, 1), (8, 8, 1), None, None),
    ("weights in a column", MSE(), LIKE, LIKE, (1,), None),
    ("weights", MSE(), LIKE, LIKE, (), None),
    ("pairs of what was squeezed", Custom(ranked), (), (1,), None, None),
    ("pairs by broadcasting with itself", Custom(ranked_in_place), (), (1,), None, None),
    ("pairs by a transpose", Custom(transposed), (1,), (1,), None, None),
    ("pairs of y and outputs", Custom(crossed), (4,), (4,), None, None),
]  # fmt: skip


def found(function: Any, *shapes: Shape | None) -> list[Crossing]:
    """What a call on batches of these shapes combines."""
    given = [shape for shape in shapes if shape is not None]
    crossed: list[Crossing] = []

    @tf.function(input_signature=[tf.TensorSpec([None, *shape]) for shape in given], autograph=False)
    def call(*tensors: Any) -> Any:
        with Added() as added:
            value = function(*tensors)
        roots = added.roots(**dict(zip(("y", "outputs", "weights"), tensors, strict=False)))
        crossed.extend(crossings(added.operations, roots))
        return value

    call.get_concrete_function()
    return crossed


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_what_is_combined(case: Any) -> None:
    _, loss, y, outputs, weights, expected = case
    crossed = found(loss, y, outputs, weights)
    assert [one.certain for one in crossed[:1]] == ([] if expected is None else [expected == "certain"])


def test_it_is_described_with_y_first() -> None:
    (first, *_) = found(Custom(lambda y, p: p - y), (1,), ())
    assert first.described() == "broadcasts y of shape (n, 1) against outputs of shape (n,)"


BUILT_IN = sorted(
    name for name in dir(keras.losses) if isinstance(getattr(keras.losses, name), type) and name not in ("Loss", "CTC")
)


@pytest.mark.parametrize("name", some(BUILT_IN, lambda name: name in ("Dice", "CategoricalCrossentropy")))
def test_keras_own_losses_combine_nothing(name: str) -> None:
    """On y and outputs of the shapes that they take, with each form of sample weights."""
    loss = getattr(keras.losses, name)()
    pairs: list[tuple[Shape, Shape]] = [((4,), (4,)), ((3, 4), (3, 4)), ((3, 3, 4), (3, 3, 4))]
    if "Sparse" in name or name == "CategoricalGeneralizedCrossEntropy":
        pairs = [((), (4,)), ((1,), (4,)), ((3,), (3, 4))]
    if name == "Circle":
        pairs = [((), (4,))]
    for y, outputs in pairs:
        assert found(loss, y, outputs) == []
