"""Admission on examples of every form: what was given is tried, what was invented may only warn; and constants that
inner layers make in `build`."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support.admitting import reason, warned

# ── values ───────────────────────────────────────────────────────────────────────────────────────


def test_a_transform_that_parses_text_is_tried_on_the_text_of_its_example() -> None:
    def price(x: Any, y: Any) -> Any:
        return tf.strings.to_number(x)[None], y

    def wrong(x: Any, y: Any) -> Any:
        return tf.strings.to_number(x)[None], y

    def invented(x: Any, y: Any) -> Any:
        return tf.strings.to_number(x)[None], y

    assert warned(price, example={"inputs": ("12.5", 3)}) == []
    assert "InvalidArgumentError: StringToNumberOp could not correctly convert string: twelve" in reason(
        wrong, example={"inputs": ("twelve", 3)}
    )
    (warning,) = warned(invented, example={"inputs": (((), "string"), ((), "int64"))})
    assert warning.startswith("on invented values: InvalidArgumentError: StringToNumberOp could not correctly convert")
    assert warning.endswith("Give real values in its example to have it tried on these")


def test_a_lookup_of_labels_is_admitted_with_a_warning_and_without_one_on_its_own_words() -> None:
    class Lookup:
        def __init__(self, vocabulary: list[str] | None = None) -> None:
            self.lookup = keras.layers.StringLookup(vocabulary=vocabulary or ["cat", "dog"], num_oov_indices=0)

        def __call__(self, x: Any, y: Any) -> Any:
            return x, self.lookup(y)

    class Known(Lookup):
        pass

    specs = (tf.TensorSpec([6, 6, 1], tf.float32), tf.TensorSpec([], tf.string))
    (warning,) = warned(Lookup, example={"inputs": specs})
    assert "all inputs should be in vocabulary" in warning
    assert warned(Known, example={"inputs": (np.zeros((6, 6, 1), np.float32), "cat")}) == []


def test_a_layer_that_checks_its_values_is_tried_on_real_ones() -> None:
    class Ages(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            tf.debugging.assert_greater(x, 1.0, "an age in years")
            return x / 100.0

    class Years(Ages):
        pass

    assert "an age in years" in warned(Ages, example={"inputs": (None, 1)})[0]
    assert warned(Years, example={"inputs": np.array([[30.0], [41.0]])}) == []


def test_numbers_of_an_example_have_the_precision_of_the_process_as_in_fit() -> None:
    class Same(keras.losses.Loss):
        def call(self, y_true: Any, y_pred: Any) -> Any:
            return tf.reduce_mean(tf.square(y_true - y_pred), -1)

    assert warned(Same, example={"y_true": np.eye(3), "y_pred": [[0.5, 0.1, 0.2]] * 3}) == []


# ── shapes ───────────────────────────────────────────────────────────────────────────────────────


class Joined(keras.layers.Layer):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.out = keras.layers.Dense(2)

    def call(self, x: Any) -> Any:
        first, second = x.values() if isinstance(x, dict) else x
        return self.out(first + tf.cast(second, tf.float32))


SHAPES: list[Any] = [
    {"a": (None, 3), "b": ((None, 3), "int32")},
    [(None, 3), keras.Input((3,), dtype="int32")],
    (np.ones((2, 3)), tf.TensorSpec([None, 3], tf.int64)),
    {"a": {"shape": (None, 3), "dtype": "float32"}, "b": keras.KerasTensor((None, 3), "int32")},
]


@pytest.mark.parametrize("inputs", SHAPES, ids=["dict", "list", "tuple", "symbols"])
def test_shapes_as_keras_people_write_them(inputs: Any, request: Any) -> None:
    layer = type(f"Joined{request.node.callspec.id}", (Joined,), {"__module__": __name__})
    assert warned(layer, example={"inputs": inputs}) == []


def test_a_shape_without_a_batch_dimension_is_named_where_the_layer_refuses_it() -> None:
    class Dense(keras.layers.Layer):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.out = keras.layers.Dense(2)

        def call(self, x: Any) -> Any:
            return self.out(x)

    told = reason(Dense, example={"inputs": (8,)})
    assert "expected min_ndim=2, found ndim=1" in told
    assert "taken as they are: (8,); a batch dimension is written as None, (None, 8)" in told


# ── constants of build ───────────────────────────────────────────────────────────────────────────


class Positions(keras.layers.Layer):
    """Its constants are made in build."""

    def build(self, shape: Any) -> None:
        self.positions = tf.range(shape[-1], dtype=tf.float32)
        self.doubled = keras.ops.convert_to_tensor(np.full(shape[-1], 2.0, np.float32))

    def call(self, x: Any) -> Any:
        return x * self.doubled + self.positions


class Words(keras.layers.Layer):
    """A table is made in build."""

    def build(self, shape: Any) -> None:
        keys = tf.constant([0, 1], tf.int64)
        self.table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, keys + 1), -1)

    def call(self, x: Any) -> Any:
        return tf.cast(self.table.lookup(tf.cast(x, tf.int64)), tf.float32)


INNER = {
    "given": lambda: keras.layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[1.0, 4.0, 9.0]),
    "scalar": lambda: keras.layers.Normalization(mean=0.5, variance=2.0, invert=True),
    "adapted": lambda: keras.layers.Normalization(),
    "positions": Positions,
    "table": Words,
    "spectral": lambda: keras.layers.SpectralNormalization(keras.layers.Dense(3)),
    "nested": lambda: keras.Sequential([keras.layers.Normalization(mean=0.0, variance=1.0), keras.layers.Dense(3)]),
    "bins": lambda: keras.layers.Discretization(bin_boundaries=[0.2, 0.5], output_mode="one_hot"),
    "rescaled": lambda: keras.layers.Rescaling([2.0, 2.0, 2.0]),
}


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("base", [keras.layers.Layer, keras.Model])
def test_an_inner_layer_keeps_the_constants_of_its_build(inner: str, base: type) -> None:
    class Holds(base):  # type: ignore[misc]
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.inner = INNER[inner]()
            self.out = keras.layers.Dense(2)

        def call(self, x: Any) -> Any:
            return self.out(self.inner(x))

    name = f"Holds{inner.title()}{base.__name__}"
    assert warned(type(name, (Holds,), {"__module__": __name__}), example={"inputs": (None, 3)}) == []
    assert "_lifts" not in vars(vars(keras.layers.Layer)["_maybe_build"]), "Keras is left as it was"
