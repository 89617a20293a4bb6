"""Models whose outputs have every structure that `fit` takes, targets to go with them, and losses with traps."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tapeworks import Source, component

PACKS: dict[str, Any] = {
    "single": lambda a, b, c: a,
    "tuple": lambda a, b, c: (a, b),
    "list": lambda a, b, c: [a, b],
    "dict": lambda a, b, c: {"q": a, "p": b},
    "nest": lambda a, b, c: {"h": (a, b), "g": c},
    "nested dict": lambda a, b, c: {"h": {"u": a, "v": b}, "g": c},
    "one key": lambda a, b, c: {"d": a},
    "deep list": lambda a, b, c: [a, (b, c)],
    "by name": lambda a, b, c: {"a": a, "b": b},
    "second": lambda a, b, c: b,
    "one of list": lambda a, b, c: (a,),
    "p flat": lambda a, b, c: {"q": a, "p": b[:, 0]},
}
SIZE = 22


@component("outs/Targets")
class Targets(Source):
    """x (4,), y (1,) and its multiples in a structure, and sample weights: none, one, or one for each output."""

    def __init__(self, form: str, weights: str = "none") -> None:
        self.form, self.weights = form, weights

    def dataset(self) -> tf.data.Dataset:
        random = np.random.RandomState(1)
        x = random.normal(size=(SIZE, 4)).astype("float32")
        y = (x.sum(axis=1, keepdims=True) + random.normal(size=(SIZE, 1))).astype("float32")
        pack = PACKS[self.form]
        data: tuple[Any, ...] = (x, pack(y, 2 * y + 1, 3 * y - 1))
        one = np.linspace(0.5, 1.5, SIZE, dtype="float32")
        if self.weights != "none":
            data = (*data, one if self.weights == "one" else pack(one, one[::-1].copy(), one**2))
        return tf.data.Dataset.from_tensor_slices(tf.nest.map_structure(tf.constant, _tuples(data)))


def _tuples(nest: Any) -> Any:
    """tf.data reads a list as one tensor."""
    if isinstance(nest, dict):
        return {key: _tuples(item) for key, item in nest.items()}
    return tuple(_tuples(item) for item in nest) if isinstance(nest, list | tuple) else nest


@component("outs/Heads")
class Heads(keras.Model):
    """Subclassed, with three heads of which `form` makes the outputs."""

    def __init__(self, form: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.form = form
        self.a, self.b, self.c = (keras.layers.Dense(1, name=name) for name in "abc")

    def call(self, x: Any) -> Any:
        return PACKS[self.form](self.a(x), self.b(x), self.c(x))


def functional(form: str) -> dict[str, Any]:
    """The spec of a functional model with such heads."""
    import json

    x = keras.Input((4,), name="x")
    outputs = PACKS[form](*(keras.layers.Dense(1, name=name)(x) for name in "abc"))
    return {"component": "functional", "config": {"config": json.loads(keras.Model(x, outputs).to_json())["config"]}}


# ── losses and metrics with traps ────────────────────────────────────────────────────────────────


@component("outs/Squared")
class Squared(keras.losses.Loss):
    """Without a thought for shapes."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return tf.square(y_true - y_pred)


@component("outs/Squeezed")
class Squeezed(keras.losses.Loss):
    """Squeezes the outputs alone: pairs, perhaps meant."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return tf.abs(y_true - tf.squeeze(y_pred, -1))


@component("outs/SqueezedTwice")
class SqueezedTwice(Squeezed):
    """A second term that is certainly a mistake."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        pairs = super().call(y_true, y_pred)
        return tf.reduce_mean(pairs, -1) + tf.reduce_sum(tf.reduce_sum(y_true, -1) * y_pred, -1)


@component("outs/Reduced")
class Reduced(keras.Model):
    """Means over the batch."""

    def __init__(self, units: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.dense = keras.layers.Dense(units)

    def call(self, x: Any) -> Any:
        return tf.reduce_mean(self.dense(x), axis=0)


@component("outs/PairsMeant")
class PairsMeant(Squared):
    """Every label against every output, on purpose."""

    pairwise = True


@component("outs/squared_function", kind="loss")
def squared_function(y_true: Any, y_pred: Any) -> Any:
    """As a plain function: y and outputs are squeezed to one rank before it."""
    return tf.square(y_true - y_pred)


@component("outs/Ranked")
class Ranked(keras.losses.Loss):
    """RankNet: pairs of squeezed scores."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        scores = tf.squeeze(y_pred, -1)
        better = tf.cast(y_true[:, None] > y_true[None, :], scores.dtype)
        return better * tf.nn.softplus(scores[None, :] - scores[:, None])


@component("outs/Distance")
class Distance(keras.metrics.Metric):
    """A mean absolute error without a thought for shapes."""

    def __init__(self, name: str = "distance", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.total = self.add_variable((), initializer="zeros", name="total")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.total.assign_add(tf.reduce_mean(tf.abs(tf.cast(y_true, y_pred.dtype) - y_pred)))

    def result(self) -> Any:
        return self.total.value


@component("outs/Void")
class Void(keras.losses.Loss):
    """Cross-entropy that leaves out the label `void`, in one of the usual ways."""

    def __init__(self, void: int = 255, way: str = "where", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.void, self.way = void, way

    def call(self, y_true: Any, y_pred: Any) -> Any:
        labels = tf.cast(y_true, tf.int64)
        known = labels != self.void
        if self.way == "one-hot":
            picked = tf.one_hot(labels, y_pred.shape[-1])
            return -tf.reduce_sum(picked * tf.nn.log_softmax(y_pred), -1)
        if self.way == "boolean_mask":
            kept = tf.boolean_mask(labels, known), tf.boolean_mask(y_pred, known)
            return tf.nn.sparse_softmax_cross_entropy_with_logits(*kept)
        safe = tf.where(known, labels, tf.zeros_like(labels))
        if self.way == "gather":
            each = -tf.gather(tf.nn.log_softmax(y_pred), safe, batch_dims=1)
        else:
            each = tf.nn.sparse_softmax_cross_entropy_with_logits(safe, y_pred)
        return tf.where(known, each, 0.0)


@component("outs/Declared")
class Declared(Void):
    """The same, and it says so."""

    ignore_class = 255


@component("outs/Careless")
class Careless(keras.losses.Loss):
    """Class weights by label: a label out of range has none."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        labels = tf.cast(y_true, tf.int32)
        return tf.gather(tf.constant([1.0, 2.0, 3.0]), labels) * tf.reduce_mean(tf.square(y_pred), -1)


@component("outs/Labels")
class Labels(Source):
    """x (4,) and one of three labels, some of them `other`; or numbers as (), (1,) or (1, 1)."""

    def __init__(self, other: int = 255, shape: list[int] | None = None) -> None:
        self.other, self.shape = other, shape

    def dataset(self) -> tf.data.Dataset:
        random = np.random.RandomState(2)
        x = random.normal(size=(40, 4)).astype("float32")
        if self.shape is not None:
            return tf.data.Dataset.from_tensor_slices((x, x.sum(axis=1).reshape(40, *self.shape)))
        y = random.randint(0, 3, size=40)
        y[::5] = self.other
        return tf.data.Dataset.from_tensor_slices((x, y))


@component("outs/Whole")
class Whole(keras.losses.Loss):
    """Gaussian negative log-likelihood of outputs (mean, log of the variance)."""

    takes_all_outputs = True

    def call(self, y_true: Any, y_pred: Any) -> Any:
        mean, variance = y_pred
        return variance + tf.square(y_true - mean) / tf.exp(variance)
