"""What a config loses is found with values other than the defaults; metrics that Keras cannot call are refused."""

from typing import Any, Literal

import keras
import pytest
import tensorflow as tf

from tests.support.admitting import reason, warned

VECTORS = {"inputs": (None, 4)}


class Kept(keras.layers.Layer):
    """A layer whose own get_config holds everything; the others forget an argument of it."""

    forgets: str | None = None

    def __init__(
        self,
        units: int = 3,
        rate: float = 0.5,
        scale: bool = True,
        mode: Literal["sum", "mean"] = "sum",
        activation: str = "relu",
        hidden: list[int] | None = None,
        window: tuple[int, int] = (1, 2),
        limit: float | None = None,
        regularizer: keras.regularizers.Regularizer | None = None,
        untyped: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.units, self.rate, self.scale, self.mode = units, rate, scale, mode
        self.activation, self.hidden, self.window, self.limit = activation, hidden, window, limit
        self.regularizer, self.untyped = keras.regularizers.get(regularizer), untyped
        self.dense = keras.layers.Dense(units, activation=activation)

    def call(self, x: Any) -> Any:
        return self.dense(x)

    def get_config(self) -> dict[str, Any]:
        names = ("units", "rate", "scale", "mode", "activation", "hidden", "window", "limit", "untyped")
        config = {**super().get_config(), **{name: getattr(self, name) for name in names}}
        config["regularizer"] = keras.regularizers.serialize(self.regularizer) if self.regularizer else None
        return {name: value for name, value in config.items() if name != self.forgets}


def test_a_config_that_holds_everything_is_admitted() -> None:
    assert warned(type("Whole", (Kept,), {"__module__": __name__}), example=VECTORS) == []


FORGOTTEN = ["units", "rate", "scale", "mode", "activation", "hidden", "window", "limit", "regularizer"]


@pytest.mark.parametrize("argument", FORGOTTEN)
def test_an_argument_that_the_config_loses_is_named(argument: str) -> None:
    layer = type(f"Forgets{argument}", (Kept,), {"forgets": argument, "__module__": __name__})
    told = reason(layer, example=VECTORS)
    assert told.startswith(f"its config loses the argument '{argument}': with {argument}=")
    assert f'Give get_config an entry "{argument}", or leave get_config out' in told


def test_an_argument_that_the_config_holds_as_it_was_not_given_is_found() -> None:
    class Constant(keras.losses.Loss):
        def __init__(self, delta: float = 1.0, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.delta = delta

        def call(self, y_true: Any, y_pred: Any) -> Any:
            return self.delta * tf.reduce_mean(tf.square(y_true - y_pred), -1)

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "delta": 1.0}

    class Doubles(Constant):
        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "delta": 2 * self.delta}

    assert "its config loses the argument 'delta'" in reason(Constant)
    assert "its config changes in a reload: delta (1.0 became 2.0) differs" in reason(Doubles)


def test_what_keras_normalises_is_not_lost_and_what_the_constructor_refuses_says_nothing() -> None:
    class Normalised(keras.layers.Layer):
        def __init__(self, size: Any = 3, kind: str = "a", init: Any = "ones", **kwargs: Any) -> None:
            super().__init__(**kwargs)
            if kind not in ("a", "b"):
                raise ValueError(f"kind is {kind}")
            self.size = (size, size) if isinstance(size, int) else tuple(size)
            self.kind, self.init = kind, keras.initializers.get(init)

        def call(self, x: Any) -> Any:
            return x

        def get_config(self) -> dict[str, Any]:
            init = keras.initializers.serialize(self.init)
            return {**super().get_config(), "size": self.size, "kind": self.kind, "init": init}

    class Silent(Normalised):
        def get_config(self) -> dict[str, Any]:
            return {name: value for name, value in super().get_config().items() if name != "kind"}

    assert warned(Normalised, example=VECTORS) == []
    assert warned(Silent, example=VECTORS) == [
        "get_config has no 'kind': a value other than the default is lost when a model is loaded"
    ]


def test_values_that_a_constructor_takes_for_one_are_not_lost() -> None:
    class Clamped(keras.layers.Layer):
        def __init__(self, size: int = 4, mode: str = "plain", **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.size, self.causal = max(size, 64), mode == "causal"

        def call(self, x: Any) -> Any:
            return x

        def get_config(self) -> dict[str, Any]:
            mode = "causal" if self.causal else "plain"
            return {**super().get_config(), "size": self.size, "mode": mode}

    assert warned(Clamped, example=VECTORS) == []


def test_following_the_hint_admits_the_component() -> None:
    class Scaled(keras.layers.Layer):
        def __init__(self, factor: float = 3.0, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.factor = factor

        def call(self, x: Any) -> Any:
            return x * self.factor

    def forgetful(self: Any) -> dict[str, Any]:
        return keras.layers.Layer.get_config(self)

    def complete(self: Any) -> dict[str, Any]:
        return {**keras.layers.Layer.get_config(self), "factor": self.factor}

    def named(name: str, **own: Any) -> type:
        return type(name, (Scaled,), {"__module__": __name__, **own})

    assert 'Give get_config an entry "factor"' in reason(named("Without", get_config=forgetful), example=VECTORS)
    assert warned(named("With", get_config=complete), example=VECTORS) == []
    assert warned(named("LeftOut"), example=VECTORS) == []


# ── metrics ──────────────────────────────────────────────────────────────────────────────────────


def test_a_metric_that_keras_cannot_call_is_refused_and_the_hint_helps() -> None:
    class Worst(keras.metrics.Metric):
        def __init__(self, name: str = "worst", **kwargs: Any) -> None:
            super().__init__(name=name, **kwargs)
            self.value = self.add_weight(shape=(), initializer="zeros", name="value")

        def update_state(self, y_true: Any, y_pred: Any) -> None:
            self.value.assign(tf.maximum(self.value, tf.reduce_max(tf.abs(y_true - y_pred))))

        def result(self) -> Any:
            return self.value

    class Right(Worst):
        def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:  # type: ignore[override]
            super().update_state(y_true, y_pred)

    class OfAStep(Worst):
        def update_state(self, value: Any) -> None:  # type: ignore[override]
            self.value.assign(value)

    example = {"y_true": (None, 1), "y_pred": (None, 1)}
    told = reason(Worst, example=example)
    assert "takes no sample_weight, which Keras passes to every metric" in told
    assert "write def update_state(self, y_true, y_pred, sample_weight=None)" in told
    assert f"({__file__}, line " in told
    assert warned(Right, example=example) == []
    assert "a step may use this metric, but it cannot stand in `metrics`" in warned(OfAStep)[0]
