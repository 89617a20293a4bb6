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
from tests.support.keras_reloads import known

serialize = keras.saving.serialize_keras_object


def again(instance: Any) -> Any:
    """The object after a round trip through JSON text; its config must be the same."""
    written = json.loads(json.dumps(serialize(instance)))
    back = keras.saving.deserialize_keras_object(copy.deepcopy(written))
    assert json.loads(json.dumps(serialize(back)))["config"] == written["config"]
    return back


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
