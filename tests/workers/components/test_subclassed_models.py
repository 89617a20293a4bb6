"""Subclassed models and composite layers come back with their variables and dtypes."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.support.keras_reloads import known, reloaded


def test_a_subclassed_model_with_integer_input_and_named_arguments(tmp_path: Path) -> None:
    @known
    class Ranker(keras.Model):
        def __init__(self, size: int = 5, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.embedding = keras.layers.Embedding(10, size)
            self.score = keras.layers.Dense(1)
            self.dropout = keras.layers.Dropout(0.5)

        def call(self, items: Any, features: Any = None, training: bool = False) -> Any:
            x = tf.concat(
                [
                    tf.gather(self.embedding.embeddings, items) if self.embedding.built else self.embedding(items),
                    features["dense"],
                ],
                axis=-1,
            )
            return self.score(self.dropout(x, training=training))

    model = Ranker(4, name="ranker")
    items, dense = np.array([1, 2, 3], "int64"), np.ones((3, 2), "float32")
    expected = model(items, features={"dense": dense})
    back = reloaded(model, tmp_path)
    assert type(back) is Ranker
    np.testing.assert_array_equal(back(items, features={"dense": dense}), expected)


def test_a_subclassed_model_without_a_training_argument_that_is_called_with_one(tmp_path: Path) -> None:
    @known
    class Plain(keras.Model):
        def __init__(self, units: int, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.embed = keras.layers.Embedding(5, units)

        def call(self, ids: Any) -> Any:
            return self.embed(ids)

    model, ids = Plain(units=3), np.array([[1, 4]])
    model(ids, training=False)
    assert model.get_build_config() == {"call_specs": {"ids": {"shape": [None, 2], "dtype": "int64"}}}
    np.testing.assert_array_equal(reloaded(model, tmp_path)(ids), model(ids))


def test_a_subclassed_model_of_strings(tmp_path: Path) -> None:
    @known
    class Words(keras.Model):
        def __init__(self, words: list[str], **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.lookup = keras.layers.StringLookup(vocabulary=words)
            self.embedding = keras.layers.Embedding(len(words) + 1, 3)

        def call(self, x: Any) -> Any:
            return self.embedding(self.lookup(x))

    model = Words(["a", "b"])
    x = tf.constant([["a"], ["b"], ["c"]])
    expected = model(x)
    np.testing.assert_array_equal(reloaded(model, tmp_path)(x), expected)


def test_a_composite_layer_with_integer_input_inside_a_functional_model(tmp_path: Path) -> None:
    @known
    class Pool(keras.layers.Layer):
        def __init__(self, tokens: int, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.embedding = keras.layers.Embedding(tokens, 3)

        def call(self, x: Any) -> Any:
            return tf.reduce_mean(self.embedding(x), axis=1)

    inputs = keras.Input([None], dtype="int32")
    model = keras.Model(inputs, keras.layers.Dense(2)(Pool(7)(inputs)))
    x = np.array([[1, 2, 6], [0, 3, 4]], "int32")
    expected = model(x)
    np.testing.assert_array_equal(reloaded(model, tmp_path)(x), expected)


def test_a_subclassed_model_of_ragged_rows(tmp_path: Path) -> None:
    @known
    class Bag(keras.Model):
        def __init__(self, tokens: int, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.embedding = keras.layers.Embedding(tokens, 3)
            self.score = keras.layers.Dense(2)

        def call(self, x: Any) -> Any:
            return self.score(tf.reduce_mean(self.embedding(x), axis=1))

    model = Bag(7)
    x = tf.ragged.constant([[1, 2, 6], [3]], dtype=tf.int64)
    expected = model(x)
    assert model.get_build_config() == {"call_specs": {"x": {"shape": [None, None], "dtype": "int64", "ragged": True}}}
    np.testing.assert_array_equal(reloaded(model, tmp_path)(x), expected)


def test_a_functional_subclass_builds_itself(tmp_path: Path) -> None:
    @known
    class Tower(keras.Model):
        def __init__(self, units: int, **kwargs: Any) -> None:
            inputs = keras.Input([4])
            super().__init__(inputs=inputs, outputs=keras.layers.Dense(units)(inputs), **kwargs)
            self.units = units

    model = Tower(3)
    x = np.ones((2, 4), "float32")
    back = reloaded(model, tmp_path)
    assert type(back) is Tower
    np.testing.assert_array_equal(back(x), model(x))


def test_a_layer_in_a_sequential_model_under_mixed_precision(tmp_path: Path) -> None:
    @known
    class Scale(keras.layers.Layer):
        def __init__(self, start: float = 1.0, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.start = start

        def build(self, shape: Any) -> None:
            self.factor = self.add_weight(shape=(), initializer=keras.initializers.Constant(self.start))

        def call(self, x: Any) -> Any:
            return x * self.factor

    keras.config.set_dtype_policy("mixed_bfloat16")
    model = keras.Sequential([keras.Input([4]), keras.layers.Dense(3), Scale(2.0)])
    x = np.ones((2, 4), "float32")
    expected = model(x)
    keras.config.set_dtype_policy("float32")
    back = reloaded(model, tmp_path)
    assert back.layers[-1].dtype_policy.name == "mixed_bfloat16"
    np.testing.assert_array_equal(tf.cast(back(x), "float32"), tf.cast(expected, "float32"))


def test_layers_that_a_model_makes_without_a_dtype_keep_its_precision(tmp_path: Path) -> None:
    @known
    class Plain(keras.Model):
        def __init__(self, units: int = 3) -> None:
            super().__init__()
            self.first = keras.layers.Dense(units)

        def call(self, x: Any) -> Any:
            if not hasattr(self, "second"):
                self.second = keras.layers.Dense(2)
            return self.second(self.first(x))

    keras.config.set_dtype_policy("mixed_bfloat16")
    model, x = Plain(), np.ones((2, 4), "float32")
    outputs = model(x)
    model.save(tmp_path / "m.keras")
    keras.config.set_dtype_policy("float32")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert [again.first.compute_dtype, again.second.compute_dtype, again(x).dtype.name] == ["bfloat16"] * 3
    np.testing.assert_array_equal(again(x), outputs)
    assert keras.config.dtype_policy().name == "float32"
