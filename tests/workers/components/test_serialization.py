"""Custom Keras objects come back with their arguments, their variables and their dtypes."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tapeworks.components import serialization
from tapeworks_workers.engine.export.component_sources import STAND_INS

serialize = keras.saving.serialize_keras_object


def known(cls: type) -> type:
    return serialization.register(f"trial/{cls.__name__}", cls)


def again(instance: Any) -> Any:
    """The object after a round trip through JSON text; its config must be the same."""
    written = json.loads(json.dumps(serialize(instance)))
    back = keras.saving.deserialize_keras_object(copy.deepcopy(written))
    assert json.loads(json.dumps(serialize(back)))["config"] == written["config"]
    return back


def reloaded(model: keras.Model, folder: Path) -> keras.Model:
    model.save(folder / "model.keras")
    return keras.models.load_model(folder / "model.keras")


def test_names_become_keras_names() -> None:
    assert serialization.keras_name("acme/Mish") == ("acme", "Mish")
    assert serialization.keras_name("focal") == ("tapeworks", "focal")


# ── arguments ────────────────────────────────────────────────────────────────────────────────────


def test_a_loss_keeps_its_arguments_and_keras_own() -> None:
    @known
    class Margin(keras.losses.Loss):
        def __init__(self, margin: float = 1.0, inner: keras.losses.Loss | None = None, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.saved_elsewhere = margin
            self.inner = inner

    loss = Margin(
        0.3, inner=keras.losses.BinaryCrossentropy(label_smoothing=0.25), name="m", reduction="sum", dtype="float64"
    )
    back = again(loss)
    assert (back.saved_elsewhere, back.inner.label_smoothing) == (0.3, 0.25)
    assert (back.name, back.reduction, back.dtype) == ("m", "sum", "float64")


def test_keras_objects_in_lists_and_dicts_come_back() -> None:
    @known
    class Nest(keras.layers.Layer):
        def __init__(
            self, layers: list[Any], named: dict[str, Any], shape: tuple[int, ...] = (1,), **kwargs: Any
        ) -> None:
            super().__init__(**kwargs)
            self.layers, self.named, self.shape = layers, named, shape

        def call(self, x: Any) -> Any:
            for layer in self.layers:
                x = layer(x)
            return self.named["last"]["layer"](x)

    nest = Nest([keras.layers.Dense(3), keras.layers.ReLU()], {"last": {"layer": keras.layers.Dense(2)}}, (2, 3))
    x = np.ones((2, 4), "float32")
    expected = nest(x)
    back = again(nest)
    assert [type(one).__name__ for one in back.layers] == ["Dense", "ReLU"]
    assert back.shape == (2, 3)
    assert [one.shape for one in back.weights] == [one.shape for one in nest.weights], "built as it was"
    back.set_weights(nest.get_weights())
    np.testing.assert_array_equal(back(x), expected)


def test_a_later_change_to_an_argument_does_not_reach_the_config() -> None:
    @known
    class Sizes(keras.regularizers.Regularizer):
        def __init__(self, sizes: list[int]) -> None:
            self.sizes = sizes

    sizes = [1, 2]
    regularizer = Sizes(sizes)
    sizes.append(3)
    assert regularizer.get_config() == {"sizes": [1, 2]}


def test_a_layer_without_kwargs_keeps_name_dtype_and_trainable() -> None:
    @known
    class Bare(keras.layers.Layer):
        def __init__(self, units: int) -> None:
            super().__init__()
            self.units = units

    layer = Bare(3)
    layer.name, layer.trainable = "first", False
    layer.dtype_policy = keras.DTypePolicy("mixed_bfloat16")
    back = again(layer)
    assert (back.units, back.name, back.trainable, back.dtype_policy.name) == (3, "first", False, "mixed_bfloat16")


def test_what_init_does_not_take_is_told() -> None:
    @known
    class Small(keras.layers.Layer):
        def __init__(self) -> None:
            super().__init__()

    with pytest.raises(TypeError, match=r"Small.__init__ has no argument 'units'"):
        Small.from_config({"units": 3})


def test_a_subclass_of_a_concrete_keras_class_keeps_both() -> None:
    @known
    class Warm(keras.layers.Dense):
        def __init__(self, units: int, heat: float = 1.0, **kwargs: Any) -> None:
            super().__init__(units, **kwargs)
            self.heat = heat

    back = again(Warm(3, heat=2.0, use_bias=False, kernel_regularizer=keras.regularizers.L2(0.5)))
    assert (back.units, back.heat, back.use_bias, float(back.kernel_regularizer.l2)) == (3, 2.0, False, 0.5)


def test_a_registered_base_and_its_registered_subclass() -> None:
    @known
    class Base(keras.layers.Layer):
        def __init__(self, a: int = 1, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.a = a

    @known
    class Derived(Base):
        def __init__(self, b: int, **kwargs: Any) -> None:
            super().__init__(a=b + 1, **kwargs)
            self.b = b

    back = again(Derived(4))
    assert (type(back), back.a, back.b) == (Derived, 5, 4)


def test_an_authors_own_methods_are_kept() -> None:
    @known
    class Own(keras.layers.Layer):
        def __init__(self, units: int = 3, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.units = units

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "units": self.units, "version": 2}

        @classmethod
        def from_config(cls, config: dict[str, Any]) -> Any:
            assert config.pop("version") == 2
            return cls(**config)

    assert again(Own(7)).units == 7


def test_an_optimizer_keeps_its_schedule_and_its_present_rate() -> None:
    @known
    class Plain(keras.optimizers.Optimizer):
        def __init__(self, learning_rate: Any = 0.01, momentum: float = 0.0, **kwargs: Any) -> None:
            super().__init__(learning_rate=learning_rate, **kwargs)
            self.momentum = momentum

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            variable.assign_sub(learning_rate * gradient)

    optimizer = Plain(0.1, momentum=0.9, clipnorm=1.0)
    optimizer.learning_rate = 0.05
    back = again(optimizer)
    assert (back.momentum, back.clipnorm) == (0.9, 1.0)
    assert float(back.learning_rate) == pytest.approx(0.05)
    scheduled = again(Plain(keras.optimizers.schedules.CosineDecay(0.1, 10)))
    assert float(scheduled._learning_rate(10)) == 0.0


def test_schedules_constraints_initializers_and_metrics() -> None:
    @known
    class Steps(keras.optimizers.schedules.LearningRateSchedule):
        def __init__(self, rates: list[float]) -> None:
            self.rates = rates

        def __call__(self, step: Any) -> Any:
            return tf.gather(self.rates, tf.minimum(step, len(self.rates) - 1))

    @known
    class Cap(keras.constraints.Constraint):
        def __init__(self, cap: float = 1.0) -> None:
            self.cap = cap

        def __call__(self, w: Any) -> Any:
            return tf.minimum(w, self.cap)

    @known
    class Fill(keras.initializers.Initializer):
        def __init__(self, value: float = 1.0) -> None:
            self.value = value

        def __call__(self, shape: Any, dtype: Any = None) -> Any:
            return tf.fill(shape, tf.cast(self.value, dtype or "float32"))

    @known
    class Count(keras.metrics.Metric):
        def __init__(self, weight: float = 1.0, name: str = "count", **kwargs: Any) -> None:
            super().__init__(name=name, **kwargs)
            self.weight = weight

    assert again(Steps([0.1, 0.2])).rates == [0.1, 0.2]
    assert again(Cap(0.5)).cap == 0.5
    assert again(Fill(2.5)).value == 2.5
    assert (again(Count(3.0)).weight, again(Count(name="other")).name) == (3.0, "other")
    layer = again(keras.layers.Dense(2, kernel_initializer=Fill(2.0), kernel_constraint=Cap(0.5)))
    assert (layer.kernel_initializer.value, layer.kernel_constraint.cap) == (2.0, 0.5)


# ── subclassed models ────────────────────────────────────────────────────────────────────────────


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


def test_deriving_twice_changes_nothing() -> None:
    @known
    class Twice(keras.layers.Layer):
        def __init__(self, n: int = 1, **kwargs: Any) -> None:
            super().__init__(**kwargs)

    init, call = Twice.__init__, Twice.__call__
    serialization.derive(Twice)
    assert (Twice.__init__, Twice.__call__) == (init, call)
    assert again(Twice(4)).get_config()["n"] == 4


def test_the_file_stands_alone(tmp_path: Path) -> None:
    """It goes into bundles with two files beside it, where Tapeworks is not."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import component_serialization as s; print(s.keras_name('a/B'))"
    )
    for name, module in STAND_INS.items():
        (tmp_path / name).write_text(Path(str(module.__file__)).read_text())
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.stdout == "('a', 'B')\n", done.stderr
