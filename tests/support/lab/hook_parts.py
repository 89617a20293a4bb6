"""Models, optimizers and steps that override what Keras' `fit` calls."""

from typing import Any

import keras
import tensorflow as tf

from tapeworks import TrainingStep, component


class Net(keras.Model):
    """One dense layer with three outputs."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.out = keras.layers.Dense(3, kernel_initializer="ones", kernel_regularizer=keras.regularizers.L2(0.01))

    def call(self, x: Any) -> Any:
        return self.out(x)


@component("hooks/OwnLoss")
class OwnLoss(Net):
    """A loss in the place of the compiled one, without the argument `training`, which Keras takes too."""

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None) -> Any:
        return tf.reduce_mean(tf.abs(y_pred - tf.cast(y, tf.float32)[:, None]) ** 3)


@component("hooks/MoreLoss")
class MoreLoss(Net):
    """The compiled loss and a term of its own that counts the optimizer's steps; a tracker that fit resets."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tracker = keras.metrics.Mean(name="term")

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        term = tf.reduce_mean(y_pred**2) * tf.cast(self.optimizer.iterations + 1, tf.float32) * (0.1 if training else 1)
        self.tracker.update_state(term)
        return super().compute_loss(x, y, y_pred, sample_weight) + term


@component("hooks/OwnMetrics")
class OwnMetrics(Net):
    """The example of Keras' documentation: the compiled metrics, and one of its own fed by hand."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.largest = keras.metrics.Mean(name="largest")

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        results = super().compute_metrics(x, y, y_pred, sample_weight)
        self.largest.update_state(tf.reduce_max(y_pred, -1), sample_weight)
        results["largest"] = self.largest.result()
        return results


@component("hooks/LastBatch")
class LastBatch(Net):
    """Reports what no metric holds: fit shows that of the last batch."""

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        return {**super().compute_metrics(x, y, y_pred, sample_weight), "last": tf.reduce_mean(y_pred)}


@component("hooks/OnlyTracker")
class OnlyTracker(Net):
    """The example of Keras' compute_loss: `metrics` and `reset_metrics` are overridden, the loss is the tracker's."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.loss_tracker = keras.metrics.Mean(name="loss")

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        loss = keras.ops.mean((y_pred - keras.ops.cast(y, "float32")[:, None]) ** 2) + keras.ops.sum(self.losses)
        self.loss_tracker.update_state(loss)
        return loss

    def reset_metrics(self) -> None:
        self.loss_tracker.reset_state()

    @property
    def metrics(self) -> Any:
        return [self.loss_tracker]


@component("hooks/NeverReset")
class NeverReset(OnlyTracker):
    """Its tracker counts on from epoch to epoch, as its author has it."""

    def reset_metrics(self) -> None:
        pass


@component("hooks/NamedResults")
class NamedResults(Net):
    """Names its results in a way of its own; the compiled metric is read too."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inner = Watching()
        self.f1 = keras.metrics.F1Score(average="macro", name="f1")

    def call(self, x: Any) -> Any:
        return super().call(self.inner(x))

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        self.f1.update_state(tf.one_hot(y, 3), tf.nn.softmax(y_pred))
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def get_metrics_result(self) -> Any:
        return {**super().get_metrics_result(), "doubled": 2 * self.inner.seen.result()}


class Watching(keras.layers.Layer):
    """Passes its input on and keeps the mean of it in a metric."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seen = keras.metrics.Mean(name="seen")

    def call(self, x: Any) -> Any:
        self.seen.update_state(x)
        return x


@component("hooks/Watched")
class Watched(Net):
    """Overrides nothing: a layer of its holds a metric, which fit reports."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inner = Watching()

    def call(self, x: Any) -> Any:
        return super().call(self.inner(x))


@component("hooks/patched", kind="model")
def patched() -> keras.Model:
    """A functional model whose compute_loss is set on the object."""
    x = keras.Input((4,))
    model = keras.Model(x, keras.layers.Dense(3, kernel_initializer="ones")(x))
    model.compute_loss = lambda x, y, y_pred, sample_weight, training=True: tf.reduce_mean(y_pred**2)
    return model


@component("hooks/UnitNorm")
class UnitNorm(keras.optimizers.SGD):
    """Normalises all gradients together in the method that fit calls."""

    def __init__(self, learning_rate: float = 0.01, **kwargs: Any) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)

    def apply_gradients(self, grads_and_vars: Any) -> Any:
        gradients, variables = zip(*grads_and_vars, strict=True)
        norm = tf.linalg.global_norm([tf.convert_to_tensor(one) for one in gradients])
        return super().apply_gradients([(one / norm, v) for one, v in zip(gradients, variables, strict=True)])


@component("hooks/Scaled")
class Scaled(keras.optimizers.SGD):
    """Scales the loss and does not take it back: the gradients are four times as large."""

    def __init__(self, learning_rate: float = 0.01, **kwargs: Any) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)

    def scale_loss(self, loss: Any) -> Any:
        return 4.0 * loss


@component("hooks/Halved")
class Halved(keras.optimizers.SGD):
    """Halves the weights when training is over."""

    def __init__(self, learning_rate: float = 0.01, **kwargs: Any) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)

    def finalize_variable_values(self, var_list: Any) -> None:
        for variable in var_list:
            variable.assign(variable * 0.5)


@component("hooks/Tracked")
class Tracked(TrainingStep):
    """The loop of the Keras guides: a Mean, updated with each batch, whose result is returned; through a function."""

    losses = ("model",)

    def build(self, run: Any) -> None:
        self.trackers = {"loss": keras.metrics.Mean(name="loss")}

    @tf.function
    def track(self, loss: Any) -> Any:
        self.trackers["loss"].update_state(loss)
        return self.trackers["loss"].result(), loss + 0.0

    def train_step(self, batch: Any, run: Any) -> Any:
        x, y = batch
        with tf.GradientTape() as tape:
            loss = run.losses["model"](y, run.models["model"](x, training=True))
        run.minimize("model", loss, tape)
        return self.scalars(loss)

    def validation_step(self, batch: Any, run: Any) -> Any:
        x, y = batch
        return self.scalars(run.losses["model"](y, run.models["model"](x, training=False)))

    def scalars(self, loss: Any) -> Any:
        result, passed = self.track(loss)
        return {"loss": result, "root": tf.sqrt(result), "mean": loss, "passed": passed}


@component("hooks/Compiled", example={"inputs": tf.TensorSpec([None, 4], tf.float32)})
class Compiled(keras.Model):
    """Compiles itself when it is made, as models of libraries do: what it is compiled with is not the job's."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.out = keras.layers.Dense(3)
        self.largest = keras.metrics.Mean(name="largest")
        self.compile("adam", "mse", metrics=["mae"])

    def call(self, x: Any) -> Any:
        outputs = self.out(x)
        self.largest.update_state(keras.ops.max(outputs))
        return outputs
