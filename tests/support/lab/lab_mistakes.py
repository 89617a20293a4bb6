"""Steps of a user who meets the traps of tracing, each by its name, and who does some things right."""

from typing import Any

import keras
import tensorflow as tf

from tapeworks import TrainingStep, component


@component("lab/Trapped")
class Trapped(TrainingStep):
    """Trains as it should, and does one thing more."""

    def __init__(self, trap: str) -> None:
        self.trap = trap
        self.late: Any = None

    def train_step(self, batch: Any, run: Any) -> dict[str, Any]:
        with tf.GradientTape() as tape:
            outputs = run.models["model"](batch[0], training=True)
            loss = tf.reduce_mean(outputs**2) + getattr(self, self.trap)(batch[0], run)
        run.minimize("model", loss, tape)
        return {"loss": loss}

    def validation_step(self, batch: Any, run: Any) -> dict[str, Any]:
        return {"loss": tf.reduce_mean(run.models["model"](batch[0], training=False) ** 2)}

    @tf.function
    def scaled(self, x: Any, factor: Any) -> Any:
        """A function of the user's own, traced for each Python value and each shape."""
        return x * tf.cast(factor, x.dtype)

    def python_print(self, x: Any, run: Any) -> Any:
        print("the batch is", x.shape)  # noqa: T201
        return 0.0

    def graph_print(self, x: Any, run: Any) -> Any:
        tf.print("in step", run.step)
        return 0.0

    def python_values(self, x: Any, run: Any) -> Any:
        return sum(tf.reduce_mean(self.scaled(x, factor)) for factor in (1, 2, 3))

    def shapes(self, x: Any, run: Any) -> Any:
        return tf.reduce_mean(self.scaled(x[:, :1], 1)) + tf.reduce_mean(self.scaled(x[:, :2], 1))

    def late_variable(self, x: Any, run: Any) -> Any:
        if self.late is None:
            self.late = tf.Variable(0.0, name="late")
        return self.late * 0.0

    def control_flow(self, x: Any, run: Any) -> Any:
        total, power = tf.constant(0.0), tf.constant(1.0)
        for row in x:  # over the batch, whose size no trace knows
            total += tf.reduce_sum(row)
        while power < 100.0:
            power *= 3.0
        if total > power:
            total = power
        return 0.0 * total + power - 243.0

    def timestamp(self, x: Any, run: Any) -> Any:
        return 0.0 * tf.cast(tf.timestamp(), tf.float32)

    def unseeded_generator(self, x: Any, run: Any) -> Any:
        return 0.0 * tf.random.get_global_generator().normal([])

    def fractional_max_pool(self, x: Any, run: Any) -> Any:
        images = tf.reshape(x, [-1, 2, 2, 1])
        return tf.reduce_mean(tf.nn.fractional_max_pool(images, [1.0, 1.4, 1.4, 1.0])[0])


@component("lab/Slowly", kind="transform")
def slowly(x: Any, y: Any) -> Any:
    """Works long on each element."""
    for _ in range(150):
        x = tf.linalg.matmul(tf.tile(x[None], [64, 1]), tf.eye(4))[0]
    return x, y


@component("lab/Chatty")
class Chatty(keras.layers.Layer):
    """Prints its input's shape."""

    def call(self, x: Any) -> Any:
        print("called with", x.shape)  # noqa: T201
        return x
