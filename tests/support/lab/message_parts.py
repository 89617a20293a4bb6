"""Components with one mistake each, of the kinds whose own line never runs: Keras or the engine fails around them."""

from typing import Any

import keras
import tensorflow as tf

from tapeworks import Callback, Evaluator, Source, TrainingStep, component


@component("mistaken/Layer")
class UninitialisedLayer(keras.layers.Layer):
    def __init__(self, units: int = 3) -> None:
        self.dense = keras.layers.Dense(units)

    def call(self, x: Any) -> Any:
        return self.dense(x)


@component("mistaken/Model")
class UninitialisedModel(keras.Model):
    def __init__(self, units: int = 3) -> None:
        self.units = units

    def call(self, x: Any) -> Any:
        return x


@component("mistaken/Metric")
class UninitialisedMetric(keras.metrics.Metric):
    def __init__(self, rate: float = 1.0) -> None:
        self.rate = rate

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None: ...

    def result(self) -> Any:
        return tf.constant(1.0)


@component("mistaken/Loss")
class UninitialisedLoss(keras.losses.Loss):
    def __init__(self, rate: float = 1.0) -> None:
        self.rate = rate

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self.rate * tf.reduce_mean(y_pred**2, -1)


@component("mistaken/Optimizer")
class UninitialisedOptimizer(keras.optimizers.SGD):
    def __init__(self, rate: float = 1.0) -> None:
        self.rate = rate


class _Helper(keras.layers.Layer):
    def __init__(self, units: int) -> None:
        self.units = units

    def call(self, x: Any) -> Any:
        return x


@component("mistaken/Outer")
class Outer(keras.layers.Layer):
    """Its own helper is the one that is not initialised."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.helper = _Helper(3)

    def call(self, x: Any) -> Any:
        return self.helper(x)


@component("mistaken/Worst")
class Worst(keras.metrics.Metric):
    """Takes no sample_weight."""

    def __init__(self, name: str = "worst", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.value = self.add_weight(shape=(), initializer="zeros", name="value")

    def update_state(self, y_true: Any, y_pred: Any) -> None:  # type: ignore[override]
        self.value.assign(tf.maximum(self.value, tf.reduce_max(tf.abs(y_pred))))

    def result(self) -> Any:
        return self.value


@component("mistaken/NoResult")
class NoResult(keras.metrics.Metric):
    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None: ...


@component("mistaken/one_argument", kind="loss")
def one_argument(y_pred: Any) -> Any:
    return y_pred


@component("mistaken/NoCall")
class NoCall(keras.layers.Layer): ...


@component("mistaken/Untimely")
class Untimely(Callback):
    def on_epoch_end(self, epoch: int, logs: Any) -> None: ...  # type: ignore[override]


@component("mistaken/Misfit")
class Misfit(Evaluator):
    """Calls the model with what it cannot take: Keras answers in bold, with a list of arguments."""

    def evaluate(self, dataset: Any, run: Any) -> dict[str, float]:
        return {"value": float(run.models["model"](tf.zeros([2, 9])))}


@component("mistaken/shapeless")
def shapeless(x: Any, y: Any) -> Any:
    return tf.numpy_function(lambda value: value, [x], tf.float32), y


@component("mistaken/Lost")
class Lost(Source):
    """Its Python generator fails in the middle."""

    def dataset(self) -> Any:
        def elements() -> Any:
            yield [0.0] * 4, 0
            raise RuntimeError("the connection is lost")

        signature = (tf.TensorSpec([4]), tf.TensorSpec([], tf.int64))
        return tf.data.Dataset.from_generator(elements, output_signature=signature)


@component("mistaken/Wide")
class Wide(keras.layers.Layer):
    """Multiplies by a matrix of another size."""

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(7, 3), name="kernel")

    def call(self, x: Any) -> Any:
        return tf.matmul(x, self.kernel)


@component("mistaken/Mixing")
class Mixing(TrainingStep):
    """Right for x of the job's own precision; nothing in it casts."""

    def train_step(self, batch: Any, run: Any) -> dict[str, Any]:
        x, _ = batch
        with tf.GradientTape() as tape:
            outputs = run.models["model"](tf.cast(x, tf.float32), training=True)
            loss = tf.reduce_mean((outputs - tf.reduce_sum(x, -1, keepdims=True)) ** 2)
        run.minimize("model", loss, tape)
        return {"loss": loss}


@component("mistaken/Wide4")
class Wide4(keras.layers.Layer):
    """Multiplies by a matrix, and casts nothing."""

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(4, 3), name="kernel")

    def call(self, x: Any) -> Any:
        return tf.matmul(x, self.kernel)
